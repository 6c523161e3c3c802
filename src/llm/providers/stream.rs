//! Streams of events that nobody asked for, joined to the reply that they stand for.

use serde_json::{Map, Value, json};

use crate::base::json_mend::leniently;
use crate::base::json_read::without_bom;

use super::fields;

/// Whether a body is a stream of events, which may begin with a comment.
pub(super) fn is_stream(body: &[u8]) -> bool {
    let body = without_bom(body).trim_ascii_start();
    let fields = [&b"data:"[..], b"event:", b"id:", b"retry:", b":"];
    fields.iter().any(|field| body.starts_with(field))
}

/// The reply that the chunks of OpenAI and Gemini, the events of Anthropic, or a list of Gemini's chunks stand for, and
/// whether its end came. `None` for another body.
pub(super) fn joined(body: &[u8]) -> Option<(String, bool)> {
    let (mut whole, mut has_ended) = (json!({}), false);
    if is_stream(body) {
        let text = String::from_utf8_lossy(without_bom(body));
        let mut data = String::new();
        // An event may be in several lines; an empty one ends it.
        for line in text.lines().chain([""]) {
            let event = match line.strip_prefix("data:") {
                Some(more) => {
                    has_ended |= more.trim() == "[DONE]";
                    if matches!(more.trim(), "" | "[DONE]") {
                        continue;
                    }
                    // Read at once only where it begins, so that each line is read twice at most.
                    let begins = data.is_empty();
                    data.push_str(more);
                    data.push('\n');
                    let event = begins.then(|| leniently(more.as_bytes(), fields::value));
                    let Some(Ok((event, _))) = event else {
                        continue;
                    };
                    event
                }
                None if line.is_empty() && !data.is_empty() => {
                    match leniently(data.as_bytes(), fields::value) {
                        Ok((event, _)) => event,
                        // Half of an event is the end of what came.
                        Err(_) if data.trim_start().starts_with('{') => {
                            has_ended = false;
                            break;
                        }
                        Err(_) => Value::Null,
                    }
                }
                None => continue,
            };
            data.clear();
            has_ended |= event["type"] == "message_stop";
            add(&mut whole, event);
        }
    } else if without_bom(body).trim_ascii_start().starts_with(b"[") {
        let (chunks, _) = leniently(body, fields::value).ok()?;
        let is_chunk = |chunk: &Value| chunk.get("candidates").is_some();
        let chunks = chunks.as_array().filter(|all| all.iter().any(is_chunk))?;
        chunks
            .iter()
            .for_each(|chunk| merge("", &mut whole, chunk.clone()));
    } else {
        return None;
    }
    has_ended |= ENDS.iter().any(|end| {
        let word = whole.pointer(end).and_then(Value::as_str);
        word.is_some_and(|word| !word.is_empty())
    });
    if whole.get("error").is_some_and(|error| !error.is_null()) && !has_ended {
        // What came before it is no answer.
        whole = json!({"error": whole["error"]});
        has_ended = true;
    }
    Some((whole.to_string(), has_ended))
}

/// Where the dialects say why an answer has ended.
const ENDS: [&str; 4] = [
    "/choices/0/finish_reason",
    "/stop_reason",
    "/candidates/0/finishReason",
    "/promptFeedback/blockReason",
];

/// Adds an event of Anthropic, or a chunk.
fn add(whole: &mut Value, mut event: Value) {
    let delta = &event["delta"];
    match event["type"].as_str() {
        Some("message_start") => *whole = event["message"].take(),
        Some("message_delta") => {
            let end = json!({"stop_reason": delta["stop_reason"], "usage": event["usage"],
                "stop_details": delta["stop_details"]});
            merge("", whole, end);
        }
        Some("content_block_start") => {
            merge("", whole, json!({"content": [event["content_block"]]}))
        }
        Some("content_block_delta") => {
            let block = whole.get_mut("content").and_then(Value::as_array_mut);
            let piece = json!({"text": delta["text"], "thinking": delta["thinking"], "signature": delta["signature"],
                "input": delta["partial_json"], "citations": delta.get("citation").map(|one| [one])});
            merge(
                "",
                block
                    .and_then(|all| all.last_mut())
                    .unwrap_or(&mut Value::Null),
                piece,
            );
        }
        Some("ping" | "content_block_stop" | "message_stop") => {}
        _ if event.is_object() => merge("", whole, event),
        // A word that keeps the connection open.
        _ => {}
    }
}

/// Fields whose texts and lists grow. Of any other one, the last value counts.
const GROWING: &str = "content refusal reasoning reasoning_content reasoning_details thinking text summary arguments \
    input data transcript choices candidates tool_calls annotations images citations parts";

/// Adds a piece to the field with this name.
fn merge(name: &str, whole: &mut Value, piece: Value) {
    let grows = GROWING.split(' ').any(|growing| growing == name);
    match (whole, piece) {
        (Value::Object(whole), Value::Object(piece)) => merge_fields(whole, piece),
        (Value::String(whole), Value::String(piece)) if grows => whole.push_str(&piece),
        // Some repeat an id or a name as an empty text.
        (Value::String(_), Value::String(piece)) if piece.is_empty() => {}
        (Value::Array(whole), Value::Array(pieces)) if grows => {
            pieces
                .into_iter()
                .for_each(|piece| merge_entry(name, whole, piece));
        }
        (whole, piece) => *whole = piece,
    }
}

fn merge_fields(whole: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, value) in piece.into_iter().filter(|(_, value)| !value.is_null()) {
        match whole.get_mut(&name) {
            Some(field) => merge(&name, field, value),
            None => drop(whole.insert(name, value)),
        }
    }
}

/// Adds an entry to the one with its index in a list, or behind all. Some servers give all calls of tools one index.
fn merge_entry(name: &str, whole: &mut Vec<Value>, piece: Value) {
    let id = |entry: &Value| entry["id"].as_str().unwrap_or_default().to_owned();
    let is_one = |entry: &&mut Value| {
        let (a, b) = (id(entry), id(&piece));
        entry["index"] == piece["index"] && (a == b || a.is_empty() || b.is_empty())
    };
    let is_numbered = matches!(name, "choices" | "candidates") || !piece["index"].is_null();
    match whole.iter_mut().rev().find(is_one).filter(|_| is_numbered) {
        Some(entry) => merge("", entry, piece),
        None => whole.push(piece),
    }
}
