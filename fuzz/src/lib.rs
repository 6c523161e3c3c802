//! What the targets share: a reply made of any bytes, played to a client, and what must hold of
//! its outcome.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use batchwright::unstable::{HttpHeaders, HttpReply};
use batchwright::{Context, Error, LlmClient, Request, Response};
use serde_json::Value;

use crate::judge::{Line, has_absurd_reset};

#[path = "../../tests/it/judge.rs"]
mod judge;

/// Plays the reply that `input` spells to a client of each of the vendors.
///
/// # Panics
/// When an outcome is not one that the reply may have.
pub fn reply(vendors: &[&'static str], input: &[u8]) {
    play(vendors, input, |line, reply| drop(line.complete(reply)));
}

/// Plays the same as a reply to three texts to embed.
///
/// # Panics
/// When an outcome is not one that the reply may have.
pub fn vectors(vendors: &[&'static str], input: &[u8]) {
    play(vendors, input, |line, reply| {
        line.put(reply);
        let texts = ["a", "text", "and a third one"].map(Request::embedding);
        let texts = texts.each_ref();
        let result = line.client.embed(&texts[..], &Context::new());
        line.judge(reply, &result, |_| None);
        if let Ok(answers) = result {
            check_vectors(reply, &answers);
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

fn check_vectors(reply: &HttpReply, answers: &[Result<Response, Error>]) {
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
        assert!(!has_absurd_reset(answer.rate_hints()));
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
