//! Recorded replies, one file per vendor, and the outcome that each must have.

use std::collections::BTreeSet;
use std::time::Duration;

use batchwright::client::Sent;
use batchwright::unstable::HttpReply;
use batchwright::{
    Context, Error, LlmClient, Request, Response, Usd, client_fn, execute_bulk_sync,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::conformance::{Recorder, Schema, client, data, read};

/// One line of a file in `tests/data/replies`, with the outcome that it must have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recording<E = Expected> {
    pub name: String,
    pub status: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    /// The body, or `text` if it is not JSON.
    pub body: Option<Value>,
    text: Option<String>,
    /// Why the body does not match the provider's own schema.
    off_schema: Option<String>,
    /// The vendors that send it, if not all with this API do.
    #[serde(default)]
    pub vendors: Vec<String>,
    pub expect: E,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Expected {
    Answer(Answer),
    Failure(Failure),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    text: String,
    finish: String,
    /// Input, cached input, output and reasoning tokens.
    usage: Option<[u64; 4]>,
    model: Option<String>,
    cost_usd: Option<Usd>,
    /// A text that the warning contains; no warning if there is none here.
    warning: Option<String>,
    /// Further fields of its result line; null for a missing one. An id `*` matches any id.
    #[serde(default)]
    holds: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failure {
    kind: String,
    /// Texts that the message must contain.
    #[serde(default)]
    says: Vec<String>,
    retry_after: Option<f64>,
    /// It was complete and billed: it is kept completely and not requested again.
    #[serde(default)]
    unusable: bool,
    /// A part of the reply that is kept.
    keeps: Option<String>,
    /// Input and output tokens.
    usage: Option<[u64; 2]>,
    cost_usd: Option<Usd>,
    /// It may have been processed.
    #[serde(default)]
    maybe_sent: bool,
}

pub(crate) const VENDORS: [&str; 7] = [
    "openai",
    "anthropic",
    "gemini",
    "xai",
    "groq",
    "mistral",
    "local",
];

pub(crate) fn recordings(vendor: &str) -> Vec<Recording> {
    recorded(vendor)
}

/// The lines of a file.
pub(crate) fn recorded<E: DeserializeOwned>(file: &str) -> Vec<Recording<E>> {
    let path = data("replies").join(format!("{file}.jsonl"));
    let text = read(&path);
    let lines = text.lines().enumerate();
    let parsed = lines.map(|(at, line)| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), at + 1))
    });
    parsed.collect()
}

impl<E> Recording<E> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.text) {
            (Some(body), None) => body.to_string().into_bytes(),
            (None, Some(text)) => text.clone().into_bytes(),
            _ => panic!("{}: needs either body or text", self.name),
        }
    }

    pub(crate) fn reply(&self) -> HttpReply {
        let headers = self.headers.iter();
        HttpReply {
            status: self.status,
            headers: headers
                .map(|(name, value)| (&**name, value.as_str().unwrap()))
                .collect(),
            body: self.bytes(),
        }
    }
}

impl Recording {
    /// How the result differs from what is expected, if it does.
    pub(crate) fn difference(&self, result: &Result<Response, Error>) -> Option<String> {
        match (&self.expect, result) {
            (Expected::Answer(expected), Ok(answer)) => expected.difference(answer),
            (Expected::Failure(expected), Err(error)) => {
                let whole = self.bytes();
                let whole = String::from_utf8_lossy(whole.trim_ascii_end());
                let kept = error.raw().map(str::trim_ascii_end) == Some(&*whole);
                let lost = error.is_unusable_reply() && !kept;
                let lost = lost.then(|| format!("not kept whole: {:?}", error.raw()));
                expected.difference(error, self.status).or(lost)
            }
            (Expected::Answer(_), Err(error)) => Some(format!("expected an answer: {error:?}")),
            (Expected::Failure(f), Ok(a)) => Some(format!("expected {}: {:?}", f.kind, a.text)),
        }
    }
}

impl Answer {
    fn difference(&self, answer: &Response) -> Option<String> {
        let usage = answer.usage.map(|u| {
            [
                u.input_tokens,
                u.cached_input_tokens,
                u.output_tokens,
                u.reasoning_tokens,
            ]
        });
        let same = self.text == answer.text
            && self.finish == answer.finish_reason.as_str()
            && self.usage == usage
            && self.model == answer.model
            && match (&self.warning, &answer.warning) {
                (Some(expected), Some(warning)) => warning.contains(expected),
                (expected, warning) => expected.is_none() && warning.is_none(),
            }
            && self.cost_usd == answer.cost_usd;
        let line = line(answer);
        let other = self.holds.iter().find_map(|(field, expected)| {
            let mut found = line.get(field).cloned().unwrap_or_default();
            any_ids(expected, &mut found);
            (found != *expected).then(|| format!("{field} {found}"))
        });
        other.or_else(|| (!same).then(|| format!("{answer:?}")))
    }
}

