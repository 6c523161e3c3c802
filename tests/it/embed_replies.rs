//! Replies with embeddings: recorded ones with the outcome that each must have; truncated, garbled and absurd ones,
//! which must neither cause a panic nor assign an embedding to another text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{
    Client, Context, Error, ErrorKind, LlmClient, Request, Response, execute_bulk_sync,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::conformance::{Schema, client};
use crate::decoders::{Dice, Next, garble, is_json, replaced, some};
use crate::replies::{self, none_of};

/// The providers whose API a file of recordings has.
const DIALECTS: [(&str, &[&str]); 2] = [
    ("embed_openai", &["openai", "mistral", "custom", "local"]),
    ("embed_gemini", &["gemini"]),
];

/// Number of texts in the request of every recording.
const TEXTS: usize = 3;

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Vectors(Vectors),
    Failure(Failure),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    vectors: Vec<Vec<f32>>,
    input_tokens: Option<u64>,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    kind: String,
    says: Vec<String>,
    retry_after: Option<f64>,
}

/// One line of `tests/data/replies/embed_*.jsonl`.
type Recording = replies::Recording<Expected>;

impl Recording {
    fn fits(&self, result: &Result<Vec<Response>, Error>) -> bool {
        match (&self.expect, result) {
            (Expected::Vectors(expected), Ok(answers)) => {
                let used = answers.iter().map(|a| a.usage.map(|u| u.input_tokens));
                vectors(answers) == expected.vectors
                    && used.sum::<Option<u64>>() == expected.input_tokens
                    && answers.iter().all(|a| a.model == expected.model)
            }
            (Expected::Failure(expected), Err(error)) => {
                let wait = expected.retry_after.map(Duration::from_secs_f64);
                error.kind().as_str() == expected.kind
                    && expected.says.iter().all(|s| error.message().contains(s))
                    && error.status() == Some(self.status)
                    && error.retry_after() == wait
            }
            _ => false,
        }
    }
}

fn recordings(file: &str) -> Vec<Recording> {
    replies::recorded(file)
}

fn vectors(answers: &[Response]) -> Vec<Vec<f32>> {
    let vector = |answer: &Response| answer.embedding.clone().unwrap();
    answers.iter().map(vector).collect()
}

/// A client of a vendor, and the reply to its next call.
struct Line {
    vendor: &'static str,
    client: Client,
    next: Arc<Next>,
    texts: Vec<Request>,
}

impl Line {
    fn to(vendor: &'static str) -> Self {
        let next = Arc::new(Next::default());
        let text = |i| Request::embedding(format!("text {i}"));
        Self {
            vendor,
            client: client(vendor, next.clone()).unwrap(),
            next,
            texts: (0..TEXTS).map(text).collect(),
        }
    }

    fn embed(&self, reply: HttpReply) -> Result<Vec<Response>, Error> {
        self.next.put(reply);
        let texts: Vec<&Request> = self.texts.iter().collect();
        self.client
            .embed(&texts, &Context::new())?
            .into_iter()
            .collect()
    }

    /// Decodes a body, and compares the result with an independent reading of it.
    fn sane(&self, status: u16, body: &[u8]) -> Result<Vec<Response>, Error> {
        let result = self.embed(HttpReply {
            status,
            headers: batchwright::unstable::HttpHeaders::default(),
            body: body.to_vec(),
        });
        let shown = || String::from_utf8_lossy(&body[..body.len().min(2000)]);
        match &result {
            Ok(answers) => {
                let found = vectors(answers);
                let told = plainly(body);
                let same = told.as_ref() == Some(&found);
                assert!(
                    same,
                    "{}: {found:?}, not {told:?}, of {}",
                    self.vendor,
                    shown()
                );
                let length = found[0].len();
                let whole = |v: &Vec<f32>| v.len() == length && v.iter().all(|n| n.is_finite());
                assert!(length > 0 && found.iter().all(whole), "{}", shown());
                let used = answers.iter().filter_map(|a| a.usage);
                assert!(used.map(|u| u.input_tokens).sum::<u64>() < u64::MAX / 1_000_000);
            }
            Err(error) => {
                assert_eq!(error.status(), Some(status), "{}", shown());
                let lost = error.raw().is_none_or(str::is_empty) && !body.is_empty();
                assert!(error.kind() != ErrorKind::Malformed || !lost, "{}", shown());
            }
        }
        result
    }
}

/// The embeddings of a body, each at its index, read in the simplest way; `None` in case of doubt. Values of other
/// fields may be invalid JSON.
fn plainly(body: &[u8]) -> Option<Vec<Vec<f32>>> {
    type Fields<'b> = HashMap<String, &'b RawValue>;
    let body = String::from_utf8_lossy(body);
    let body: Fields<'_> = serde_json::from_str(&body).ok()?;
    let (entries, field) = match body.get("embeddings") {
        Some(entries) => (entries, "values"),
        None => (body.get("data")?, "embedding"),
    };
    let entries: Vec<Fields<'_>> = serde_json::from_str(entries.get()).ok()?;
    let read = |entry: &Fields<'_>, field| -> Value {
        let value = entry.get(field).map(|value| value.get());
        value.map_or(Value::Null, |value| serde_json::from_str(value).unwrap())
    };
    let indices: Vec<Value> = entries.iter().map(|entry| read(entry, "index")).collect();
    let named = indices.iter().any(|index| !index.is_null());
    let of = |place: usize| {
        let mut own = (0..entries.len()).filter(|at| {
            if named {
                indices[*at].as_u64() == Some(place as u64)
            } else {
                *at == place
            }
        });
        let (one, other) = (own.next()?, own.next());
        match read(&entries[one], field) {
            _ if other.is_some() => None,
            Value::String(text) => Some(from_base64(&text)),
            list => serde_json::from_value(list).ok(),
        }
    };
    if entries.len() != TEXTS {
        return None;
    }
    (0..TEXTS).map(of).collect()
}

