//! Payloads of jobs, one line of JSON each.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use batchwright::files::ColumnRole;
use batchwright::unstable::named_file;
use batchwright::{Context, Error, ErrorKind, Job};
use batchwright_jobs::{JobLines, JobNames, JobType, PayloadError};
use serde_json::Value;

use super::args::input::InputArgs;
use super::background::iter_in_background;
use super::exit::{About, Refusal};

/// Longer lines are rejected as payloads.
const MOST_LINE_BYTES: u64 = 64 << 20;

/// The jobs of the lines, until a signal. A faulty line is an error that names it; the first one ends the submission.
pub fn open(
    input: &InputArgs,
    job_type: JobType,
    ctx: &Context,
) -> Result<impl Iterator<Item = Result<Job, Error>> + use<>, Refusal> {
    let sources = input.files.iter().map(|path| source(path));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let (mut names, column) = (
        JobNames::default(),
        input.column_of(ColumnRole::Id).map(ToOwned::to_owned),
    );
    let mut made = move |line: &[u8]| job(line, &job_type, column.as_deref(), &mut names);
    let jobs = sources.into_iter().flatten().map(move |line| {
        let (place, line) = line.map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        made(&line).map_err(|why| Error::new(ErrorKind::Invalid, format!("{place}: {why}")))
    });
    let lost = "the input is no longer read";
    iter_in_background("batchwright-payloads", jobs, ctx, lost)
}

struct Source {
    name: String,
    lines: JobLines<Box<dyn BufRead + Send>>,
}

fn source(path: &Path) -> Result<Source, Refusal> {
    let name = path.display().to_string();
    let reader: Box<dyn BufRead + Send> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let refused = |why: &dyn std::fmt::Display| {
            Refusal::usage(format!("{name}: {why}")).about(About::Input)
        };
        Box::new(BufReader::new(
            named_file::input(path).map_err(|e| refused(&e))?,
        ))
    };
    let lines = JobLines::new(reader, MOST_LINE_BYTES);
    Ok(Source { name, lines })
}

/// The lines that are not blank, with their places.
impl Iterator for Source {
    type Item = Result<(String, Vec<u8>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next_line() {
            Ok(None) => return None,
            Ok(Some(line)) => Ok(line.to_vec()),
            Err(error) => Err(error),
        };
        let place = format!("{} line {}", self.name, self.lines.number);
        Some(match line {
            Ok(line) => Ok((place, line)),
            Err(error) => Err(format!("{place}: {error}")),
        })
    }
}

/// The job of a line. The field of this name, instead of `id`, has the name of the job.
fn job(
    line: &[u8],
    job_type: &JobType,
    column: Option<&str>,
    names: &mut JobNames,
) -> Result<Job, String> {
    let mut payload: Value =
        serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
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
        Some(_) => job_type.job(payload.clone()),
        None => Err(PayloadError::new(field, "")),
    };
    let job = match made {
        Err(error) if error.field == field => {
            let _ = payload.as_object_mut().and_then(|row| row.remove(field));
            job_type.job(payload)
        }
        made => made,
    };
    let job = job.map_err(|error| error.to_string())?;
    let twice = |id| format!("field `{field}`: {id:?} occurs twice");
    names.name(job, id).map_err(twice)
}
