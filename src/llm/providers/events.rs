//! Replies that come as a stream of events, because the call requested one or as some gateways send them in any case: put
//! together into the reply that each dialect has without a stream.

use std::cell::Cell;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::bounded;
use super::content::object;
use super::lenient;
use super::vendor::Dialect;
use crate::base::bom::without_bom;

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
    // OpenAI's Responses API has the fields of the error in the event itself.
    if let Some(failed) = events.iter().find(|event| event["type"] == "error") {
        return Some(Streamed::Whole(json!({ "error": failed })));
    }
    let whole = match dialect {
        Dialect::Anthropic => anthropic(&events),
        Dialect::Gemini => gemini(&events),
        Dialect::OpenAi | Dialect::Extract => responses(&events).or_else(|| openai(&events, done)),
    };
    Some(whole.map_or(Streamed::CutOff, Streamed::Whole))
}

/// The most values in a stream. Each takes far more memory than text. Events that only continue a text do not
/// count: a long answer has tens of thousands of them.
const MOST_VALUES: usize = 1_000_000;

/// The texts that events continue.
const TEXTS: [&str; 11] = [
    "/choices/0/delta/content",
    "/choices/0/delta/reasoning",
    "/choices/0/delta/reasoning_content",
    "/choices/0/delta/reasoning_details/0/text",
    "/choices/0/delta/tool_calls/0/function/arguments",
    "/choices/0/delta/tool_calls/0/custom/input",
    "/delta/text",
    "/delta/thinking",
    "/delta/partial_json",
    "/delta",
    "/candidates/0/content/parts/0/text",
];

/// Fields that differ in each event and are not read.
const NOISE: [&str; 5] = [
    "created",
    "obfuscation",
    "p",
    "sequence_number",
    "timestamp",
];
/// Fields whose last value counts.
const USAGES: [&str; 2] = ["usage", "usageMetadata"];

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
    let body = without_bom(body).trim_ascii_start();
    let begins = |field: &&str| body.starts_with(field.as_bytes());
    if !FIELDS.iter().any(begins) {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let (mut events, left) = (Vec::new(), Cell::new(MOST_VALUES));
    for line in text.lines() {
        if line.strip_prefix("data:").map(str::trim) == Some(DONE) {
            return Some((events, true));
        }
        let Some(data) = data(line) else {
            continue;
        };
        let before = left.get();
        let Some(mut event) = read(data, &left) else {
            break;
        };
        if let Some(fields) = event.as_object_mut() {
            fields.retain(|name, _| !NOISE.contains(&name.as_str()));
        }
        let last = events.last_mut();
        if last.is_some_and(|last| is_continued(last, &mut event)) {
            left.set(before);
        } else {
            events.push(event);
        }
    }
    // It did not end there, but is more than any answer.
    (left.get() > 0).then_some((events, false))
}

/// The data of the last event of OpenAI's chat.
const DONE: &str = "[DONE]";

/// The JSON in a line of server-sent events, if it has some.
pub(super) fn data(line: &str) -> Option<&str> {
    let data = line.strip_prefix("data:")?.trim();
    Some(data).filter(|data| !data.is_empty() && *data != DONE)
}

/// Adds the texts of an event to those of the last one, if they and the usage are all that distinguishes them.
fn is_continued(last: &mut Value, event: &mut Value) -> bool {
    let mut texts = Vec::new();
    for place in TEXTS {
        let both = (last.pointer_mut(place), event.pointer_mut(place));
        if let (Some(Value::String(text)), Some(Value::String(more))) = both {
            texts.push((place, std::mem::take(text), std::mem::take(more)));
        }
    }
    let usages = |event: &mut Value| USAGES.map(|name| event.get_mut(name).map(Value::take));
    let (old, new) = (usages(last), usages(event));
    let is_continued = !texts.is_empty() && last == event;
    for (place, mut text, more) in texts {
        if is_continued {
            text.push_str(&more);
        }
        put(last, place, text.into());
        put(event, place, more.into());
    }
    for (name, (old, new)) in USAGES.into_iter().zip(old.into_iter().zip(new)) {
        let is_newer = is_continued && new.as_ref().is_some_and(|new| !new.is_null());
        let kept = if is_newer { new.clone() } else { old };
        for (event, value) in [(&mut *last, kept), (&mut *event, new)] {
            if let (Some(place), Some(value)) = (event.get_mut(name), value) {
                *place = value;
            }
        }
    }
    is_continued
}

