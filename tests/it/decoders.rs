//! Replies that no provider should send: truncated, garbled, absurd. No decoder may panic, hang or misinterpret
//! one.

use batchwright::client::Sent;
use batchwright::unstable::{HttpHeaders, HttpReply};
use batchwright::{Error, ErrorKind, Response};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::judge::Line;
use crate::replies::{VENDORS, recordings};

/// The cases to try: all of them in CI, where `SIMULATION_SEEDS` is set, otherwise one in seven. Seven and the number of odd values have no common
/// factor, so each odd value is tried at some place.
fn some<T>(cases: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let tries_all = std::env::var_os("SIMULATION_SEEDS").is_some();
    cases.step_by(if tries_all { 1 } else { 7 })
}

fn plain(line: &Line, status: u16, body: &[u8]) -> Result<Response, Error> {
    line.complete(&HttpReply {
        status,
        headers: HttpHeaders::default(),
        body: body.to_vec(),
    })
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
                    plain(&line, recording.status, part).unwrap_err();
                }
                let result = plain(&line, 200, part);
                // Of a stream of events, the end of the answer, or its error, is enough.
                if recording.is_stream() {
                    let brief = |result: Result<Response, Error>| {
                        let text = result.map(|answer| answer.text);
                        text.map_err(|error| (error.kind(), error.sent()))
                    };
                    let (found, whole) = (brief(result), brief(plain(&line, 200, &whole)));
                    let is_cut = found == Err((ErrorKind::Malformed, Sent::Maybe));
                    let what = format!("{vendor}, {}, {end} bytes", recording.name);
                    assert!(is_cut || found == whole, "{what}: {found:?}");
                    continue;
                }
                let error = result.unwrap_err();
                if !is_json(part) {
                    let found = (error.kind(), error.sent());
                    let what = format!("{vendor}, {}, {end} bytes", recording.name);
                    assert_eq!(found, (ErrorKind::Malformed, Sent::Maybe), "{what}");
                }
            }
            // Bytes that proxies add at the end must do no harm.
            let padded = [&whole[..], b" \r\n\t\n"].concat();
            let mut reply = recording.reply();
            reply.body = padded;
            let result = line.complete(&reply);
            let difference = recording.difference(&result);
            assert_eq!(difference, None, "{vendor}, {}", recording.name);
        }
    }
}

/// Replacements for a value, as JSON texts, one in a line.
const ODD: &str = include_str!("../data/odd_values.txt");

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
        let odd = ODD.lines().chain([&*list]);
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
                let _ = plain(&line, recording.status, odd.as_bytes());
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
        let text = plain(&line, 200, &complete.bytes()).unwrap().text;
        let mut seen = 0;
        for (place, odd) in replaced(complete.body.as_ref().unwrap()) {
            if place.is_empty() || needed.iter().any(|part| place.starts_with(part)) {
                continue;
            }
            seen += 1;
            let result = plain(&line, 200, odd.as_bytes());
            let answer = result.unwrap_or_else(|e| panic!("{vendor}: {e:?} for {odd}"));
            assert_eq!(answer.text, text, "{vendor}: {odd}");
        }
        assert!(seen >= 8 * ODD.lines().count(), "{vendor}: only {seen}");
    }
}

#[test]
fn decoders_tolerate_huge_replies() {
    let deep = |open: &str, close: &str| open.repeat(10_000) + "0" + &close.repeat(10_000);
    let long = "Try Again In ÄÖ \u{1F30D} ".repeat(40_000);
    for (vendor, complete) in [
        (
            "openai",
            r#"{"choices":[{"finish_reason":"stop","message":{"content":TEXT}}]}"#,
        ),
        (
            "anthropic",
            r#"{"content":[{"type":"text","text":TEXT}],"stop_reason":"end_turn"}"#,
        ),
        (
            "gemini",
            r#"{"candidates":[{"content":{"parts":[{"text":TEXT}]},"finishReason":"STOP"}]}"#,
        ),
    ] {
        let failure = r#"{"error":{"code":TEXT,"type":"x","message":TEXT}}"#;
        let put = |body: &str, value: &str| body.replace("TEXT", value).into_bytes();
        let line = Line::to(vendor);
        let text = format!("\"{long}\"");
        let answer = plain(&line, 200, &put(complete, &text)).unwrap();
        assert_eq!(answer.text, long, "{vendor}");
        for (status, body) in [
            (200, long.as_bytes().to_vec()),
            (400, put(failure, &text)),
            (404, put(failure, &text)),
            (200, put(failure, &text)),
            (500, vec![0xff; long.len()]),
            (200, vec![0xff; long.len()]),
        ] {
            let error = plain(&line, status, &body).unwrap_err();
            // The message is stored for every failed item, and written to the results.
            assert!(error.message().len() < 64 * 1024, "{vendor}, {status}");
        }
        for value in [
            deep("[", "]"),
            deep("{\"a\":", "}"),
            deep("[{\"error\":", "}]"),
        ] {
            for status in [200, 400] {
                for body in [complete, failure] {
                    let _ = plain(&line, status, &put(body, &value));
                }
                let _ = plain(&line, status, value.as_bytes());
            }
            // An odd value in an irrelevant field must not matter.
            let beside = format!("{{\"usage\":{value},\"usageMetadata\":{value},");
            let body = complete.replacen('{', &beside, 1);
            plain(&line, 200, &put(&body, "\"x\"")).unwrap();
        }
    }
}
