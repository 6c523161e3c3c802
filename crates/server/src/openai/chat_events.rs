//! A chat completion as the chunks of OpenAI's streams.

use serde_json::{Map, Value, json};

use super::answer::{Form, Reply};
use super::arriving::Piece;
use super::stream::{AnswerEvents, Changed, rest, rest_of_arguments};
use crate::records::files::now;

/// Writes the chunks of a completion: of its first choice while it arrives, and of all choices at the end.
#[derive(Default)]
pub(super) struct ChatEvents {
    with_usage: bool,
    form: Form,
    /// The fields that all chunks share, if pieces were sent.
    head: Value,
    sent: Option<Sent>,
}

/// What was sent of the first choice.
#[derive(Default)]
struct Sent {
    text: String,
    reasoning: String,
    calls: Vec<SentCall>,
}

struct SentCall {
    id: String,
    /// The names of the object of the call, and of its text there.
    kind: (&'static str, &'static str),
    arguments: String,
}

impl ChatEvents {
    /// `form` is the form of the tool calls that the request expects.
    pub fn new(with_usage: bool, form: Form) -> Self {
        Self {
            with_usage,
            form,
            ..Self::default()
        }
    }

    fn chunk(&self, head: &Value, choices: Value, usage: Value) -> String {
        let mut chunk = json!({
            "id": head["id"],
            "object": "chat.completion.chunk",
            "created": head["created"],
            "model": head["model"],
            "system_fingerprint": head["system_fingerprint"],
            "choices": choices,
        });
        if let Some(tier) = head.get("service_tier") {
            chunk["service_tier"] = tier.clone();
        }
        if self.with_usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    }

    fn delta(&self, head: &Value, index: &Value, delta: Value, logprobs: Value) -> String {
        let choice =
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null});
        self.chunk(head, json!([choice]), Value::Null)
    }
}

impl Sent {
    /// Adds a piece, and returns its delta; `None` if it is sent at the end.
    fn add(&mut self, piece: &Piece, form: &Form) -> Option<Value> {
        Some(match piece {
            Piece::Text(text) => {
                self.text += text;
                json!({"content": text})
            }
            Piece::Reasoning(text) => {
                self.reasoning += text;
                json!({"reasoning_content": text})
            }
            Piece::ToolCall { number, id, name } => {
                if form.function_call || *number != self.calls.len() {
                    return None;
                }
                let kind = form.kind(name);
                self.calls.push(SentCall {
                    id: id.clone(),
                    kind,
                    arguments: String::new(),
                });
                let begun = json!({"name": name, kind.1: ""});
                json!({"tool_calls": [{"index": number, "id": id, "type": kind.0, kind.0: begun}]})
            }
            Piece::Arguments { number, text } => {
                let call = self.calls.get_mut(*number)?;
                call.arguments += text;
                let (kind, name) = call.kind;
                json!({"tool_calls": [{"index": number, kind: {name: text}}]})
            }
            Piece::Item(_) | Piece::Part(_) => return None,
        })
    }

    /// The parts of a message that were not sent.
    fn rest(&self, message: &Value) -> Result<Map<String, Value>, Changed> {
        let mut delta = Map::new();
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        for (name, sent) in [
            ("content", &self.text),
            ("reasoning_content", &self.reasoning),
        ] {
            let rest = rest(text(name), sent)?;
            if !rest.is_empty() {
                delta.insert(name.to_owned(), rest.into());
            }
        }
        let calls = message["tool_calls"].as_array();
        let mut calls = calls.into_iter().flatten().enumerate();
        let mut further = Vec::new();
        for sent in &self.calls {
            let (number, call) = calls
                .next()
                .filter(|(_, call)| call["id"] == sent.id.as_str())
                .ok_or(Changed)?;
            let (kind, name) = sent.kind;
            let whole = call[kind][name].as_str().unwrap_or_default();
            let rest = rest_of_arguments(whole, &sent.arguments)?;
            if !rest.is_empty() {
                further.push(json!({"index": number, kind: {name: rest}}));
            }
        }
        further.extend(calls.map(|(number, call)| with_index(call.clone(), number)));
        if !further.is_empty() {
            delta.insert("tool_calls".to_owned(), further.into());
        }
        let fields = message.as_object().into_iter().flatten();
        let handled = ["role", "content", "reasoning_content", "tool_calls"];
        let others =
            fields.filter(|(name, value)| !value.is_null() && !handled.contains(&name.as_str()));
        delta.extend(others.map(|(name, value)| (name.clone(), value.clone())));
        Ok(delta)
    }
}

fn with_index(mut call: Value, number: usize) -> Value {
    call["index"] = number.into();
    call
}

/// A message as one delta.
fn whole(message: &Value) -> Value {
    let mut delta = message.clone();
    let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (number, call) in calls.into_iter().flatten().enumerate() {
        call["index"] = number.into();
    }
    delta
}

impl AnswerEvents for ChatEvents {
    fn begin(&mut self, id: &str, model: &str) -> String {
        self.head = json!({"id": id, "created": now(), "model": model, "system_fingerprint": null});
        String::new()
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let is_first = self.sent.is_none();
        let Some(delta) = self.sent.get_or_insert_default().add(piece, &self.form) else {
            if is_first {
                self.sent = None;
            }
            return String::new();
        };
        let (head, index) = (&self.head, json!(0));
        let mut out = String::new();
        if is_first {
            let begin = json!({"role": "assistant", "content": "", "refusal": null});
            out += &self.delta(head, &index, begin, Value::Null);
        }
        out + &self.delta(head, &index, delta, Value::Null)
    }

    fn end(&mut self, reply: &Reply) -> Result<String, (String, Changed)> {
        let Reply::Json(completion) = reply else {
            return Ok(String::new());
        };
        let mut head = completion.clone();
        let mut sent = self.sent.take();
        if sent.is_some() {
            head["created"] = self.head["created"].take();
        }
        let mut out = String::new();
        for choice in completion["choices"].as_array().into_iter().flatten() {
            let (message, index) = (&choice["message"], &choice["index"]);
            let delta = match sent.take() {
                None => whole(message),
                // It is not the rest of the pieces, and no other answer either.
                Some(_) if message["refusal"].is_string() => {
                    json!({"refusal": message["refusal"]})
                }
                Some(sent) => match sent.rest(message) {
                    Ok(rest) => rest.into(),
                    Err(changed) => return Err((out, changed)),
                },
            };
            let logprobs = choice["logprobs"].clone();
            if delta != json!({}) || !logprobs.is_null() {
                out += &self.delta(&head, index, delta, logprobs);
            }
            let end = json!([{
                "index": index, "delta": {}, "logprobs": null, "finish_reason": choice["finish_reason"],
            }]);
            out += &self.chunk(&head, end, Value::Null);
        }
        if self.with_usage {
            out += &self.chunk(&head, json!([]), completion["usage"].clone());
        }
        Ok(out + "data: [DONE]\n\n")
    }
}

#[cfg(test)]
#[path = "chat_events_tests.rs"]
mod tests;
