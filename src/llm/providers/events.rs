//! Replies that came as a stream of events although none was asked for, as some gateways send them:
//! put together into the reply that each dialect has without a stream.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::bounded;
use super::content::object;
use super::lenient;
use super::vendor::Dialect;

/// What a stream holds.
#[derive(Debug, PartialEq)]
pub(super) enum Streamed {
    /// The body of a reply that did not come as a stream.
    Whole(Value),
    /// It ends before the answer does.
    CutOff,
}

/// The reply in a stream of events; none if the body is no such stream.
pub(super) fn streamed(dialect: Dialect, body: &[u8]) -> Option<Streamed> {
    let (events, done) = match dialect {
        Dialect::Gemini if body.trim_ascii_start().starts_with(b"[") => match chunks(body) {
            Ok(chunks) => (chunks, true),
            Err(error) if error.is_eof() => return Some(Streamed::CutOff),
            Err(_) => return None,
        },
        _ => events(body)?,
    };
    if let Some(failed) = events.iter().find(|event| says(event, "error")) {
        return Some(Streamed::Whole(json!({"error": failed["error"]})));
    }
    let whole = match dialect {
        Dialect::Anthropic => anthropic(&events),
        Dialect::Gemini => gemini(&events),
        Dialect::OpenAi | Dialect::Extract => openai(&events, done),
    };
    Some(whole.map_or(Streamed::CutOff, Streamed::Whole))
}

/// The most values in a stream, each of which takes far more memory than text: some for each word of the
/// longest answer.
const MOST_VALUES: usize = 1_000_000;

/// Gemini's stream in the form of a list.
fn chunks(body: &[u8]) -> serde_json::Result<Vec<Value>> {
    let list = bounded::value(body, &Cell::new(MOST_VALUES))?;
    let chunks: Vec<Map<String, Value>> = serde_json::from_value(list)?;
    Ok(chunks.into_iter().map(Value::from).collect())
}

/// The data of server-sent events, and whether a last one says that all has been sent. An event that
/// cannot be read ends it: what came after would not be the answer that was given.
fn events(body: &[u8]) -> Option<(Vec<Value>, bool)> {
    const FIELDS: [&str; 5] = ["data:", "event:", "id:", "retry:", ":"];
    let body = lenient::without_mark(body).trim_ascii_start();
    let begins = |field: &&str| body.starts_with(field.as_bytes());
    if !FIELDS.iter().any(begins) {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let (mut events, left) = (Vec::new(), Cell::new(MOST_VALUES));
    for line in text.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            continue;
        };
        match data {
            "" => {}
            "[DONE]" => return Some((events, true)),
            data => match read(data, &left) {
                Some(event) => events.push(event),
                None => break,
            },
        }
    }
    // It did not end there, but is more than any answer.
    (left.get() > 0).then_some((events, false))
}

fn read(data: &str, left: &Cell<usize>) -> Option<Value> {
    let read = lenient::read(data.as_bytes(), |data| bounded::value(data, left));
    read.ok().map(|(event, _)| event)
}

fn says(event: &Value, field: &str) -> bool {
    event.get(field).is_some_and(|value| !value.is_null())
}

/// The last event's value of a field.
fn last<'e>(events: &'e [Value], pointer: &str) -> Option<&'e Value> {
    let values = events.iter().rev();
    let mut values = values.filter_map(|event| event.pointer(pointer));
    values.find(|value| !value.is_null())
}

fn texts<'e>(values: impl Iterator<Item = &'e Value>) -> String {
    values.filter_map(Value::as_str).collect()
}

