//! What the targets share: a reply made of any bytes, played to a client, and what must hold of
//! its outcome.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::client::{RateHints, Sent};
use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{
    Client, Context, Error, ErrorKind, FinishReason, LlmClient, LlmConfig, Request, Response,
    Secret,
};
use serde_json::Value;

const LONGEST_WAIT: Duration = Duration::from_secs(10_000_000);
const RAW_LIMIT: usize = 16 * 1024;

/// Answers each call with the reply that was put there.
#[derive(Default)]
struct Replaying(Mutex<Option<HttpReply>>);

impl Transport for Replaying {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        Ok(self
            .0
            .lock()
            .unwrap()
            .take()
            .expect("one reply for each call"))
    }
}

struct Line {
    client: Client,
    next: Arc<Replaying>,
}

impl Line {
    fn to(vendor: &str) -> Self {
        let next = Arc::new(Replaying::default());
        let config = LlmConfig::new(vendor)
            .model("m")
            .api_key(Secret::new("test-key-of-nobody-0123456789"))
            .base_url("http://127.0.0.1:9");
        let client = config.client_over(next.clone()).expect("a client");
        Self { client, next }
    }

    fn decode(&self, reply: HttpReply) -> Result<Response, Error> {
        *self.next.0.lock().unwrap() = Some(reply);
        self.client.complete(&Request::new("x"), &Context::new())
    }

    fn embed(&self, reply: HttpReply) -> Result<Vec<Result<Response, Error>>, Error> {
        *self.next.0.lock().unwrap() = Some(reply);
        let texts = ["a", "text", "and a third one"].map(Request::embedding);
        self.client.embed(&texts.each_ref()[..], &Context::new())
    }
}

/// Plays the reply that `input` spells to a client of each of the vendors.
///
/// # Panics
/// When an outcome is not one that the reply may have.
pub fn reply(vendors: &[&'static str], input: &[u8]) {
    play(vendors, input, |line, reply| {
        match line.decode(reply.clone()) {
            Ok(answer) => check_answer(reply, &answer),
            Err(error) => check_error(reply, &error),
        }
    });
}

/// Plays the same as a reply to three texts to embed.
///
/// # Panics
/// When an outcome is not one that the reply may have.
pub fn vectors(vendors: &[&'static str], input: &[u8]) {
    play(vendors, input, |line, reply| {
        match line.embed(reply.clone()) {
            Ok(answers) => check_vectors(reply, &answers),
            Err(error) => check_error(reply, &error),
        }
    });
}

fn play(vendors: &[&'static str], input: &[u8], check: impl Fn(&Line, &HttpReply)) {
    thread_local! {
        static LINES: RefCell<HashMap<&'static str, Line>> = RefCell::default();
    }
    let reply = spelled(input);
    LINES.with_borrow_mut(|lines| {
        for vendor in vendors {
            let line = lines.entry(vendor).or_insert_with(|| Line::to(vendor));
            check(line, &reply);
        }
    });
}

/// A line with the status, a line for each header, an empty line, and the body.
fn spelled(input: &[u8]) -> HttpReply {
    let mut rest = input;
    let mut line = || {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
        str::from_utf8(line).unwrap_or_default()
    };
    let status = line().parse().unwrap_or(200);
    let mut headers = Vec::new();
    while let Some(header) = line().split_once(": ") {
        headers.push(header);
    }
    HttpReply {
        status,
        headers: headers.into_iter().collect::<HttpHeaders>(),
        body: rest.to_vec(),
    }
}

fn check_hints(hints: RateHints) {
    for window in [hints.requests, hints.tokens].into_iter().flatten() {
        assert!(window.reset.is_none_or(|reset| reset <= LONGEST_WAIT));
    }
}

fn check_answer(reply: &HttpReply, answer: &Response) {
    check_hints(answer.rate_hints());
    assert!((200..300).contains(&reply.status), "an answer in a failure");
    // A model that wants tools called, or whose turn was paused, need not say anything.
    let calls = !answer.details().tool_calls.is_empty();
    let silent = calls || answer.finish_reason.as_str() == "pause_turn";
    assert!(silent || !answer.text.is_empty(), "an answer without text");
    let cut = answer.finish_reason == FinishReason::Length;
    assert!(
        silent || cut || !answer.text.trim().is_empty(),
        "a blank answer"
    );
    if let Some(usage) = answer.usage {
        let tokens = usage.input_tokens.max(usage.output_tokens);
        assert!(tokens < 1 << 40, "an absurd usage");
    }
}

fn check_error(reply: &HttpReply, error: &Error) {
    check_hints(error.rate_hints());
    assert_eq!(error.status(), Some(reply.status));
    assert_ne!(error.sent(), Sent::No, "a reply to what was never sent");
    assert!(error.retry_after().is_none_or(|wait| wait <= LONGEST_WAIT));
    assert!(error.message().len() < 128 * 1024, "an endless message");
    let raw = error.raw().unwrap_or_default();
    assert!(raw.len() <= RAW_LIMIT);
    if error.kind() == ErrorKind::Malformed && error.sent() == Sent::Maybe {
        assert_eq!(
            raw.is_empty(),
            reply.body.is_empty(),
            "a reply that is lost"
        );
    }
}

fn check_vectors(reply: &HttpReply, answers: &[Result<Response, Error>]) {
    assert!((200..300).contains(&reply.status), "vectors in a failure");
    assert_eq!(answers.len(), 3, "a vector or a failure for each text");
    let told = told(&reply.body);
    let mut length = None;
    for (at, answer) in answers.iter().enumerate() {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                assert!(error.is_unusable_reply(), "a vector that is bought again");
                continue;
            }
        };
        check_hints(answer.rate_hints());
        let vector = answer.embedding.as_deref().expect("a vector");
        assert!(!vector.is_empty() && vector.len() == *length.get_or_insert(vector.len()));
        assert!(vector.iter().all(|number| number.is_finite()));
        assert!(
            answer
                .usage
                .is_none_or(|usage| usage.input_tokens < 1 << 40)
        );
        if let Some(told) = &told {
            assert_eq!(told[at], vector, "a vector of another text");
        }
    }
    assert!(length.is_some(), "no vector at all");
}

/// The numbers of a body, each list at its place, where they are told that plainly.
fn told(body: &[u8]) -> Option<Vec<Vec<f32>>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let (entries, field) = match body.get("embeddings") {
        Some(entries) => (entries.as_array()?, "values"),
        None => (body.get("data")?.as_array()?, "embedding"),
    };
    let mut told = vec![None; entries.len()];
    let named = entries.iter().any(|entry| !entry["index"].is_null());
    for (at, entry) in entries.iter().enumerate() {
        let place = match named && field == "embedding" {
            true => usize::try_from(entry["index"].as_u64()?).ok()?,
            false => at,
        };
        let numbers = entry[field].as_array()?.iter().map(Value::as_f64);
        let numbers = numbers.map(|number| number.map(|n| n as f32));
        assert!(told.get(place)?.is_none(), "a place that is taken twice");
        told[place] = Some(numbers.collect::<Option<Vec<f32>>>()?);
    }
    told.into_iter().collect()
}
