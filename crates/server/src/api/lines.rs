//! A body of JSON lines as jobs, one after the other as they arrive.

use std::io::{BufRead, BufReader, Read};

use batchwright::Job;
use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND};
use batchwright_jobs::JobNames;
use serde_json::Value;

use super::types::of_type;
use crate::app::App;
use crate::problem::Problem;

/// Maximum length of a line.
const MOST_LINE_BYTES: u64 = 16 << 20;
/// Names are remembered of each line.
const MOST_LINES: u64 = 10_000_000;
/// The buffer shrinks to this size after a long line.
const SHORT: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The jobs of a body. The first invalid line ends them.
pub(super) struct Lines<'a, R> {
    app: &'a App,
    kind: &'a str,
    prompts: PromptSettings,
    body: BufReader<R>,
    bytes: u64,
    line: u64,
    names: JobNames,
    buffer: Vec<u8>,
}

impl<'a, R: Read> Lines<'a, R> {
    pub fn new(app: &'a App, kind: &'a str, body: R) -> Self {
        Self {
            app,
            kind,
            prompts: prompt_settings(kind),
            body: BufReader::with_capacity(64 << 10, body),
            bytes: 0,
            line: 0,
            names: JobNames::default(),
            buffer: Vec::new(),
        }
    }

    /// Reads the next line. False at the end.
    fn next_line(&mut self) -> Result<bool, Problem> {
        self.buffer.clear();
        self.buffer.shrink_to(SHORT);
        let mut bounded = (&mut self.body).take(MOST_LINE_BYTES);
        bounded.read_until(b'\n', &mut self.buffer)?;
        let length = self.buffer.len();
        self.line += 1;
        self.bytes += length as u64;
        if self.line > MOST_LINES && length > 0 {
            let why = format!("there are more than {MOST_LINES} lines: send several bodies");
            return Err(self.at(Problem::too_large(self.app.line_bytes), &why));
        }
        if self.bytes > self.app.line_bytes {
            return Err(Problem::too_large(self.app.line_bytes));
        }
        if length as u64 == MOST_LINE_BYTES {
            let why = format!("a line of more than {} MiB", MOST_LINE_BYTES >> 20);
            return Err(self.at(Problem::too_large(MOST_LINE_BYTES), &why));
        }
        Ok(length > 0)
    }

    fn at(&self, problem: Problem, why: &str) -> Problem {
        let named = format!("line {}: {why}; nothing was created", self.line);
        problem.says(named).line(self.line)
    }

    fn next_job(&mut self) -> Result<Option<Job>, Problem> {
        while self.next_line()? {
            let line = match self.line {
                1 => self
                    .buffer
                    .strip_prefix(BYTE_ORDER_MARK)
                    .unwrap_or(&self.buffer),
                _ => &self.buffer,
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let made = std::str::from_utf8(line)
                .map_err(|_| Problem::invalid("it is no UTF-8"))
                .and_then(|line| job(self.app, self.kind, &self.prompts, line));
            let named = made.and_then(|(job, name)| {
                let twice =
                    |name| Problem::invalid(format!("id: {name:?} occurs twice")).param("id");
                self.names.name(job, name).map_err(twice)
            });
            return match named {
                Ok(job) => Ok(Some(job)),
                Err(problem) => {
                    let why = problem.to_string();
                    Err(self.at(problem, &why))
                }
            };
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for Lines<'_, R> {
    type Item = Result<Job, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_job().transpose()
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
