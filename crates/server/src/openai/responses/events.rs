//! A complete response as the events of OpenAI's streams. Clients put it together again from these.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// The events of a response that has ended, after the one with the number `after`.
pub(super) fn events(response: &Map<String, Value>, after: Option<u64>) -> String {
    let mut events = Events {
        after,
        number: 0,
        out: String::new(),
    };
    let mut begun = response.clone();
    for (name, value) in [
        ("status", json!("in_progress")),
        ("output", json!([])),
        ("usage", Value::Null),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("completed_at", Value::Null),
    ] {
        begun.insert(name.to_owned(), value);
    }
    events.say("response.created", json!({"response": begun}));
    events.say("response.in_progress", json!({"response": begun}));
    let output = response.get("output").and_then(Value::as_array);
    for (index, item) in output.into_iter().flatten().enumerate() {
        events.item(index, item);
    }
    let status = response.get("status").and_then(Value::as_str);
    let end = format!("response.{}", status.unwrap_or_default());
    events.say(&end, json!({"response": response}));
    events.out
}

struct Events {
    after: Option<u64>,
    number: u64,
    out: String,
}

impl Events {
    fn say(&mut self, kind: &str, mut event: Value) {
        let number = self.number;
        self.number += 1;
        if self.after.is_some_and(|after| number <= after) {
            return;
        }
        event["type"] = kind.into();
        event["sequence_number"] = number.into();
        let _ = write!(self.out, "event: {kind}\ndata: {event}\n\n");
    }

    /// The piece of a text, and its end.
    fn text(&mut self, kind: &str, place: &Value, name: &str, text: &Value) {
        let mut piece = place.clone();
        piece["delta"] = text.clone();
        self.say(&format!("{kind}.delta"), piece);
        let mut whole = place.clone();
        whole[name] = text.clone();
        self.say(&format!("{kind}.done"), whole);
    }

    fn item(&mut self, index: usize, item: &Value) {
        let kind = item["type"].as_str().unwrap_or_default();
        let emptied: &[(&str, Value)] = match kind {
            "message" => &[("content", json!([]))],
            "function_call" => &[("arguments", json!(""))],
            "custom_tool_call" => &[("input", json!(""))],
            "reasoning" => &[("summary", json!([]))],
            _ => &[],
        };
        let mut begun = item.clone();
        for (name, empty) in emptied {
            begun[*name] = empty.clone();
        }
        if begun.get("status").is_some() {
            begun["status"] = "in_progress".into();
        }
        let added = json!({"output_index": index, "item": begun});
        self.say("response.output_item.added", added);
        let place = json!({"output_index": index, "item_id": item["id"]});
        match kind {
            "message" => self.parts(&place, &item["content"]),
            "reasoning" => {
                self.summaries(&place, &item["summary"]);
                self.parts(&place, &item["content"]);
            }
            "function_call" => {
                let kind = "response.function_call_arguments";
                self.text(kind, &place, "arguments", &item["arguments"]);
            }
            "custom_tool_call" => {
                let kind = "response.custom_tool_call_input";
                self.text(kind, &place, "input", &item["input"]);
            }
            _ => {}
        }
        let done = json!({"output_index": index, "item": item});
        self.say("response.output_item.done", done);
    }

    fn parts(&mut self, place: &Value, parts: &Value) {
        for (index, part) in parts.as_array().into_iter().flatten().enumerate() {
            let mut place = place.clone();
            place["content_index"] = index.into();
            let (kind, name) = match part["type"].as_str() {
                Some("refusal") => ("response.refusal", "refusal"),
                Some("reasoning_text") => ("response.reasoning_text", "text"),
                _ => ("response.output_text", "text"),
            };
            let mut begun = part.clone();
            begun[name] = "".into();
            if part.get("annotations").is_some() {
                begun["annotations"] = json!([]);
            }
            let mut added = place.clone();
            added["part"] = begun;
            self.say("response.content_part.added", added);
            let mut of_text = place.clone();
            if kind == "response.output_text" {
                of_text["logprobs"] = part.get("logprobs").cloned().unwrap_or(json!([]));
            }
            self.text(kind, &of_text, name, &part[name]);
            let annotations = part["annotations"].as_array();
            for (n, annotation) in annotations.into_iter().flatten().enumerate() {
                let mut added = place.clone();
                added["annotation_index"] = n.into();
                added["annotation"] = annotation.clone();
                self.say("response.output_text.annotation.added", added);
            }
            let mut done = place;
            done["part"] = part.clone();
            self.say("response.content_part.done", done);
        }
    }

    fn summaries(&mut self, place: &Value, parts: &Value) {
        for (index, part) in parts.as_array().into_iter().flatten().enumerate() {
            let mut place = place.clone();
            place["summary_index"] = index.into();
            let mut added = place.clone();
            added["part"] = json!({"type": part["type"], "text": ""});
            self.say("response.reasoning_summary_part.added", added);
            let kind = "response.reasoning_summary_text";
            self.text(kind, &place, "text", &part["text"]);
            place["part"] = part.clone();
            self.say("response.reasoning_summary_part.done", place);
        }
    }
}
