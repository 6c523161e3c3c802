//! Replies that no provider should send: truncated, garbled, absurd. No decoder may panic, hang or misinterpret
//! one.

use std::sync::Arc;
use std::time::Duration;

use batchwright::client::Sent;
use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{Client, Context, Error, ErrorKind, FinishReason, LlmClient, Request, Response};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::conformance::client;
use crate::replies::{VENDORS, recordings};

/// Upper limit of the wait that a reply can request.
const LONGEST_WAIT: Duration = Duration::from_secs(10_000_000);
const RAW_LIMIT: usize = 16 * 1024;

/// A client of a vendor, and the reply to its next call.
struct Line {
    vendor: &'static str,
    client: Client,
    next: Arc<Next>,
}

/// A transport with one reply.
#[derive(Default)]
struct Next(Mutex<Option<HttpReply>>);

impl Next {
    fn put(&self, reply: HttpReply) {
        *self.0.lock() = Some(reply);
    }
}

impl Transport for Next {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        Ok(self.0.lock().take().expect("one reply for each call"))
    }
}

/// The cases to try: all of them in CI, where `SIMULATION_SEEDS` is set, otherwise one in seven. Seven and the number of odd values have no common
/// factor, so each odd value is tried at some place.
fn some<T>(cases: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let tries_all = std::env::var_os("SIMULATION_SEEDS").is_some();
    cases.step_by(if tries_all { 1 } else { 7 })
}

impl Line {
    fn to(vendor: &'static str) -> Self {
        let next = Arc::new(Next::default());
        Self {
            vendor,
            client: client(vendor, next.clone()).unwrap(),
            next,
        }
    }

    fn decode(&self, status: u16, headers: HttpHeaders, body: &[u8]) -> Result<Response, Error> {
        let body = body.to_vec();
        self.next.put(HttpReply {
            status,
            headers,
            body,
        });
        self.client.complete(&Request::new("x"), &Context::new())
    }

    /// Decodes a reply and checks the rules that apply to all replies.
    fn sane(&self, status: u16, headers: HttpHeaders, body: &[u8]) -> Result<Response, Error> {
        let result = self.decode(status, headers, body);
        if let Some(fault) = fault(status, body, &result) {
            let body = String::from_utf8_lossy(&body[..body.len().min(2000)]);
            panic!("{}: {fault}: {result:?} for {status} {body}", self.vendor);
        }
        result
    }

    fn plain(&self, status: u16, body: &[u8]) -> Result<Response, Error> {
        self.sane(status, HttpHeaders::default(), body)
    }
}

/// Whether an answer may have no text: it has tool calls, or the provider paused its turn.
fn says_something(answer: &Response) -> bool {
    !answer.details().tool_calls.is_empty() || answer.finish_reason.as_str() == "pause_turn"
}

fn fault(status: u16, body: &[u8], result: &Result<Response, Error>) -> Option<&'static str> {
    let hints = match result {
        Ok(answer) => answer.rate_hints(),
        Err(error) => error.rate_hints(),
    };
    let windows = [hints.requests, hints.tokens].into_iter().flatten();
    if windows.filter_map(|w| w.reset).any(|w| w > LONGEST_WAIT) {
        return Some("an absurd reset");
    }
    let success = (200..300).contains(&status);
    let found = match result {
        Ok(answer) => [
            (!success, "an answer in a failure"),
            (
                answer.text.is_empty() && !says_something(answer),
                "an answer without text",
            ),
            (
                answer.text.trim().is_empty()
                    && answer.finish_reason != FinishReason::Length
                    && !says_something(answer),
                "a blank answer that was not cut",
            ),
            (
                // The sums over a million calls must not overflow.
                answer
                    .usage
                    .is_some_and(|u| u.input_tokens.max(u.output_tokens) > u64::MAX / 1_000_000),
                "an absurd usage",
            ),
            (answer.provider.is_empty(), "an answer of no provider"),
        ],
        Err(error) => [
            (error.status() != Some(status), "another status"),
            (error.sent() == Sent::No, "a reply to what was never sent"),
            (
                error.retry_after().is_some_and(|wait| wait > LONGEST_WAIT),
                "an absurd wait",
            ),
            (
                !error.is_unusable_reply() && error.raw().is_some_and(|raw| raw.len() > RAW_LIMIT),
                "an unbounded raw reply",
            ),
            (
                if error.is_unusable_reply() {
                    let text = error.raw().unwrap_or_default().as_bytes();
                    error.raw_bytes().unwrap_or(text) != body
                } else {
                    error.kind() == ErrorKind::Malformed
                        && error.sent() == Sent::Maybe
                        && error.raw().is_none_or(str::is_empty) != body.is_empty()
                },
                "a malformed reply that is lost",
            ),
        ],
    };
    let found = found.into_iter().find(|(wrong, _)| *wrong);
    found.map(|(_, what)| what)
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

#[test]
fn a_partial_reply_is_not_an_answer() {
    for vendor in VENDORS {
        let line = Line::to(vendor);
        for recording in recordings(vendor) {
            let whole = recording.bytes();
            for end in some(0..whole.len()) {
                let part = &whole[..end];
                if recording.status != 200 {
                    line.plain(recording.status, part).unwrap_err();
                }
                let error = line.plain(200, part).unwrap_err();
                if !is_json(part) {
                    let found = (error.kind(), error.sent());
                    let what = format!("{vendor}, {}, {end} bytes", recording.name);
                    assert_eq!(found, (ErrorKind::Malformed, Sent::Maybe), "{what}");
                }
            }
            // Bytes that proxies add at the end must do no harm.
            let padded = [&whole[..], b" \r\n\t\n"].concat();
            let result = line.sane(recording.status, recording.reply().headers, &padded);
            let difference = recording.difference(&result);
            assert_eq!(difference, None, "{vendor}, {}", recording.name);
        }
    }
}

