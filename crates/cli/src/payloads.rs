//! Payloads of jobs, one line of JSON each.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use batchwright::files::InputFormat;
use batchwright::{Context, Error, ErrorKind, Job};
use batchwright_jobs::{JobNames, JobType, PayloadError};
use serde_json::Value;

use super::args::input::InputArgs;
use super::background::iter_in_background;
use super::exit::{About, Refusal};

/// Longer lines are rejected as payloads.
const MOST_LINE_BYTES: u64 = 64 << 20;
/// The byte order mark that some programs write at the start of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The jobs of the lines, until a signal. The first faulty line ends them, with an error that names it.
pub fn open(
    input: &InputArgs,
    job_type: JobType,
    ctx: &Context,
) -> Result<impl Iterator<Item = Result<Job, Error>> + use<>, Refusal> {
    let is_lines = input.reading.format == Some(InputFormat::Jsonl);
    let mut sources = Vec::new();
    for path in &input.files {
        sources.push(source(path, is_lines)?);
    }
    let lines = Lines {
        sources: sources.into_iter(),
        open: None,
        names: JobNames::default(),
        id_column: input.reading.id_column.clone(),
        job_type,
        ended: false,
    };
    let lost = "the input is no longer read";
    iter_in_background("batchwright-payloads", lines, ctx, lost)
}

struct Source {
    name: String,
    reader: Box<dyn BufRead + Send>,
    line: u64,
}

fn source(path: &Path, is_lines: bool) -> Result<Source, Refusal> {
    let name = path.display().to_string();
    let reader: Box<dyn BufRead + Send> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let refused = |why: &dyn std::fmt::Display| {
            Refusal::usage(format!("{name}: {why}")).about(About::Input)
        };
        let is_called_so = path
            .extension()
            .is_some_and(|e| e == "jsonl" || e == "ndjson");
        if path.is_file() && !is_called_so && !is_lines {
            let why = "payloads of a --type are lines of JSON, in a .jsonl file or on standard input (or in \
                       a file of another name: --format jsonl)";
            return Err(refused(&why));
        }
        Box::new(BufReader::new(File::open(path).map_err(|e| refused(&e))?))
    };
    Ok(Source {
        name,
        reader,
        line: 0,
    })
}

struct Lines {
    sources: std::vec::IntoIter<Source>,
    open: Option<Source>,
    names: JobNames,
    /// The field with the job's name, instead of `id`.
    id_column: Option<String>,
    job_type: JobType,
    ended: bool,
}

impl Lines {
    /// The next line that is not blank, with its place.
    fn next_line(&mut self) -> Result<Option<(String, Vec<u8>)>, String> {
        loop {
            let Some(source) = &mut self.open else {
                self.open = self.sources.next();
                match self.open {
                    Some(_) => continue,
                    None => return Ok(None),
                }
            };
            let mut line = Vec::new();
            let mut bounded = (&mut source.reader).take(MOST_LINE_BYTES);
            source.line += 1;
            let place = format!("{} line {}", source.name, source.line);
            let read = bounded.read_until(b'\n', &mut line);
            match read.map_err(|error| format!("{place}: cannot be read: {error}"))? {
                0 => self.open = None,
                _ if source.line == 1 && line.starts_with(BYTE_ORDER_MARK) => {
                    line.drain(..BYTE_ORDER_MARK.len());
                    if !line.trim_ascii().is_empty() {
                        return Ok(Some((place, line)));
                    }
                }
                _ if line.len() as u64 == MOST_LINE_BYTES => {
                    return Err(format!(
                        "{place}: longer than {} MiB",
                        MOST_LINE_BYTES >> 20
                    ));
                }
                _ if line.trim_ascii().is_empty() => {}
                _ => return Ok(Some((place, line))),
            }
        }
    }

    fn job(&mut self, line: &[u8]) -> Result<Job, String> {
        let mut payload: Value =
            serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
        let column = self.id_column.as_deref();
        let field = column.unwrap_or("id");
        let id = match payload.get(field) {
            None | Some(Value::Null) if column.is_some() => {
                return Err(format!("field `{field}`: it is missing, and names the job"));
            }
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if !id.is_empty() => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            Some(_) => return Err(format!("field `{field}`: write a text or a number")),
        };
        // A field of the type itself may contain the name of the job as well.
        let made = match column {
            Some(_) => self.job_type.job(payload.clone()),
            None => Err(PayloadError::new(field, "")),
        };
        let job = match made {
            Err(error) if error.field == field => {
                let _ = payload.as_object_mut().and_then(|row| row.remove(field));
                self.job_type.job(payload)
            }
            made => made,
        };
        let job = job.map_err(|error| error.to_string())?;
        let twice = |id| format!("field `{field}`: {id:?} occurs twice");
        self.names.name(job, id).map_err(twice)
    }
}

impl Iterator for Lines {
    type Item = Result<Job, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_line().and_then(|line| match line {
            Some((place, line)) => {
                let job = self.job(&line);
                job.map(Some).map_err(|why| format!("{place}: {why}"))
            }
            None => Ok(None),
        });
        self.ended = !matches!(next, Ok(Some(_)));
        next.map_err(|why| Error::new(ErrorKind::Invalid, why))
            .transpose()
    }
}