fn put(event: &mut Value, place: &str, value: Value) {
    if let Some(place) = event.pointer_mut(place) {
        *place = value;
    }
}

/// Reads the JSON of an event.
pub(super) fn read(data: &str, left: &Cell<usize>) -> Option<Value> {
    let read = lenient::read(data.as_bytes(), |data| bounded::value(data, left));
    read.ok().map(|(event, _)| event)
}

pub(super) fn says(event: &Value, field: &str) -> bool {
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
    let message = message.unwrap_or_else(|| deltas(&choices));
    let mut whole = json!({
        "id": last(events, "/id"),
        "model": last(events, "/model"),
        "service_tier": last(events, "/service_tier"),
        "choices": [{"finish_reason": finish, "message": message}],
        // Groq has a place of its own for it.
        "usage": last(events, "/usage").or_else(|| last(events, "/x_groq/usage")),
    });
    if let Some(citations) = last(events, "/citations") {
        whole["citations"] = citations.clone();
    }
    let mut logprobs = Map::new();
    for told in choices
        .iter()
        .filter_map(|choice| choice["logprobs"].as_object())
    {
        for (name, tokens) in told {
            append(logprobs.entry(name.as_str()).or_insert(Value::Null), tokens);
        }
    }
    if !logprobs.is_empty() {
        whole["choices"][0]["logprobs"] = logprobs.into();
    }
    Some(whole)
}

/// The response that the last event of the Responses API holds, with the items that came before where it
/// does not repeat them.
fn responses(events: &[Value]) -> Option<Value> {
    const ENDS: [&str; 3] = [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ];
    let is_end = |event: &&Value| ENDS.iter().any(|end| event["type"] == *end);
    let end = events.iter().rev().find(is_end)?;
    let mut whole = end["response"].clone();
    let items = whole
        .as_object_mut()?
        .entry("output")
        .or_insert(Value::Null);
    if items.as_array().is_none_or(Vec::is_empty) {
        let done = events
            .iter()
            .filter(|event| event["type"] == "response.output_item.done");
        *items = done.map(|event| event["item"].clone()).collect();
    }
    Some(whole)
}

/// The message that the events of a stream make together.
fn deltas(choices: &[&Value]) -> Value {
    let of = |field: &str| texts(choices.iter().map(|choice| &choice["delta"][field]));
    let mut message = json!({"content": content(choices), "refusal": of("refusal")});
    let fields = object(&mut message);
    for field in ["reasoning", "reasoning_content"] {
        let text = of(field);
        if !text.is_empty() {
            fields.insert(field.to_owned(), text.into());
        }
    }
    let lists = |field: &'static str| {
        let lists = choices
            .iter()
            .filter_map(move |choice| choice["delta"][field].as_array());
        lists.flatten()
    };
    for field in ["tool_calls", "reasoning_details"] {
        let whole = pieces(lists(field));
        if !whole.is_empty() {
            fields.insert(field.to_owned(), whole.into());
        }
    }
    for field in ["annotations", "images"] {
        let all: Vec<&Value> = lists(field).collect();
        if !all.is_empty() {
            fields.insert(field.to_owned(), json!(all));
        }
    }
    for field in ["function_call", "audio"] {
        let mut whole = Value::Null;
        for choice in choices {
            append(&mut whole, &choice["delta"][field]);
        }
        if whole.is_object() {
            fields.insert(field.to_owned(), whole);
        }
    }
    message
}

/// A text in pieces, or a list of parts if any piece is one, as Mistral's thoughts are.
fn content(choices: &[&Value]) -> Value {
    let pieces = || choices.iter().map(|choice| &choice["delta"]["content"]);
    if !pieces().any(Value::is_array) {
        return texts(pieces()).into();
    }
    let parts = pieces().flat_map(|piece| match piece {
        Value::Array(parts) => parts.clone(),
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        _ => Vec::new(),
    });
    parts.collect()
}

/// Values that came in pieces, put together by their `index`; without one, a piece goes on with the
/// last, unless it has an id of its own.
fn pieces<'e>(pieces: impl Iterator<Item = &'e Value>) -> Vec<Value> {
    let mut whole: Vec<Value> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for piece in pieces {
        let index = piece.get("index").and_then(Value::as_u64);
        let begun = match index {
            Some(index) => places.get(&index).map(|place| &mut whole[*place]),
            None if says(piece, "id") || piece.get("type").is_some() => None,
            None => whole.last_mut(),
        };
        match begun.filter(|begun| !is_another(begun, piece)) {
            Some(begun) => append(begun, piece),
            None => {
                places.extend(index.map(|index| (index, whole.len())));
                whole.push(piece.clone());
            }
        }
    }
    whole
}

