//! The input of a batch: lines of requests, each checked, one at a time in memory.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Read};

use batchwright::Job;
use batchwright::files::PromptSettings;
use batchwright_jobs::JobLines;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::parts::{self, Parts};
use super::{EMBEDDINGS, of_batches, settings};
use crate::records::BatchFault;

/// Most bytes of a line, and the fault of a longer one, behind which nothing is read.
const MOST: u64 = 32 << 20;
const TOO_LONG: &str = "line_too_long";
/// More faults than these help nobody.
const MOST_FAULTS: usize = 50;

/// Most requests of a batch: what tells their ids apart is in memory.
const MOST_REQUESTS: u64 = 10_000_000;

/// What a line asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub id: String,
    pub model: Option<String>,
    pub job: Job,
}

/// The requests of an input, in their order.
pub(super) struct Lines<'e, R> {
    lines: JobLines<BufReader<R>>,
    endpoint: &'e str,
    settings: PromptSettings,
}

impl<'e, R: Read> Lines<'e, R> {
    pub fn new(reader: R, endpoint: &'e str) -> Self {
        Self {
            lines: JobLines::new(BufReader::with_capacity(256 << 10, reader), MOST),
            endpoint,
            settings: settings(endpoint),
        }
    }

    /// With the line that was read last.
    fn at(&self, fault: BatchFault) -> BatchFault {
        BatchFault {
            line: Some(self.lines.number),
            ..fault
        }
    }
}

impl<R: Read> Iterator for Lines<'_, R> {
    /// An inner error says why a line is no request.
    type Item = io::Result<Result<Asked, BatchFault>>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = match self.lines.next_line() {
            Ok(None) => return None,
            Ok(Some(line)) => request(self.endpoint, &self.settings, line),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let why = format!("This line is {error}.");
                Err(BatchFault::new(TOO_LONG, why, None))
            }
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(read.map_err(|fault| self.at(fault))))
    }
}

fn request(endpoint: &str, settings: &PromptSettings, line: &[u8]) -> Result<Asked, BatchFault> {
    let invalid = || {
        let why = "This line is not parseable as valid JSON.".to_owned();
        BatchFault::new("invalid_json_line", why, None)
    };
    let text = std::str::from_utf8(line).map_err(|_| invalid())?;
    // The rest is the library's to judge.
    let said: HashMap<String, &RawValue> = serde_json::from_str(text).map_err(|_| invalid())?;
    let said = |name: &str| said.get(name).filter(|json| json.get() != "null");
    let missing = |name: &str| {
        let why = format!("Missing required parameter: '{name}'.");
        BatchFault::new("missing_required_parameter", why, Some(name))
    };
    let string = |name: &str| match said(name) {
        None => Err(missing(name)),
        Some(json) => serde_json::from_str::<String>(json.get()).map_err(|_| {
            let why = format!("Invalid type for '{name}': expected a string.");
            BatchFault::new("invalid_type", why, Some(name))
        }),
    };
    let id = string("custom_id")?;
    if id.is_empty() {
        return Err(missing("custom_id"));
    }
    if string("method")? != "POST" {
        let why = "Invalid method: only POST is supported.".to_owned();
        return Err(BatchFault::new("invalid_method", why, Some("method")));
    }
    if of_batches(&string("url")?) != Some(endpoint) {
        let why = format!(
            "The URL provided for this request does not match the batch endpoint, {}.",
            endpoint
        );
        return Err(BatchFault::new("invalid_url", why, Some("url")));
    }
    let body = match said("body") {
        None => return Err(missing("body")),
        Some(body) if !body.get().starts_with('{') => {
            let why = "Invalid type for 'body': expected an object.".to_owned();
            return Err(BatchFault::new("invalid_type", why, Some("body")));
        }
        Some(body) => body.get(),
    };
    let invalid = |why: String| BatchFault::new("invalid_request", why, Some("body"));
    if let Some(body) = texts(endpoint, body) {
        let parts = Parts::of(endpoint, body.clone());
        let model = parts.map_err(|problem| invalid(problem.to_string()))?.model;
        let job = parts::job(&id, &body);
        return Ok(Asked { id, model, job });
    }
    let request = settings.request(text);
    let request = request.map_err(|error| invalid(error.message().to_owned()))?;
    parts::refuse_functions(&request).map_err(|problem| invalid(problem.to_string()))?;
    let model = request.model.clone();
    let job = Job::from(request.with_unchecked(true));
    Ok(Asked { id, model, job })
}

