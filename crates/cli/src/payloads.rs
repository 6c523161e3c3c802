//! Payloads of jobs, a line of JSON each.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use batchwright::jobs::JobType;
use batchwright::{Context, Error, ErrorKind, Job};
use serde_json::Value;

use super::args::input::InputArgs;
use super::background::{Background, Event};
use super::exit::{About, Refusal};

/// A longer line is no payload.
const MOST_LINE_BYTES: u64 = 64 << 20;
/// So many faulty lines are named.
const NAMED: usize = 10;

/// The jobs of the lines, up to a signal. The first faulty line ends them, with an error that names it and
/// those behind it.
pub fn open(
    input: &InputArgs,
    job_type: JobType,
    ctx: &Context,
) -> Result<impl Iterator<Item = Result<Job, Error>> + use<>, Refusal> {
    let mut sources = Vec::new();
    for path in &input.files {
        sources.push(source(path)?);
    }
    let lines = Lines {
        sources: sources.into_iter(),
        open: None,
        seen: HashSet::new(),
        job_type,
        ended: false,
    };
    // `None` marks the end: a thread that panicked sends none, and its input does not pass for complete.
    let items = lines.map(Some).chain(std::iter::once(None));
    let reader = Background::spawn("batchwright-payloads", items, ctx)?;
    Ok(std::iter::from_fn(move || match reader.next(None) {
        Event::Item(item) => item,
        Event::Cancelled | Event::Silence => {
            Some(Err(Error::new(ErrorKind::Cancelled, "interrupted")))
        }
        Event::Ended => Some(Err(Error::new(
            ErrorKind::Panic,
            "the input is no longer read",
        ))),
    }))
}

struct Source {
    name: String,
    reader: Box<dyn BufRead + Send>,
    line: u64,
}

fn source(path: &Path) -> Result<Source, Refusal> {
    let name = path.display().to_string();
    let reader: Box<dyn BufRead + Send> = match path == Path::new("-") {
        true => Box::new(BufReader::new(io::stdin())),
        false => {
            let refused = |why: &dyn std::fmt::Display| {
                Refusal::usage(format!("{name}: {why}")).about(About::Input)
            };
            let is_lines = path
                .extension()
                .is_some_and(|e| e == "jsonl" || e == "ndjson");
            if path.is_file() && !is_lines {
                let why =
                    "payloads of a --type are lines of JSON, in a .jsonl file or on standard input";
                return Err(refused(&why));
            }
            Box::new(BufReader::new(File::open(path).map_err(|e| refused(&e))?))
        }
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
    seen: HashSet<String>,
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
        let id = payload.as_object_mut().and_then(|row| row.remove("id"));
        let id = match id {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if !id.is_empty() => Some(id),
            Some(Value::Number(id)) => Some(id.to_string()),
            Some(_) => return Err("field `id`: write a text or a number".to_owned()),
        };
        let job = self.job_type.job(payload).map_err(|e| e.to_string())?;
        let named = id.is_some();
        let parts = job.clone().into_parts();
        let own = id
            .or(parts.item_id)
            .or_else(|| Some(parts.request_hash?[..16].to_owned()));
        let own = own.unwrap_or_default();
        let mut name = own.clone();
        let mut repeat = 1;
        while !self.seen.insert(name.clone()) {
            if named {
                return Err(format!("field `id`: {own:?} is there twice"));
            }
            repeat += 1;
            name = format!("{own}-{repeat}");
        }
        Ok(job.item_id(name))
    }

    /// The error of a faulty line, and of those behind it.
    fn faults(&mut self, first: String) -> Error {
        let (mut named, mut more) = (vec![first], 0);
        loop {
            let fault = match self.next_line() {
                Ok(None) => break,
                Ok(Some((place, line))) => match self.job(&line) {
                    Ok(_) => continue,
                    Err(why) => format!("{place}: {why}"),
                },
                Err(why) => {
                    named.push(why);
                    break;
                }
            };
            match named.len() < NAMED {
                true => named.push(fault),
                false => more += 1,
            }
        }
        if more > 0 {
            named.push(format!("and {more} more faulty lines"));
        }
        Error::new(ErrorKind::Invalid, named.join("\n"))
    }
}

impl Iterator for Lines {
    type Item = Result<Job, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = match self.next_line() {
            Ok(None) => return None,
            Ok(Some((place, line))) => self.job(&line).map_err(|why| format!("{place}: {why}")),
            Err(why) => {
                self.ended = true;
                return Some(Err(Error::new(ErrorKind::Invalid, why)));
            }
        };
        Some(next.map_err(|why| {
            self.ended = true;
            self.faults(why)
        }))
    }
}
