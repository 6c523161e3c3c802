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

/// The message that the events of a stream make together.
fn deltas(choices: &[&Value]) -> Value {
    let of = |field: &str| texts(choices.iter().map(|choice| &choice["delta"][field]));
    let mut message = json!({"content": of("content"), "refusal": of("refusal")});
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
    let cited: Vec<&Value> = lists("annotations").collect();
    if !cited.is_empty() {
        fields.insert("annotations".to_owned(), json!(cited));
    }
    let mut older = Value::Null;
    for choice in choices {
        append(&mut older, &choice["delta"]["function_call"]);
    }
    if older.is_object() {
        fields.insert("function_call".to_owned(), older);
    }
    message
}

/// Values that came in pieces, put together by their `index`; without one, a piece goes on with the
/// last, unless it has an id of its own.
fn pieces<'e>(pieces: impl Iterator<Item = &'e Value>) -> Vec<Value> {
    let mut whole: Vec<(Option<u64>, Value)> = Vec::new();
    for piece in pieces {
        let index = piece.get("index").and_then(Value::as_u64);
        let begun = match index {
            Some(_) => whole.iter_mut().find(|(other, _)| *other == index),
            None if says(piece, "id") || piece.get("type").is_some() => None,
            None => whole.last_mut(),
        };
        match begun {
            Some((_, begun)) => append(begun, piece),
            None => whole.push((index, piece.clone())),
        }
    }
    whole.into_iter().map(|(_, value)| value).collect()
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
    let mut blocks: Vec<Value> = Vec::new();
    for start in of("content_block_start") {
        let mut block = start["content_block"].clone();
        let fields = object(&mut block);
        let deltas = of("content_block_delta").filter(|event| event["index"] == start["index"]);
        let mut input = String::new();
        for delta in deltas.map(|event| &event["delta"]) {
            for field in ["text", "thinking", "signature"] {
                if says(delta, field) {
                    append(fields.entry(field).or_insert(Value::Null), &delta[field]);
                }
            }
            if says(delta, "citation") {
                let cited = fields.entry("citations").or_insert(Value::Null);
                append(cited, &json!([delta["citation"]]));
            }
            input += delta["partial_json"].as_str().unwrap_or_default();
        }
        if !input.is_empty() {
            fields.insert("input".to_owned(), input.into());
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
        let told = |field: &str| last(events, &format!("/candidates/0/{field}"));
        let mut candidate = json!({
            "content": {"parts": parts},
            "finishReason": finish,
            "safetyRatings": told("safetyRatings"),
        });
        for field in ["groundingMetadata", "citationMetadata"] {
            if let Some(value) = told(field) {
                candidate[field] = value.clone();
            }
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
mod tests {
    use super::super::dialect::testing;
    use super::*;

    #[test]
    fn what_is_no_stream_is_told_apart() {
        for body in ["", "{}", "<html>", "database: x", "[1]"] {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
                assert_eq!(streamed(dialect, body.as_bytes()), None, "{body}");
            }
        }
    }

    fn line(dialect: &str, stream: &str) -> Value {
        testing::line(&testing::decoded(dialect, stream).unwrap())
    }

    fn sent(events: &[Value]) -> String {
        events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect()
    }

    #[test]
    fn calls_thoughts_and_sources_that_come_in_pieces_are_put_together() {
        let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
        let call = |call: Value| delta(json!({"tool_calls": [call]}));
        let openai = sent(&[
            delta(json!({"role": "assistant", "content": null, "reasoning_content": "I "})),
            delta(json!({"reasoning_content": "look."})),
            call(json!({"index": 0, "id": "c1", "type": "function",
                "function": {"name": "get_weather", "arguments": ""}})),
            call(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
            call(json!({"index": 1, "id": "c2", "type": "function",
                "function": {"name": "get_time", "arguments": "{}"}})),
            call(json!({"index": 0, "function": {"arguments": "\"Oslo\"}"}})),
            delta(json!({"annotations": [{"type": "url_citation"}]})),
            json!({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "a"}]}}]}),
        ]);
        let read = line("openai", &openai);
        let calls = json!([
            {"id": "c1", "name": "get_weather", "arguments": {"city": "Oslo"}},
            {"id": "c2", "name": "get_time", "arguments": {}},
        ]);
        assert_eq!((&read["tool_calls"], &read["text"]), (&calls, &Value::Null));
        assert_eq!(read["reasoning"], json!({"text": "I look."}));
        assert_eq!(read["citations"], json!([{"type": "url_citation"}]));
        assert_eq!(read["logprobs"], json!({"content": [{"token": "a"}]}));

        let start = |index: u8, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let delta = |index: u8, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let anthropic = sent(&[
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message",
                "content": [], "usage": {"input_tokens": 1}}}),
            start(
                0,
                json!({"type": "thinking", "thinking": "", "signature": ""}),
            ),
            delta(0, json!({"type": "thinking_delta", "thinking": "I "})),
            delta(0, json!({"type": "thinking_delta", "thinking": "look."})),
            delta(0, json!({"type": "signature_delta", "signature": "EqQB"})),
            start(1, json!({"type": "text", "text": ""})),
            delta(
                1,
                json!({"type": "citations_delta", "citation": {"url": "https://a"}}),
            ),
            delta(1, json!({"type": "text_delta", "text": "So."})),
            start(
                2,
                json!({"type": "tool_use", "id": "c1", "name": "get_weather", "input": {}}),
            ),
            delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
            delta(
                2,
                json!({"type": "input_json_delta", "partial_json": "{\"city\": \"Os"}),
            ),
            delta(
                2,
                json!({"type": "input_json_delta", "partial_json": "lo\"}"}),
            ),
            start(
                3,
                json!({"type": "tool_use", "id": "c2", "name": "get_time", "input": {}}),
            ),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 2}}),
            json!({"type": "message_stop"}),
        ]);
        let read = line("anthropic", &anthropic);
        assert_eq!(
            (&read["tool_calls"], &read["text"]),
            (&calls, &json!("So."))
        );
        let block = json!({"type": "thinking", "thinking": "I look.", "signature": "EqQB"});
        assert_eq!(
            read["reasoning"],
            json!({"text": "I look.", "details": [block]})
        );
        assert_eq!(read["citations"], json!([{"url": "https://a"}]));

        let parts = |parts: Value| json!({"candidates": [{"content": {"parts": parts}}]});
        let gemini = sent(&[
            parts(json!([{"text": "I ", "thought": true}])),
            parts(json!([{"text": "look.", "thought": true}])),
            parts(json!([{"functionCall": {"id": "c1", "name": "get_weather",
                "args": {"city": "Oslo"}}}])),
            parts(json!([{"functionCall": {"id": "c2", "name": "get_time"}}])),
            json!({"candidates": [{"finishReason": "STOP",
                "groundingMetadata": {"webSearchQueries": ["a"]}}]}),
        ]);
        let read = line("gemini", &gemini);
        assert_eq!((&read["tool_calls"], &read["text"]), (&calls, &Value::Null));
        assert_eq!(read["reasoning"], json!({"text": "I look."}));
        assert_eq!(read["citations"], json!([{"webSearchQueries": ["a"]}]));
    }

    #[test]
    fn pieces_of_strange_shapes_are_no_reason_to_panic() {
        for strange in [
            json!("x"),
            json!([1]),
            json!(7),
            Value::Null,
            json!({"text": 5}),
        ] {
            let anthropic = sent(&[
                json!({"type": "message_start", "message": {"type": "message"}}),
                json!({"type": "content_block_start", "index": 0, "content_block": strange}),
                json!({"type": "content_block_delta", "index": 0, "delta": strange}),
                json!({"type": "content_block_delta", "index": 0,
                    "delta": {"text": strange, "citation": strange}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
            ]);
            let _ = testing::decoded("anthropic", &anthropic);
            let delta = json!({"tool_calls": [strange, {"index": 0, "function": strange}],
                "function_call": strange, "reasoning_details": [strange], "annotations": strange});
            let ended = json!({"choices": [{"delta": delta, "logprobs": {"content": strange},
                "finish_reason": "stop"}]});
            let _ = testing::decoded("openai", &sent(&[ended.clone(), ended]));
        }
    }

    #[test]
    fn pieces_without_a_number_belong_to_the_last_that_was_begun() {
        let delta = |delta: Value| json!({"choices": [{"delta": delta}]});
        let stream = sent(&[
            delta(
                json!({"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{\"a\""}}]}),
            ),
            delta(json!({"tool_calls": [{"function": {"arguments": ":1}"}}]})),
            delta(
                json!({"tool_calls": [{"id": "c2", "function": {"name": "g", "arguments": "{}"}}]}),
            ),
            delta(json!({"function_call": {"name": "h", "arguments": "["}})),
            delta(json!({"function_call": {"arguments": "2]"}})),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
        ]);
        let read = line("local", &stream);
        let calls = read["tool_calls"].as_array().unwrap();
        let calls: Vec<_> = calls
            .iter()
            .map(|call| (&call["name"], &call["arguments"]))
            .collect();
        let expected = [("f", json!({"a": 1})), ("g", json!({})), ("h", json!([2]))];
        let expected = expected.map(|(name, arguments)| (json!(name), arguments));
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, arguments)| (name, arguments))
            .collect();
        assert_eq!(calls, expected);
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