/// The body of a line whose vectors are several, or are to be packed: providers are asked for plain ones.
fn texts(endpoint: &str, body: &str) -> Option<Map<String, Value>> {
    if endpoint != EMBEDDINGS {
        return None;
    }
    let body: Map<String, Value> = serde_json::from_str(body).ok()?;
    let is_list = match body.get("input") {
        Some(Value::Array(list)) => !list.first().is_some_and(Value::is_number),
        _ => false,
    };
    let format = body.get("encoding_format");
    let is_packed = format.is_some_and(|format| format == "base64");
    (is_list || is_packed).then_some(body)
}

/// What the check of an input has shown.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub faults: Vec<BatchFault>,
    pub requests: u64,
    /// That of the first request.
    pub model: Option<String>,
}

/// The beginning of a hash of an id, so that a million ids fit into little memory.
pub(super) type Key = [u8; 16];

pub(super) fn key(custom_id: &str) -> Key {
    let digest = Sha256::digest(custom_id);
    std::array::from_fn(|n| digest[n])
}

/// Reads all of an input.
///
/// # Errors
/// When it cannot be read, or `stopped` says so.
pub(super) fn check(
    input: impl Read,
    endpoint: &str,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Checked> {
    let mut checked = Checked::default();
    let mut seen: HashSet<Key> = HashSet::new();
    let mut lines = Lines::new(input, endpoint);
    while let Some(line) = lines.next() {
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let fault = match line? {
            Ok(_) if checked.requests == MOST_REQUESTS => {
                let why = format!(
                    "A batch may have at most {MOST_REQUESTS} requests; put the others into another batch."
                );
                lines.at(BatchFault::new("too_many_requests", why, None))
            }
            Ok(asked) => {
                checked.requests += 1;
                if checked.requests == 1 {
                    checked.model.clone_from(&asked.model);
                }
                let id = &asked.id;
                if seen.insert(key(id)) {
                    continue;
                }
                let why = format!("The custom_id '{id}' is used by an earlier line, too.");
                let fault = BatchFault::new("duplicate_custom_id", why, Some("custom_id"));
                lines.at(fault)
            }
            Err(fault) => fault,
        };
        let is_last = fault.code == TOO_LONG || checked.requests == MOST_REQUESTS;
        checked.faults.push(fault);
        if checked.faults.len() >= MOST_FAULTS || is_last {
            return Ok(checked);
        }
    }
    if checked.requests == 0 && checked.faults.is_empty() {
        let why =
            "The input file is empty. Please ensure that the batch contains at least one request.";
        let fault = BatchFault::new("empty_file", why, None);
        checked.faults.push(fault);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::super::CHAT;
    use super::*;

    /// The code, line and field of each fault.
    fn faults(text: &str) -> Vec<String> {
        let checked = check(text.as_bytes(), CHAT, &|| false).unwrap();
        let faults = checked.faults.into_iter().map(|fault| {
            let line = fault.line.unwrap_or_default();
            format!("{} {line} {}", fault.code, fault.param.unwrap_or_default())
        });
        faults.collect()
    }

    const GOOD: &str = r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}"#;

    #[test]
    fn a_good_input_has_no_faults() {
        let second = GOOD.replace("\"a\"", "\"b\"");
        let as_at_azure = second
            .replace("/v1/chat", "/chat")
            .replace("\"b\"", "\"c\"");
        let text = format!("\u{feff}{GOOD}\r\n\n{second}\n{as_at_azure}");
        let checked = check(text.as_bytes(), CHAT, &|| false).unwrap();
        assert_eq!(checked.faults, []);
        assert_eq!((checked.requests, checked.model.as_deref()), (3, Some("m")));
    }

    #[test]
    fn each_fault_is_named_with_its_line() {
        let lines = [
            GOOD.to_owned(),
            "{".to_owned(),
            GOOD.to_owned(),
            GOOD.replace("\"custom_id\": \"a\", ", ""),
            GOOD.replace("\"a\"", "7"),
            GOOD.replace("POST", "GET"),
            GOOD.replace("/v1/chat/completions", "/v1/embeddings"),
            GOOD.replace("\"messages\"", "\"massages\""),
            GOOD.split("{\"model")
                .next()
                .unwrap()
                .replace("\"a\"", "\"c\"")
                + "[]}",
            GOOD.replace("\"hi\"", r#"[{"type": "image", "path": "/etc/passwd"}]"#),
        ];
        let expected = "invalid_json_line 2 \nduplicate_custom_id 3 custom_id\n\
                        missing_required_parameter 4 custom_id\ninvalid_type 5 custom_id\n\
                        invalid_method 6 method\ninvalid_url 7 url\ninvalid_request 8 body\n\
                        invalid_type 9 body\ninvalid_request 10 body";
        assert_eq!(faults(&lines.join("\n")).join("\n"), expected);
        assert_eq!(faults(" \n\n"), ["empty_file 0 "]);
    }
}