/// Whether a piece begins a call of its own: some servers number all calls of a turn 0.
fn is_another(begun: &Value, piece: &Value) -> bool {
    fn word<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
        let word = value.pointer(pointer).and_then(Value::as_str);
        word.filter(|word| !word.is_empty())
    }
    let (old, new) = (word(begun, "/id"), word(piece, "/id"));
    let named = word(piece, "/function/name").is_some();
    old.is_some() && new.is_some() && old != new && named
}

/// Adds a piece to what there is of a value: texts and lists grow, fields of objects each for itself.
/// What names something is said once, by some servers in every piece.
fn append(whole: &mut Value, piece: &Value) {
    match (whole, piece) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(more),
        (Value::Array(items), Value::Array(more)) => items.extend(more.iter().cloned()),
        (Value::Object(fields), Value::Object(more)) => {
            for (name, value) in more {
                let names = ["id", "type", "name", "index", "format"];
                match fields.get_mut(name) {
                    Some(begun) if !names.contains(&name.as_str()) => append(begun, value),
                    Some(begun) if begun.is_null() || begun == "" => *begun = value.clone(),
                    Some(_) => {}
                    None => {
                        fields.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (whole, piece) => *whole = piece.clone(),
    }
}

fn anthropic(events: &[Value]) -> Option<Value> {
    let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let mut message = of("message_start").next()?.get("message")?.clone();
    let stop = of("message_delta")
        .filter_map(|event| event["delta"].as_object())
        .next_back()?;
    stop.get("stop_reason")
        .filter(|reason| reason.is_string())?;
    let mut blocks: Vec<Block> = Vec::new();
    let mut places: HashMap<Option<u64>, usize> = HashMap::new();
    for event in events {
        let index = event["index"].as_u64();
        match event["type"].as_str() {
            Some("content_block_start") => {
                places.insert(index, blocks.len());
                blocks.push(Block::begun(&event["content_block"]));
            }
            Some("content_block_delta") => {
                if let Some(place) = places.get(&index) {
                    blocks[*place].add(&event["delta"]);
                }
            }
            _ => {}
        }
    }
    let blocks: Value = blocks.into_iter().map(Block::whole).collect();
    let fields = object(&mut message);
    fields.insert("content".to_owned(), blocks);
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

/// A block of Anthropic's, and the text of what a tool is given.
struct Block {
    fields: Map<String, Value>,
    input: String,
}

impl Block {
    fn begun(block: &Value) -> Self {
        Self {
            fields: block.as_object().cloned().unwrap_or_default(),
            input: String::new(),
        }
    }

    fn add(&mut self, delta: &Value) {
        for field in ["text", "thinking", "signature"] {
            if says(delta, field) {
                let begun = self.fields.entry(field).or_insert(Value::Null);
                append(begun, &delta[field]);
            }
        }
        if says(delta, "citation") {
            let cited = self.fields.entry("citations").or_insert(Value::Null);
            append(cited, &json!([delta["citation"]]));
        }
        self.input += delta["partial_json"].as_str().unwrap_or_default();
    }

    fn whole(mut self) -> Value {
        if !self.input.is_empty() {
            self.fields.insert("input".to_owned(), self.input.into());
        }
        self.fields.into()
    }
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
        let told = |field: &str| last(events, &format!("/candidates/0/{field}"));
        let mut candidate = json!({
            "content": {"parts": parts},
            "finishReason": finish,
            "safetyRatings": told("safetyRatings"),
        });
        for field in ["groundingMetadata", "citationMetadata", "avgLogprobs"] {
            if let Some(value) = told(field) {
                candidate[field] = value.clone();
            }
        }
        let mut logprobs = Value::Null;
        for event in events {
            let piece = event.pointer("/candidates/0/logprobsResult");
            append(&mut logprobs, piece.unwrap_or(&Value::Null));
        }
        if !logprobs.is_null() {
            candidate["logprobsResult"] = logprobs;
        }
        whole.insert("candidates".to_owned(), json!([candidate]));
    }
    for field in [
        "promptFeedback",
        "usageMetadata",
        "modelVersion",
        "responseId",
    ] {
        if let Some(value) = last(events, &format!("/{field}")) {
            whole.insert(field.to_owned(), value.clone());
        }
    }
    Some(whole.into())
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
