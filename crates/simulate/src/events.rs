//! Answers as streams of events, in the format of each API. They are made of the complete answer: its texts word by word.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::dialect::Dialect;
use super::gate::Gate;
use super::http::Endpoint;
use super::prompt::Fault;

/// Holds streams between two pieces.
#[derive(Debug, Default)]
pub(super) struct StreamHold {
    pub(super) gate: Gate,
    /// The number of pieces that are sent before a stream is held.
    pieces: AtomicUsize,
}

impl StreamHold {
    pub(super) fn hold_after(&self, pieces: usize) {
        self.pieces.store(pieces, Ordering::SeqCst);
        self.gate.hold();
    }

    /// Waits while streams that have sent this number of pieces are held.
    pub(super) fn pass(&self, sent: usize) {
        if sent >= self.pieces.load(Ordering::SeqCst) {
            self.gate.pass();
        }
    }
}

/// One event of a stream.
#[derive(Debug)]
pub(super) struct StreamEvent {
    pub(super) bytes: String,
    /// Whether it has a piece of a text or of arguments.
    pub(super) is_piece: bool,
}

/// How a call wants its answer streamed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    /// OpenAI's chat: whether the usage is sent at the end.
    with_usage: bool,
}

/// The error of a call that requests a stream where no stream is possible.
pub(super) fn refusal() -> Fault {
    let message = "Unsupported value: 'stream' must be false.";
    Fault::invalid("stream", "unsupported_value", message)
}

impl Stream {
    pub(super) fn of(endpoint: &Endpoint, body: &[u8]) -> Option<Stream> {
        if let Endpoint::GenerateStream(_) = endpoint {
            return Some(Stream { with_usage: true });
        }
        memchr::memmem::find(body, b"\"stream\"")?;
        let body: Value = serde_json::from_slice(body).ok()?;
        (body["stream"] == true).then(|| Stream {
            with_usage: body["stream_options"]["include_usage"] == true,
        })
    }

    /// The events of an answer; empty if the body is not one.
    pub(super) fn events(self, dialect: Dialect, body: &[u8]) -> Vec<StreamEvent> {
        let Ok(body) = serde_json::from_slice(body) else {
            return Vec::new();
        };
        let mut events = Events::default();
        match dialect {
            Dialect::OpenAi(vendor) => {
                // Some report the usage in any case.
                use super::Vendor::{Mistral, Together};
                let always = matches!(vendor, Some(Mistral | Together));
                events.chat(&body, self.with_usage || always);
            }
            Dialect::Responses => events.response(&body),
            Dialect::Anthropic => events.message(&body),
            Dialect::Gemini => events.content(body),
        }
        events.0
    }
}

/// The words of a text, each with the space after it.
fn words(text: &Value) -> impl Iterator<Item = &str> {
    text.as_str().unwrap_or_default().split_inclusive(' ')
}

#[derive(Default)]
struct Events(Vec<StreamEvent>);

impl Events {
    fn add(&mut self, is_piece: bool, event: &Value) {
        let named = event["type"].as_str();
        let name = named.map_or_else(String::new, |name| format!("event: {name}\n"));
        let bytes = format!("{name}data: {event}\n\n");
        self.0.push(StreamEvent { bytes, is_piece });
    }

    fn say(&mut self, event: &Value) {
        self.add(false, event);
    }

    fn piece(&mut self, event: &Value) {
        self.add(true, event);
    }

