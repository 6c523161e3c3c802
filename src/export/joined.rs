//! Finds the input row of each result: by id, or by request hash if the id was generated from it.

use std::sync::Arc;

use serde::Deserialize;

use super::ExportReport;
use super::results::ResultFiles;
use crate::base::{Context, Error, ErrorKind};
use crate::bulk::input::{Hooks, InputFile, Matching, hash_prefix, is_automatic};
use crate::bulk::prompts::{PromptSource, Prompts};
use crate::llm::params::ResponseFormat;

/// A result line of the table, and its input row.
pub(super) struct RowOf {
    /// The position of the line in all result files together.
    pub(super) line: u64,
    /// The index of the row in the input, or `NO_ROW`.
    row: u64,
    /// The number of the answer, if the row has several.
    sample: u16,
    asked: Asked,
    /// A successful result without a row, whose id has the format of generated ids, while the input has items with
    /// generated ids.
    is_unfound_answer: bool,
    /// It answers a request that no row of the input has any more.
    pub(super) superseded: bool,
}

const NO_ROW: u64 = u64::MAX;

/// Whether the result answers the request of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// There is no row, or the row makes no prompt.
    Unknown,
    SomethingElse,
    Same,
}

impl RowOf {
    /// A line whose row was not searched yet.
    pub(super) fn line(line: u64) -> Self {
        Self {
            line,
            row: NO_ROW,
            sample: 0,
            asked: Asked::Unknown,
            is_unfound_answer: false,
            superseded: false,
        }
    }

    /// Sorts in the order of the input; lines without a row come last.
    pub(super) fn place_key(&self) -> (u64, u16, u64) {
        (self.row, self.sample, self.line)
    }

    pub(super) fn row(&self) -> Option<u64> {
        (self.row != NO_ROW).then_some(self.row)
    }
}

/// An input that was read and indexed.
pub(super) struct Joined {
    input: Arc<InputFile>,
    items: Matching,
    /// The response format with which the input was read.
    format: Option<ResponseFormat>,
}

/// The fields of a result line that identify its request.
#[derive(Deserialize)]
struct ResultRequest {
    id: String,
    success: bool,
    request_hash: Option<String>,
}

impl Joined {
    pub(super) fn new(rows: Prompts) -> Result<Self, Error> {
        let format = rows.response_format().cloned();
        match rows.source {
            PromptSource::File(file) => Ok(Self {
                input: file.input,
                items: file.items,
                format,
            }),
            PromptSource::Stream { name, .. } => Err(Error::new(
                ErrorKind::Invalid,
                format!("{name}: rows are found by their ids, so they must be in a file"),
            )),
        }
    }

    /// Finds the rows of the lines. A generated id depends on whether the run requested JSON, which the user of
    /// `export` need not remember, so the search tries each of these formats.
    pub(super) fn find_rows(
        self,
        files: &ResultFiles,
        lines: &mut [RowOf],
        formats: impl IntoIterator<Item = Option<ResponseFormat>>,
        ctx: &Context,
        report: &mut ExportReport,
    ) -> Result<Arc<InputFile>, Error> {
        let Self {
            input,
            items,
            format,
        } = self;
        let records = items.records();
        let mut tried = vec![format];
        let mut left = search(&items, files, lines, ctx)?;
        drop(items);
        for format in formats {
            if left.found_all(lines) {
                break;
            }
            if !tried.contains(&format) {
                let hooks = Hooks {
                    classify: &|_| 0,
                    cancelled: &|| ctx.is_cancelled(),
                    progress: &|_| {},
                };
                let items = input.check_with_format(format.clone(), hooks)?;
                left = search(&items, files, lines, ctx)?;
                tried.push(format);
            }
        }
        let count = |asked| lines.iter().filter(|of| of.asked == asked).count() as u64;
        // If no request matches, the input was not read with the settings of the run.
        if count(Asked::Same) > 0 {
            report.changed = count(Asked::SomethingElse);
            let is_old = |of: &RowOf| of.is_unfound_answer || of.asked == Asked::SomethingElse;
            let gone = lines.iter_mut().filter(|of| is_old(of));
            gone.for_each(|of| of.superseded = true);
        }
        let mut rows: Vec<u64> = lines.iter().filter_map(RowOf::row).collect();
        rows.sort_unstable();
        rows.dedup();
        report.without_result = records.saturating_sub(rows.len() as u64);
        Ok(input)
    }
}

/// What a search of the input did not find.
struct Left {
    /// The input has items with generated ids, and a line with such an id has no row.
    misses_automatic: bool,
}

impl Left {
    /// True if reading the input with another format would find nothing more.
    fn found_all(&self, lines: &[RowOf]) -> bool {
        let differs = lines.iter().any(|of| of.asked == Asked::SomethingElse);
        let none_is_same = lines.iter().all(|of| of.asked != Asked::Same);
        let is_another = none_is_same && differs;
        !(self.misses_automatic || is_another)
    }
}

/// Searches the rows of all lines that are not known to answer the same request.
fn search(
    items: &Matching,
    files: &ResultFiles,
    lines: &mut [RowOf],
    ctx: &Context,
) -> Result<Left, Error> {
    let has_automatic = items.has_automatic_ids();
    let mut misses_automatic = false;
    let is_open = |of: &&RowOf| of.asked != Asked::Same;
    let places: Vec<u64> = lines.iter().filter(is_open).map(|of| of.line).collect();
    let mut open = lines.iter_mut().filter(|of| of.asked != Asked::Same);
    files.read(places.into_iter(), ctx, &mut |line, _| {
        let (Some(of), Ok(result)) = (open.next(), serde_json::from_str::<ResultRequest>(line))
        else {
            return Ok(());
        };
        let ResultRequest {
            id,
            success,
            request_hash,
        } = result;
        let prefix = request_hash.as_deref().and_then(hash_prefix);
        match items.record_of(&id, prefix.unwrap_or(0)) {
            Some(record) => {
                of.is_unfound_answer = false;
                of.row = record.offset;
                of.sample = record.sample;
                of.asked = match (record.is_same, record.makes_prompt) {
                    (true, _) => Asked::Same,
                    (false, true) => Asked::SomethingElse,
                    (false, false) => of.asked,
                };
            }
            None => {
                let is_automatic = has_automatic && is_automatic(&id);
                of.is_unfound_answer = success && is_automatic;
                misses_automatic |= is_automatic;
            }
        }
        Ok(())
    })?;
    Ok(Left { misses_automatic })
}
