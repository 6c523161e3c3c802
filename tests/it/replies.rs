//! Recorded replies, one file per vendor, and the outcome that each must have.

use std::collections::BTreeSet;

use batchwright::client::Sent;
use batchwright::unstable::HttpReply;
use batchwright::{Context, Error, LlmClient, Request, Response, client_fn, execute_bulk_sync};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::conformance::{Recorder, Schema, client, data, read};

/// One line of a file in `tests/data/replies`, with the outcome that it must have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recording {
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
    /// Of an answer: `text`, `finish`, `usage` (input, cached input, output and reasoning tokens), `model`, `cost_usd`,
    /// a part of its `warning`, and what its result line `holds`. Of a failure: its `kind`, parts of what it `says`,
    /// `retry_after`, `unusable` if it was complete and billed, what of the reply it `keeps`, `usage` (input and output
    /// tokens), `cost_usd`, `maybe_sent`.
    pub expect: Map<String, Value>,
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

/// The lines of a file.
pub(crate) fn recordings(file: &str) -> Vec<Recording> {
    let path = data("replies").join(format!("{file}.jsonl"));
    let text = read(&path);
    let lines = text.lines().enumerate();
    let parsed = lines.map(|(at, line)| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), at + 1))
    });
    parsed.collect()
}

impl Recording {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.text) {
            (Some(body), None) => body.to_string().into_bytes(),
            (None, Some(text)) => text.clone().into_bytes(),
            _ => panic!("{}: needs either body or text", self.name),
        }
    }

    /// Whether it is a stream of events, or a list of chunks.
    pub(crate) fn is_stream(&self) -> bool {
        let text = self.text.as_deref().unwrap_or_default();
        text.contains("data:") || text.starts_with('[')
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

    /// How the result differs from what is expected, if it does.
    pub(crate) fn difference(&self, result: &Result<Response, Error>) -> Option<String> {
        let differs = self.differs(result.as_ref().map(answer));
        differs.or_else(|| {
            let error = result.as_ref().err()?;
            let whole = self.bytes();
            let whole = String::from_utf8_lossy(whole.trim_ascii_end());
            let kept = error.raw().map(str::trim_ascii_end) == Some(&*whole);
            let is_lost = error.is_unusable_reply() && !kept;
            is_lost.then(|| format!("not kept whole: {:?}", error.raw()))
        })
    }

    /// The same for what an answer has.
    pub(crate) fn differs(&self, result: Result<Value, &Error>) -> Option<String> {
        let (found, optional) = match result {
            Ok(answer) => (answer, &["holds"][..]),
            Err(error) => (self.failure(error), &OPTIONAL[..]),
        };
        let known = found.as_object().unwrap();
        let differs = |name: &str| match (self.expect.get(name), &found[name]) {
            (Some(Value::String(part)), Value::String(text)) if PARTS.contains(&name) => {
                !text.contains(part)
            }
            (Some(expected), found) => !fits(expected, found),
            (None, found) => !found.is_null() && !optional.contains(&name),
        };
        let mut names = known.keys().chain(self.expect.keys());
        let wrong = names.find(|name| differs(name))?;
        Some(format!(
            "{wrong} is {:?} in {found}",
            self.expect.get(wrong)
        ))
    }

    fn failure(&self, error: &Error) -> Value {
        json!({
            "kind": error.kind().as_str(), "says": error.message(), "keeps": error.raw().unwrap_or_default(),
            "retry_after": error.retry_after().map(|wait| wait.as_secs_f64()),
            "unusable": error.is_unusable_reply().then_some(true), "cost_usd": error.cost_usd(),
            "usage": error.usage().map(|u| [u.input_tokens, u.output_tokens]),
            "maybe_sent": error.sent() == Sent::Maybe,
            "other_status": (error.status() != Some(self.status)).then_some(error.status()),
        })
    }
}

/// What not every recording of a failure names.
const OPTIONAL: [&str; 5] = ["says", "keeps", "usage", "cost_usd", "maybe_sent"];
/// What is a part of a text.
const PARTS: [&str; 2] = ["keeps", "warning"];

fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Array(parts), Value::String(text)) => parts
            .iter()
            .all(|part| text.contains(part.as_str().unwrap())),
        (Value::Number(expected), Value::Number(found)) => {
            (expected.as_f64().unwrap() - found.as_f64().unwrap()).abs() < 1e-12
        }
        (Value::Object(fields), line) => fields.iter().all(|(name, expected)| {
            let mut found = line[name].clone();
            any_ids(expected, &mut found);
            found == *expected
        }),
        _ => expected == found,
    }
}

fn answer(answer: &Response) -> Value {
    let client = client_fn(|_: &Request, _: &Context| Ok(answer.clone()));
    let outcomes = execute_bulk_sync(&Context::new(), &client, &[Request::new("x")], 1).unwrap();
    let usage = answer.usage.map(|u| {
        let input = [u.input_tokens, u.cached_input_tokens];
        [input, [u.output_tokens, u.reasoning_tokens]].concat()
    });
    json!({
        "text": answer.text, "finish": answer.finish_reason.as_str(), "usage": usage, "model": answer.model,
        "cost_usd": answer.cost_usd, "warning": answer.warning, "holds": outcomes[0],
    })
}

/// Replaces generated ids by `*` where any id is expected.
fn any_ids(expected: &Value, found: &mut Value) {
    let expected = expected.as_array().into_iter().flatten();
    let pairs = expected.zip(found.as_array_mut().into_iter().flatten());
    for (expected, found) in pairs {
        let made = found["id"].as_str().is_some_and(|id| id.len() == 9);
        if expected.get("id") == Some(&Value::from("*")) && made {
            found["id"] = "*".into();
        }
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
    for vendor in ["openai", "mistral"] {
        let [reply, error] = match vendor {
            "openai" => ["CreateChatCompletionResponse", "ErrorResponse"],
            _ => ["ChatCompletionResponse", "HTTPValidationError"],
        };
        let all = |name: &str| Schema::all(&format!("{vendor}/{name}"));
        let (replies, errors) = (all(reply), all(error));
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
            schemas.iter().for_each(|schema| schema.check(body, &what));
        }
    }
    for recording in recordings("embed_openai") {
        let schema = match &*recording.name {
            "complete" | "in another order" => "openai/CreateEmbeddingResponse",
            "Mistral's fields" => "mistral/EmbeddingResponse",
            _ => continue,
        };
        for schema in Schema::all(schema) {
            schema.check(recording.body.as_ref().unwrap(), &recording.name);
        }
    }
}