/// Replacements for a value, as JSON text.
const ODD: [&str; 22] = [
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e308",
    "\"\"",
    "\" \\n\"",
    "\"x\"",
    "\"429\"",
    "\"18446744073709551615\"",
    "\"1e400s\"",
    "\"\\u0000\\u2028\"",
    "[]",
    "[null]",
    "[[],{},\"x\",1]",
    "{}",
    "{\"type\":\"text\",\"text\":7}",
    "{\"code\":429,\"message\":[\"x\"],\"details\":[null,{\"retryDelay\":\"9e99s\"}]}",
];

/// A value that occurs nowhere else in a body.
const MARK: &str = "the value to replace";

/// The paths of all values within `value`, including itself.
fn places(value: &Value, place: &str, out: &mut Vec<String>) {
    out.push(place.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(inner, &format!("{place}/{name}"), out);
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                places(inner, &format!("{place}/{at}"), out);
            }
        }
        _ => {}
    }
}

/// The body with each of its values replaced in turn by each odd value, and by a list that contains it.
fn replaced(body: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let mut all = Vec::new();
    places(body, "", &mut all);
    all.into_iter().flat_map(move |place| {
        let mut marked = body.clone();
        let value = marked.pointer_mut(&place).unwrap();
        let list = format!("[{value},{value}]");
        *value = MARK.into();
        let marked = marked.to_string();
        let odd = ODD.into_iter().chain([&*list]);
        let bodies: Vec<_> = odd
            .map(|odd| marked.replace(&format!("\"{MARK}\""), odd))
            .collect();
        bodies.into_iter().map(move |body| (place.clone(), body))
    })
}

#[test]
fn decoders_tolerate_any_replaced_value() {
    for vendor in VENDORS {
        let line = Line::to(vendor);
        for recording in recordings(vendor) {
            let Some(body) = &recording.body else {
                continue;
            };
            for (_, odd) in some(replaced(body)) {
                let _ = line.plain(recording.status, odd.as_bytes());
            }
        }
    }
}

/// An odd count, id or fingerprint must not lose a billed answer.
#[test]
fn odd_values_next_to_an_answer_do_not_lose_it() {
    for (vendor, needed) in [
        ("openai", &["/choices", "/error", "/model"]),
        ("anthropic", &["/content", "/stop", "/model"]),
        ("gemini", &["/candidates", "/promptFeedback", "/model"]),
    ] {
        let line = Line::to(vendor);
        let recordings = recordings(vendor);
        let complete = recordings.iter().find(|r| r.name == "complete").unwrap();
        let text = line.plain(200, &complete.bytes()).unwrap().text;
        let mut seen = 0;
        for (place, odd) in replaced(complete.body.as_ref().unwrap()) {
            if place.is_empty() || needed.iter().any(|part| place.starts_with(part)) {
                continue;
            }
            seen += 1;
            let result = line.plain(200, odd.as_bytes());
            let answer = result.unwrap_or_else(|e| panic!("{vendor}: {e:?} for {odd}"));
            assert_eq!(answer.text, text, "{vendor}: {odd}");
        }
        assert!(seen >= 8 * ODD.len(), "{vendor}: only {seen}");
    }
}

#[test]
fn decoders_tolerate_huge_replies() {
    let deep = |open: &str, close: &str| open.repeat(10_000) + "0" + &close.repeat(10_000);
    let long = "Try Again In ÄÖ \u{1F30D} ".repeat(40_000);
    for (vendor, complete) in [
        (
            "openai",
            json!({"choices": [{"finish_reason": "stop", "message": {"content": MARK}}]}),
        ),
        (
            "anthropic",
            json!({"content": [{"type": "text", "text": MARK}], "stop_reason": "end_turn"}),
        ),
        (
            "gemini",
            json!({"candidates": [{"content": {"parts": [{"text": MARK}]}, "finishReason": "STOP"}]}),
        ),
    ] {
        let line = Line::to(vendor);
        let failure = json!({"error": {"code": MARK, "type": "x", "message": MARK}});
        let (complete, failure) = (complete.to_string(), failure.to_string());
        let put = |body: &str, value: &str| body.replace(&format!("\"{MARK}\""), value);
        let text = format!("\"{long}\"");
        let answer = line.plain(200, put(&complete, &text).as_bytes()).unwrap();
        assert_eq!(answer.text, long, "{vendor}");
        for (status, body) in [
            (200, long.as_bytes().to_vec()),
            (400, put(&failure, &text).into_bytes()),
            (404, put(&failure, &text).into_bytes()),
            (200, put(&failure, &text).into_bytes()),
            (500, vec![0xff; long.len()]),
            (200, vec![0xff; long.len()]),
        ] {
            let error = line.plain(status, &body).unwrap_err();
            // The message is stored for every failed item, and written to the results.
            assert!(error.message().len() < 64 * 1024, "{vendor}, {status}");
        }
        for value in [
            deep("[", "]"),
            deep("{\"a\":", "}"),
            deep("[{\"error\":", "}]"),
        ] {
            for status in [200, 400] {
                for body in [&complete, &failure] {
                    let body = put(body, &value);
                    let _ = line.plain(status, body.as_bytes());
                }
                let _ = line.plain(status, value.as_bytes());
            }
            // An odd value in an irrelevant field must not matter.
            let beside = format!("{{\"usage\":{value},\"usageMetadata\":{value},");
            let body = complete.replacen('{', &beside, 1);
            let body = put(&body, "\"x\"");
            line.plain(200, body.as_bytes()).unwrap();
        }
    }
}
