//! A body of JSON lines as jobs, one after the other as they arrive; and the types of jobs that clients can create.

use std::io::{self, BufReader, Read};

use batchwright::Job;
use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND};
use batchwright_jobs::{JobLines, JobNames, PayloadError};
use serde_json::Value;

use crate::app::App;
use crate::problem::Problem;

/// Maximum length of a line.
const MOST_LINE_BYTES: u64 = 16 << 20;
/// Names are remembered of each line.
const MOST_LINES: u64 = 10_000_000;

/// The jobs of a body. The first invalid line ends them.
pub(super) struct Lines<'a, R> {
    app: &'a App,
    kind: &'a str,
    prompts: PromptSettings,
    lines: JobLines<BufReader<R>>,
    names: JobNames,
}

impl<'a, R: Read> Lines<'a, R> {
    pub fn new(app: &'a App, kind: &'a str, body: R) -> Self {
        Self {
            app,
            kind,
            prompts: prompt_settings(kind),
            lines: JobLines::new(BufReader::with_capacity(64 << 10, body), MOST_LINE_BYTES),
            names: JobNames::default(),
        }
    }
}

impl<R: Read> Iterator for Lines<'_, R> {
    type Item = Result<Job, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = match self.lines.next_line() {
            Ok(None) => return None,
            Ok(Some(line)) => std::str::from_utf8(line)
                .map_err(|_| Problem::invalid("it is no UTF-8"))
                .and_then(|line| job(self.app, self.kind, &self.prompts, line)),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(Problem::too_large(MOST_LINE_BYTES).says(error.to_string()))
            }
            Err(error) => return Some(Err(error.into())),
        };
        if self.lines.bytes > self.app.line_bytes {
            return Some(Err(Problem::too_large(self.app.line_bytes)));
        }
        let number = self.lines.number;
        let made = made.and_then(|(job, name)| {
            if number > MOST_LINES {
                let why = format!("there are more than {MOST_LINES} lines: send several bodies");
                return Err(Problem::too_large(MOST_LINES).says(why));
            }
            let twice = |name| Problem::invalid(format!("id: {name:?} occurs twice")).param("id");
            self.names.name(job, name).map_err(twice)
        });
        Some(made.map_err(|problem| {
            let why = format!("line {number}: {problem}; nothing was created");
            problem.says(why).line(number)
        }))
    }
}

/// How prompts of this type of jobs are read.
pub(super) fn prompt_settings(kind: &str) -> PromptSettings {
    PromptSettings::new().task(match kind {
        EMBEDDING_KIND => RequestTask::Embed,
        _ => RequestTask::Complete,
    })
}

/// The job of a line, or of the payload of a single job, and the name that it gives the job.
pub(super) fn job(
    app: &App,
    kind: &str,
    prompts: &PromptSettings,
    line: &str,
) -> Result<(Job, Option<String>), Problem> {
    let json = |line: &str| {
        serde_json::from_str::<Value>(line)
            .map_err(|error| Problem::invalid(format!("no JSON: {error}")))
    };
    if [COMPLETION_KIND, EMBEDDING_KIND].contains(&kind) {
        return match prompts.request(line) {
            Ok(request) => Ok((Job::from(&request), request.id)),
            // The payload of an `embedding` within a `batch_process`, which has a `text`.
            Err(fault) => match json(line)? {
                payload if kind == EMBEDDING_KIND && payload.get("text").is_some() => {
                    Ok((of_type(app, kind, payload)?, None))
                }
                _ => Err(fault.into()),
            },
        };
    }
    let payload = json(line)?;
    let name = match payload.get("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if !id.is_empty() => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(_) => {
            return Err(Problem::invalid("id: write a text or a number").param("id"));
        }
    };
    // A field of the type's own may be called so as well.
    let mut without = payload.clone();
    if let Some(fields) = without.as_object_mut() {
        fields.remove("id");
    }
    let job = match of_type(app, kind, payload) {
        Err(_) if name.is_some() => of_type(app, kind, without)?,
        made => made?,
    };
    Ok((job, name))
}

/// Longest name of an item or a process, in characters.
pub(super) const LONGEST_NAME: usize = 256;

/// A job of this type, which the worker carries out.
fn of_type(app: &App, name: &str, payload: Value) -> Result<Job, Problem> {
    refuse_unknown(app, name)?;
    let at = |error: PayloadError| {
        let field = match error.field.as_str() {
            "" => "payload".to_owned(),
            field => format!("payload.{field}"),
        };
        Problem::invalid(format!("{field}: {}", error.message)).param(field)
    };
    match app.types.get(name) {
        Ok(known) => known.job(payload).map_err(at),
        Err(_) => Ok(Job::new(name, &payload)?),
    }
}

/// The types of jobs that clients can create: those that the worker supports. A name with a dot belongs to an internal
/// part of a type.
fn offered(app: &App) -> impl Iterator<Item = &str> {
    let kinds = app.kinds.iter().map(String::as_str);
    kinds.filter(|kind| !kind.contains('.'))
}

/// Rejects a type that the worker does not support, and lists the supported ones.
pub(super) fn refuse_unknown(app: &App, name: &str) -> Result<(), Problem> {
    if offered(app).any(|kind| kind == name) {
        return Ok(());
    }
    let known: Vec<&str> = offered(app).collect();
    let why = format!("type: unknown type; known types: {}", known.join(", "));
    Err(Problem::invalid(why).param("type"))
}