fn line(answer: &Response) -> Value {
    let client = client_fn(|_: &Request, _: &Context| Ok(answer.clone()));
    let outcomes = execute_bulk_sync(&Context::new(), &client, &[Request::new("x")], 1).unwrap();
    serde_json::to_value(&outcomes[0]).unwrap()
}

/// Replaces generated ids by `*` where any id is expected.
fn any_ids(expected: &Value, found: &mut Value) {
    for (expected, found) in expected
        .as_array()
        .into_iter()
        .flatten()
        .zip(found.as_array_mut().into_iter().flatten())
    {
        let made = found["id"].as_str().is_some_and(|id| id.len() == 9);
        if expected.get("id") == Some(&Value::from("*")) && made {
            found["id"] = "*".into();
        }
    }
}

impl Failure {
    fn difference(&self, error: &Error, status: u16) -> Option<String> {
        let wait = self.retry_after.map(Duration::from_secs_f64);
        let same = self.kind == error.kind().as_str()
            && self
                .says
                .iter()
                .all(|words| error.message().contains(words))
            && wait == error.retry_after()
            && self.unusable == error.is_unusable_reply()
            && error.status() == Some(status)
            && (!self.maybe_sent || error.sent() == Sent::Maybe)
            && self
                .cost_usd
                .is_none_or(|cost| error.cost_usd() == Some(cost));
        let raw = error.raw().unwrap_or_default();
        let usage = error.usage().map(|u| [u.input_tokens, u.output_tokens]);
        let same = same
            && self.keeps.as_ref().is_none_or(|part| raw.contains(part))
            && (self.usage.is_none() || self.usage == usage);
        (!same).then(|| format!("expected {}, {:?}: {error:?}", self.kind, self.says))
    }
}

#[test]
fn recorded_replies_have_the_expected_outcomes() {
    let mut wrong = Vec::new();
    for vendor in VENDORS {
        for recording in recordings(vendor) {
            let client = client(vendor, Recorder::answering(recording.reply())).unwrap();
            let result = client.complete(&Request::new("x"), &Context::new());
            if let Some(difference) = recording.difference(&result) {
                wrong.push(format!("{vendor}, {}: {difference}", recording.name));
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn replies_of_gateways_and_servers_are_recognised_for_every_provider_name() {
    let recordings = recordings("gateways");
    let names: BTreeSet<_> = recordings.iter().map(|r| &r.name).collect();
    assert_eq!(names.len(), recordings.len(), "a name stands twice");
    let mut wrong = Vec::new();
    for vendor in ["custom", "local", "openai"] {
        for recording in &recordings {
            let client = client(vendor, Recorder::answering(recording.reply())).unwrap();
            let result = client.complete(&Request::new("x"), &Context::new());
            let mut difference = recording.difference(&result);
            // Only a wrong path may be unclassified: it is recognised from its status alone.
            let unknown = result.is_err_and(|error| error.is_unclassified());
            if unknown != recording.name.ends_with("wrong path") {
                difference = Some(format!("unclassified: {unknown}"));
            }
            if let Some(difference) = difference {
                wrong.push(format!("{vendor}, {}: {difference}", recording.name));
            }
        }
    }
    none_of(&wrong);
}

/// Fails with all errors at once.
pub(crate) fn none_of(wrong: &[String]) {
    let (many, list) = (wrong.len(), wrong.join("\n"));
    assert!(wrong.is_empty(), "{many} of them:\n{list}");
}

#[test]
fn recordings_match_the_published_schemas() {
    for (vendor, reply, error) in [
        (
            "openai",
            "openai/CreateChatCompletionResponse",
            "openai/ErrorResponse",
        ),
        (
            "mistral",
            "mistral/ChatCompletionResponse",
            "mistral/HTTPValidationError",
        ),
    ] {
        let (replies, errors) = (Schema::all(reply), Schema::all(error));
        for recording in recordings(vendor) {
            let Some(body) = &recording.body else {
                continue;
            };
            let schemas = match recording.status {
                200 => &replies,
                // Mistral documents no other error body.
                status if vendor == "openai" || status == 422 => &errors,
                _ => continue,
            };
            let what = format!("{vendor}, {}", recording.name);
            if let Some(why) = &recording.off_schema {
                // The published schemas may be too permissive to detect it.
                assert!(!schemas[0].faults(body).is_empty(), "{what}: not so, {why}");
                continue;
            }
            for schema in schemas {
                schema.check(body, &what);
            }
        }
    }
}