fn openai(events: &[Value], done: bool) -> Option<Value> {
    let first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
    let choices = events
        .iter()
        .filter_map(|event| event["choices"].as_array());
    let choices: Vec<&Value> = choices.flatten().filter(first).collect();
    let mut ends = choices
        .iter()
        .filter_map(|choice| choice["finish_reason"].as_str());
    let finish = ends.next_back();
    if finish.is_none() && !done || choices.is_empty() {
        return None;
    }
    // A last event may hold the message as a whole.
    let message = choices.iter().rev().find(|choice| says(choice, "message"));
    let message = message.map(|choice| choice["message"].clone());
    let message = message.unwrap_or_else(|| {
        let of = |field: &str| texts(choices.iter().map(|choice| &choice["delta"][field]));
        let called = choices.iter();
        let called = called.filter_map(|choice| choice["delta"]["tool_calls"].as_array());
        let called: Vec<&Value> = called
            .flatten()
            .filter(|call| call.pointer("/function/name").is_some_and(Value::is_string))
            .collect();
        let mut message = json!({"content": of("content"), "refusal": of("refusal")});
        if !called.is_empty() {
            object(&mut message).insert("tool_calls".to_owned(), json!(called));
        }
        message
    });
    Some(json!({
        "model": last(events, "/model"),
        "choices": [{"finish_reason": finish, "message": message}],
        // Groq has a place of its own for it.
        "usage": last(events, "/usage").or_else(|| last(events, "/x_groq/usage")),
    }))
}

fn anthropic(events: &[Value]) -> Option<Value> {
    let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let mut message = of("message_start").next()?.get("message")?.clone();
    let stop = of("message_delta")
        .filter_map(|event| event["delta"].as_object())
        .next_back()?;
    stop.get("stop_reason")
        .filter(|reason| reason.is_string())?;
    let mut blocks: Vec<Value> = Vec::new();
    for start in of("content_block_start") {
        let mut block = start["content_block"].clone();
        let deltas = of("content_block_delta").filter(|event| event["index"] == start["index"]);
        let text = texts(deltas.map(|event| &event["delta"]["text"]));
        if block["type"] == "text" {
            let whole = block["text"].as_str().unwrap_or_default().to_owned() + &text;
            block["text"] = whole.into();
        }
        blocks.push(block);
    }
    let fields = object(&mut message);
    fields.insert("content".to_owned(), blocks.into());
    let stopped = stop
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    fields.extend(stopped);
    // The counts at the end stand for the whole message.
    let usages = of("message_delta").filter_map(|event| event["usage"].as_object());
    let usage = object(fields.entry("usage").or_insert(Value::Null));
    for (name, value) in usages.flatten().filter(|(_, value)| !value.is_null()) {
        usage.insert(name.clone(), value.clone());
    }
    Some(message)
}

fn gemini(events: &[Value]) -> Option<Value> {
    let finish = last(events, "/candidates/0/finishReason");
    let blocked = last(events, "/promptFeedback/blockReason");
    if finish.is_none() && blocked.is_none() {
        return None;
    }
    let parts = events.iter();
    let parts = parts.filter_map(|event| event.pointer("/candidates/0/content/parts")?.as_array());
    let parts: Vec<&Value> = parts.flatten().collect();
    let mut whole = Map::new();
    if finish.is_some() {
        let candidate = json!({
            "content": {"parts": parts},
            "finishReason": finish,
            "safetyRatings": last(events, "/candidates/0/safetyRatings"),
        });
        whole.insert("candidates".to_owned(), json!([candidate]));
    }
    for field in ["promptFeedback", "usageMetadata", "modelVersion"] {
        if let Some(value) = last(events, &format!("/{field}")) {
            whole.insert(field.to_owned(), value.clone());
        }
    }
    Some(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_stream_is_told_apart() {
        for body in ["", "{}", "<html>", "database: x", "[1]"] {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
                assert_eq!(streamed(dialect, body.as_bytes()), None, "{body}");
            }
        }
    }

    /// Each beginning of a stream is cut off, until the event that ends the answer is there.
    #[test]
    fn a_stream_without_its_end_is_cut_off() {
        let openai = concat!(
            ": a comment\n\ndata: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Os\"}}]}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n",
        );
        let end = openai.trim_end().len();
        for cut in 1..end {
            let found = streamed(Dialect::OpenAi, &openai.as_bytes()[..cut]);
            if !openai[..cut].starts_with(": a comment\n\nd") {
                continue;
            }
            assert_eq!(found, Some(Streamed::CutOff), "{}", &openai[..cut]);
        }
        let Some(Streamed::Whole(whole)) = streamed(Dialect::OpenAi, openai.as_bytes()) else {
            panic!("it is whole");
        };
        assert_eq!(whole["choices"][0]["message"]["content"], "Oslo");
        assert_eq!(whole["model"], "m");
    }
}