    fn chat(&mut self, completion: &Value, with_usage: bool) {
        let chunk = |choices: Value| {
            let mut chunk = completion.clone();
            chunk["object"] = "chat.completion.chunk".into();
            chunk["choices"] = choices;
            chunk["usage"] = Value::Null;
            chunk
        };
        let choice = &completion["choices"][0];
        let delta = |delta: Value| {
            chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]))
        };
        let mut first = choice["message"].clone();
        let mut texts = Vec::new();
        for name in ["reasoning_content", "reasoning", "content"] {
            if first[name].is_string() {
                texts.push((name, first[name].take()));
                first[name] = "".into();
            }
        }
        let calls = first
            .as_object_mut()
            .and_then(|fields| fields.remove("tool_calls"));
        let parts = if first["content"].is_array() {
            first["content"].take()
        } else {
            json!([])
        };
        self.say(&delta(first));
        for part in parts.as_array().into_iter().flatten() {
            match part["type"].as_str() {
                Some("text") => texts.push(("content", part["text"].clone())),
                _ => self.piece(&delta(json!({"content": [part]}))),
            }
        }
        for (name, text) in texts {
            for word in words(&text) {
                self.piece(&delta(json!({ name: word })));
            }
        }
        let calls = calls.unwrap_or_default();
        for (n, call) in calls.as_array().into_iter().flatten().enumerate() {
            let mut begun = call.clone();
            begun["index"] = n.into();
            let (kind, name) = match call.get("custom") {
                Some(_) => ("custom", "input"),
                None => ("function", "arguments"),
            };
            let text = begun[kind][name].take();
            begun[kind][name] = "".into();
            self.say(&delta(json!({"tool_calls": [begun]})));
            for word in words(&text) {
                self.piece(&delta(
                    json!({"tool_calls": [{"index": n, kind: {name: word}}]}),
                ));
            }
        }
        let mut end = chunk(
            json!([{"index": 0, "delta": {}, "logprobs": choice["logprobs"],
            "finish_reason": choice["finish_reason"]}]),
        );
        if let Some(fields) = end.as_object_mut() {
            fields.remove("usage");
        }
        self.say(&end);
        if with_usage {
            let mut usage = chunk(json!([]));
            usage["usage"] = completion["usage"].clone();
            self.say(&usage);
        }
        self.0.push(StreamEvent {
            bytes: "data: [DONE]\n\n".to_owned(),
            is_piece: false,
        });
    }

    fn response(&mut self, response: &Value) {
        let mut begun = response.clone();
        begun["status"] = "in_progress".into();
        begun["output"] = json!([]);
        begun["usage"] = Value::Null;
        self.say(&json!({"type": "response.created", "response": begun}));
        for (index, item) in response["output"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let mut begun = item.clone();
            for name in ["content", "summary"] {
                if item[name].is_array() {
                    begun[name] = json!([]);
                }
            }
            if item["arguments"].is_string() {
                begun["arguments"] = "".into();
            }
            self.say(&json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
            let place = json!({"output_index": index, "item_id": item["id"]});
            let delta = |kind: &str, number: usize, word: &str| {
                let mut event = place.clone();
                event["type"] = format!("response.{kind}.delta").into();
                event["content_index"] = number.into();
                event["delta"] = word.into();
                event
            };
            for word in words(&item["arguments"]) {
                self.piece(&delta("function_call_arguments", 0, word));
            }
            for (list, added, kind) in [
                (
                    "summary",
                    "reasoning_summary_part",
                    "reasoning_summary_text",
                ),
                ("content", "content_part", "output_text"),
            ] {
                for (number, part) in item[list].as_array().into_iter().flatten().enumerate() {
                    let is_refusal = part["type"] == "refusal";
                    let (kind, name) = if is_refusal {
                        ("refusal", "refusal")
                    } else {
                        (kind, "text")
                    };
                    let mut begun = part.clone();
                    begun[name] = "".into();
                    let mut event = place.clone();
                    event["type"] = format!("response.{added}.added").into();
                    event["part"] = begun;
                    self.say(&event);
                    for word in words(&part[name]) {
                        self.piece(&delta(kind, number, word));
                    }
                }
            }
            self.say(
                &json!({"type": "response.output_item.done", "output_index": index, "item": item}),
            );
        }
        let status = response["status"].as_str().unwrap_or("completed");
        self.say(&json!({"type": format!("response.{status}"), "response": response}));
    }

    fn message(&mut self, message: &Value) {
        let mut begun = message.clone();
        begun["content"] = json!([]);
        begun["stop_reason"] = Value::Null;
        begun["usage"]["output_tokens"] = 1.into();
        self.say(&json!({"type": "message_start", "message": begun}));
        for (index, block) in message["content"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let mut begun = block.clone();
            let mut deltas: Vec<(&str, &str, String)> = Vec::new();
            for (kind, name) in [("text_delta", "text"), ("thinking_delta", "thinking")] {
                if block[name].is_string() {
                    begun[name] = "".into();
                    deltas.extend(words(&block[name]).map(|word| (kind, name, word.to_owned())));
                }
            }
            if block["type"] == "tool_use" {
                begun["input"] = json!({});
                let input = Value::from(block["input"].to_string());
                let all =
                    words(&input).map(|word| ("input_json_delta", "partial_json", word.to_owned()));
                deltas.extend(all);
            }
            self.say(
                &json!({"type": "content_block_start", "index": index, "content_block": begun}),
            );
            for (kind, name, word) in deltas {
                self.piece(&json!({"type": "content_block_delta", "index": index,
                    "delta": {"type": kind, name: word}}));
            }
            self.say(&json!({"type": "content_block_stop", "index": index}));
        }
        let mut end = json!({"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]});
        if let Some(details) = message.get("stop_details") {
            end["stop_details"] = details.clone();
        }
        self.say(&json!({"type": "message_delta", "delta": end, "usage": message["usage"]}));
        self.say(&json!({"type": "message_stop"}));
    }

    fn content(&mut self, whole: Value) {
        let mut end = whole.clone();
        let parts = end
            .pointer_mut("/candidates/0/content/parts")
            .map(Value::take);
        let chunk = |part: Value| {
            let mut chunk = whole.clone();
            chunk["candidates"] =
                json!([{"index": 0, "content": {"role": "model", "parts": [part]}}]);
            if let Some(fields) = chunk.as_object_mut() {
                fields.remove("usageMetadata");
            }
            chunk
        };
        for part in parts.unwrap_or_default().as_array().into_iter().flatten() {
            if !part["text"].is_string() {
                self.say(&chunk(part.clone()));
                continue;
            }
            for word in words(&part["text"]) {
                let mut piece = part.clone();
                piece["text"] = word.into();
                self.piece(&chunk(piece));
            }
        }
        if let Some(parts) = end.pointer_mut("/candidates/0/content/parts") {
            *parts = json!([{"text": ""}]);
        }
        self.say(&end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion() -> Value {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let message = json!({"role": "assistant", "content": "one two", "tool_calls": [call]});
        json!({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": {"total_tokens": 1}})
    }

    #[test]
    fn a_chat_is_streamed_word_by_word_with_its_usage_on_request() {
        let body = completion().to_string();
        let of = |request: &str| Stream::of(&Endpoint::Chat, request.as_bytes());
        assert!(of("{\"stream\": false}").is_none() && of("{}").is_none());
        for (options, usages) in [("", 0), (",\"stream_options\":{\"include_usage\":true}", 1)] {
            let stream = of(&format!("{{\"stream\":true{options}}}")).unwrap();
            let events = stream.events(Dialect::OpenAi(None), body.as_bytes());
            let pieces = events.iter().filter(|event| event.is_piece);
            // Two words of the text, and two of the arguments.
            assert_eq!(pieces.count(), 4);
            let with_usage = events
                .iter()
                .filter(|event| event.bytes.contains("total_tokens"));
            assert_eq!(with_usage.count(), usages);
            assert_eq!(events.last().unwrap().bytes, "data: [DONE]\n\n");
        }
        assert!(
            of("{\"stream\":true}")
                .unwrap()
                .events(Dialect::OpenAi(None), b"{")
                .is_empty()
        );
    }

    #[test]
    fn streams_are_held_after_a_number_of_pieces() {
        let hold = StreamHold::default();
        hold.pass(5);
        hold.hold_after(2);
        hold.pass(1);
        std::thread::scope(|scope| {
            let held = scope.spawn(|| hold.pass(2));
            hold.gate.release();
            held.join().unwrap();
        });
    }
}
