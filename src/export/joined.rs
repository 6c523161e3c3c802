//! Rows of an input, found by the ids of results.

use std::sync::Arc;

use serde::Deserialize;

use super::ExportReport;
use super::results::ResultFiles;
use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::bulk::input::{EarlierResult, InputFile, Match, Matching, hash_prefix, parse_sample};
use crate::bulk::prompts::{PromptSource, Prompts};

/// An input that was read and indexed.
pub(super) struct Joined {
    input: Arc<InputFile>,
    items: Matching,
}

/// What a result line says of the request that it answers.
#[derive(Deserialize)]
struct Request {
    id: String,
    #[serde(default)]
    request_hash: Option<String>,
}

impl Joined {
    pub(super) fn new(rows: Prompts) -> Result<Self, Error> {
        match rows.source {
            PromptSource::File(file) => Ok(Self {
                input: file.input,
                items: file.items,
            }),
            PromptSource::Stream { name, .. } => Err(Error::new(
                ErrorKind::Invalid,
                format!("{name}: rows are found by their ids, so they must be in a file"),
            )),
        }
    }

    /// The row that a result line belongs to, as a JSON object; none if the input does not have it.
    pub(super) fn of(&self, line: &str) -> Result<Option<String>, Error> {
        let request: Option<Request> = serde_json::from_str(line).ok();
        let place = request.and_then(|request| self.place(&request.id));
        Ok(place.map(|at| self.input.row_at(at)).transpose()?)
    }

    fn place(&self, id: &str) -> Option<u64> {
        self.items.place_of(id).map(|(at, _)| at)
    }

    /// Compares the lines that count with the rows, and puts them into the order of these if that is wanted.
    pub(super) fn match_lines(
        &mut self,
        files: &ResultFiles,
        places: &mut [u64],
        ordered: bool,
        ctx: &Context,
        report: &mut ExportReport,
    ) -> Result<(), Error> {
        let mut order: Vec<(u64, u64)> = Vec::new();
        let (mut same, mut changed) = (0_u64, 0);
        files.read(places.iter().copied(), ctx, &mut |line, at| {
            let Ok(Request { id, request_hash }) = serde_json::from_str(line) else {
                return Ok(());
            };
            if ordered {
                order.push((self.place(&id).unwrap_or(u64::MAX), at));
            }
            let makes_prompt = self.items.place_of(&id).is_some_and(|(_, prompts)| prompts);
            let prefix = request_hash.as_deref().and_then(hash_prefix).unwrap_or(0);
            let success = EarlierResult::Success;
            match self.items.match_line(&id, prefix, success) {
                Match::Done => same += 1,
                Match::Changed if makes_prompt => changed += 1,
                // A further sample of a row, which says nothing of whether the row has changed.
                Match::Unknown => {
                    if let Some((row, _)) = parse_sample(&id) {
                        self.items.match_line(row, prefix, success);
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        // Where none is the same, the input was not read with the settings of the run.
        report.changed = if same > 0 { changed } else { 0 };
        report.without_result = self.items.unmatched();
        if ordered {
            order.sort_unstable();
            for (place, (_, at)) in places.iter_mut().zip(order) {
                *place = at;
            }
        }
        Ok(())
    }
}
