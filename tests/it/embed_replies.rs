//! Recorded replies with embeddings, and the outcome that each must have. The targets `embed_openai` and `embed_gemini` in
//! `fuzz/targets/` try truncated, garbled and absurd ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{Context, Error, LlmClient, Request, Response, execute_bulk_sync};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::conformance::{Recorder, Schema, client};
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

/// The result of a call with this reply.
fn embed(vendor: &str, reply: HttpReply) -> Result<Vec<Response>, Error> {
    let client = client(vendor, Recorder::answering(reply)).unwrap();
    let texts: Vec<_> = (0..TEXTS)
        .map(|i| Request::embedding(format!("text {i}")))
        .collect();
    let texts: Vec<&Request> = texts.iter().collect();
    client.embed(&texts, &Context::new())?.into_iter().collect()
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
                let result = embed(vendor, recording.reply());
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
