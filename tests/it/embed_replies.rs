//! Recorded replies with embeddings, and the outcome that each must have. The targets `embed_openai` and `embed_gemini` in
//! `fuzz/targets/` try truncated, garbled and absurd ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{Context, Error, LlmClient, Request, Response, execute_bulk_sync};
use serde_json::{Value, json};

use crate::conformance::{Recorder, client};
use crate::replies::{none_of, recordings};

/// The providers whose API a file of recordings has.
const DIALECTS: [(&str, &[&str]); 2] = [
    ("embed_openai", &["openai", "mistral", "custom", "local"]),
    ("embed_gemini", &["gemini"]),
];

/// Number of texts in the request of every recording.
const TEXTS: usize = 3;

/// What the result of a recording has.
fn found(result: &Result<Vec<Response>, Error>) -> Result<Value, &Error> {
    let answers = result.as_ref()?;
    let used = answers.iter().map(|a| a.usage.map(|u| u.input_tokens));
    let (used, model) = (used.sum::<Option<u64>>(), answers[0].model.clone());
    assert!(answers.iter().all(|answer| answer.model == model));
    let vectors = answers.iter().map(|answer| answer.embedding.clone());
    let vectors: Vec<_> = vectors.collect();
    Ok(json!({"vectors": vectors, "input_tokens": used, "model": model}))
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
        let mut recordings = recordings(file);
        assert!(recordings.len() > 10);
        for vendor in vendors {
            for recording in &mut recordings {
                let others = !recording.vendors.is_empty();
                if others && !recording.vendors.iter().any(|name| name == vendor) {
                    continue;
                }
                if let Some(vectors) = recording.expect.get_mut("vectors") {
                    *vectors =
                        json!(serde_json::from_value::<Vec<Vec<f32>>>(vectors.take()).unwrap());
                }
                let result = embed(vendor, recording.reply());
                if let Some(difference) = recording.differs(found(&result)) {
                    wrong.push(format!("{vendor}, {}: {difference}", recording.name));
                }
            }
        }
    }
    none_of(&wrong);
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