fn from_base64(text: &str) -> Vec<f32> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.chars().filter_map(|digit| DIGITS.find(digit));
    let bits: String = digits.map(|value| format!("{value:06b}")).collect();
    let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
    let bytes: Vec<u8> = (0..bits.len() / 8).map(|at| byte(8 * at)).collect();
    let (floats, _) = bytes.as_chunks();
    floats
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect()
}

#[test]
fn recorded_embeddings_have_the_expected_outcomes() {
    let mut wrong = Vec::new();
    for (file, vendors) in DIALECTS {
        let recordings = recordings(file);
        assert!(recordings.len() > 10);
        for vendor in vendors {
            for recording in &recordings {
                let others = !recording.vendors.is_empty();
                if others && !recording.vendors.iter().any(|name| name == vendor) {
                    continue;
                }
                let result = Line::to(vendor).embed(recording.reply());
                if !recording.fits(&result) {
                    wrong.push(format!("{vendor}, {}: {result:?}", recording.name));
                }
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn recorded_embeddings_match_the_published_schemas() {
    for (schema, names) in [
        (
            "openai/CreateEmbeddingResponse",
            ["complete", "in another order"],
        ),
        (
            "mistral/EmbeddingResponse",
            ["Mistral's fields", "Mistral's fields"],
        ),
    ] {
        for recording in recordings("embed_openai") {
            if names.contains(&&*recording.name) {
                for schema in Schema::all(schema) {
                    schema.check(recording.body.as_ref().unwrap(), &recording.name);
                }
            }
        }
    }
}

#[test]
fn a_partial_reply_has_no_embeddings() {
    for (file, vendors) in DIALECTS {
        for vendor in vendors {
            let line = Line::to(vendor);
            for recording in recordings(file) {
                let whole = recording.bytes();
                for end in some(0..whole.len()) {
                    let error = line.sane(200, &whole[..end]).unwrap_err();
                    if !is_json(&whole[..end]) {
                        assert_eq!(error.kind(), ErrorKind::Malformed, "{}", recording.name);
                    }
                    line.sane(recording.status.max(400), &whole[..end])
                        .unwrap_err();
                }
            }
        }
    }
}

#[test]
fn odd_values_next_to_an_embedding_do_not_lose_it() {
    for (file, vendors) in DIALECTS {
        let mut answers = 0;
        for vendor in vendors {
            let line = Line::to(vendor);
            for recording in recordings(file) {
                let Some(body) = &recording.body else {
                    continue;
                };
                for (place, odd) in replaced(body) {
                    let result = line.sane(recording.status, odd.as_bytes());
                    answers += usize::from(result.is_ok());
                    // An odd count or name must not lose a billed embedding.
                    let beside = ["/usage", "/object", "/id"];
                    if recording.name == "complete" && beside.iter().any(|b| place.starts_with(b)) {
                        result.unwrap_or_else(|e| panic!("{vendor}: {e:?} for {odd}"));
                    }
                }
            }
        }
        assert!(answers > 100, "{file}: only {answers}");
    }
}

#[test]
fn garbled_embeddings_are_assigned_to_no_other_text() {
    let mut dice = Dice::default();
    for (file, vendors) in DIALECTS {
        for vendor in vendors {
            let line = Line::to(vendor);
            for recording in recordings(file) {
                for _ in some(0..200) {
                    let mut body = recording.bytes();
                    for _ in 0..=dice.below(4) {
                        garble(&mut body, &mut dice);
                    }
                    let _ = line.sane(200, &body);
                    let status = [recording.status, 400, 404, 429, 501][dice.below(5)];
                    let _ = line.sane(status, &body);
                }
            }
        }
    }
}

/// Gives each vector the index 0, as some servers do.
#[derive(Default)]
struct Alike(AtomicUsize);

impl Transport for Alike {
    fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        self.0.fetch_add(1, Relaxed);
        let body: Value = serde_json::from_slice(request.body.unwrap()).unwrap();
        let texts = body["input"].as_array().unwrap();
        let entry = |text: &Value| json!({"index": 0, "embedding": [text.as_str().unwrap().len()]});
        let data: Vec<Value> = texts.iter().map(entry).collect();
        Ok(HttpReply {
            status: 200,
            headers: HttpHeaders::default(),
            body: json!({"data": data}).to_string().into_bytes(),
        })
    }
}

#[test]
fn texts_go_singly_after_a_reply_that_numbers_all_vectors_alike() {
    let server = Arc::new(Alike::default());
    let client = client("openai", server.clone()).unwrap();
    let texts: Vec<Request> = (1..=8).map(|n| Request::embedding("x".repeat(n))).collect();
    let calls = |texts: &[Request]| {
        let before = server.0.load(Relaxed);
        let outcomes = execute_bulk_sync(&Context::new(), &client, texts, 1).unwrap();
        let lengths: Vec<f32> = outcomes
            .iter()
            .map(|outcome| outcome.result.as_ref().unwrap().embedding.as_ref().unwrap()[0])
            .collect();
        let expected: Vec<f32> = (1..=texts.len()).map(|n| n as f32).collect();
        assert_eq!(lengths, expected);
        server.0.load(Relaxed) - before
    };
    assert_eq!(calls(&texts), 1 + 8);
    assert_eq!(calls(&texts[..3]), 3);
}
