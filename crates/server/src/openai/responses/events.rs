//! A response as the events of OpenAI's streams: while its answer arrives, or all of them when it is complete. Clients put
//! it together again from these.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::openai::arriving::Piece;
use crate::openai::stream::{Changed, rest, rest_of_arguments};

/// The events of a response that has ended, after the one with the number `after`.
pub(super) fn events(response: &Map<String, Value>, after: Option<u64>) -> String {
    let mut events = Events {
        after,
        ..Events::default()
    };
    // Nothing was sent that it could differ from.
    let _ = events.end(response);
    events.take()
}

/// Writes the events of one response.
#[derive(Default)]
pub(super) struct Events {
    /// Events up to this number are left out.
    after: Option<u64>,
    number: u64,
    out: String,
    has_begun: bool,
    /// The end of the ids of items.
    id: String,
    /// The items with a part that was sent.
    items: Vec<SentItem>,
    /// Items of the provider without any part yet.
    waiting: Vec<Value>,
    /// The provider's own items are sent, with their ids.
    is_given: bool,
}

/// What was sent of an item.
#[derive(Default)]
struct SentItem {
    id: String,
    kind: String,
    /// It at its beginning.
    begun: Value,
    /// The parts of its summary, and of its content.
    summary: Vec<SentPart>,
    content: Vec<SentPart>,
    /// The name in events of the part that was begun last.
    part: &'static str,
    /// The arguments or the input of a call.
    arguments: String,
}

/// What was sent of a part.
struct SentPart {
    /// It at its beginning.
    begun: Value,
    text: String,
}

impl SentPart {
    fn whole(&self) -> Value {
        let mut part = self.begun.clone();
        let name = names(&part).1;
        if let Some(fields) = part.as_object_mut() {
            fields.insert(name.to_owned(), self.text.as_str().into());
        }
        part
    }
}

impl SentItem {
    /// The item with what was sent of it; nothing follows.
    fn cut(&self) -> Value {
        let mut item = self.begun.clone();
        let Some(fields) = item.as_object_mut() else {
            return item;
        };
        for (name, parts) in [("summary", &self.summary), ("content", &self.content)] {
            if !parts.is_empty() {
                let parts = parts.iter().map(SentPart::whole).collect();
                fields.insert(name.to_owned(), parts);
            }
        }
        if !self.arguments.is_empty() {
            let name = call_names(&self.kind).1;
            fields.insert(name.to_owned(), self.arguments.as_str().into());
        }
        if fields.contains_key("status") {
            fields.insert("status".to_owned(), "incomplete".into());
        }
        item
    }

    /// The last text of the part that was begun last.
    fn text(&mut self) -> Option<&mut String> {
        match self.part {
            SUMMARY => self.summary.last_mut(),
            _ => self.content.last_mut(),
        }
        .map(|part| &mut part.text)
    }
}

const SUMMARY: &str = "reasoning_summary_text";

/// The name of the texts of a part in events, and of the field with the text.
fn names(part: &Value) -> (&'static str, &'static str) {
    match part["type"].as_str() {
        Some("refusal") => ("refusal", "refusal"),
        Some("reasoning_text") => ("reasoning_text", "text"),
        Some("summary_text") => (SUMMARY, "text"),
        _ => ("output_text", "text"),
    }
}

/// An item before its contents.
fn begun(item: &Value) -> Value {
    let emptied: &[(&str, Value)] = match item["type"].as_str() {
        Some("message") => &[("content", json!([]))],
        Some("function_call") => &[("arguments", json!(""))],
        Some("custom_tool_call") => &[("input", json!(""))],
        Some("reasoning") => &[("summary", json!([]))],
        _ => &[],
    };
    let mut begun = item.clone();
    for (name, empty) in emptied {
        begun[*name] = empty.clone();
    }
    if begun.get("status").is_some() {
        begun["status"] = "in_progress".into();
    }
    begun
}

/// A part before its text.
fn begun_part(part: &Value) -> Value {
    let (kind, name) = names(part);
    if kind == SUMMARY {
        return json!({"type": part["type"], "text": ""});
    }
    let mut begun = part.clone();
    begun[name] = "".into();
    if part.get("annotations").is_some() {
        begun["annotations"] = json!([]);
    }
    begun
}

impl Events {
    /// The events since the last time.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

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

    /// Begins a response. `id` is the end of the ids of its items.
    pub fn begin(&mut self, response: &Map<String, Value>, id: &str) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        id.clone_into(&mut self.id);
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
        self.say("response.created", json!({"response": begun}));
        self.say("response.in_progress", json!({"response": begun}));
    }

    /// A refusal is the whole answer, without the items that were sent before it: adds them.
    pub fn keep_before_refusal(&self, response: &mut Map<String, Value>) {
        let output = response.get("output").and_then(Value::as_array);
        let Some([refusal]) = output.map(|output| &output[..]) else {
            return;
        };
        if self.items.is_empty() || refusal["content"][0]["type"] != "refusal" {
            return;
        }
        let mut refusal = refusal.clone();
        let id = refusal["id"].as_str().unwrap_or_default();
        if self.items.iter().any(|item| item.id == id) {
            refusal["id"] = format!("{id}_refusal").into();
        }
        let sent = self.items.iter().map(SentItem::cut);
        let all: Value = sent.chain([refusal]).collect();
        response.insert("output".to_owned(), all);
    }

    /// Moves the items with a part that was sent to the front: a provider may send reasoning, or its signature, after the
    /// beginning of the text.
    ///
    /// # Errors
    /// If an item is not there any more.
    pub fn order(&self, response: &mut Map<String, Value>) -> Result<(), Changed> {
        let Some(Value::Array(output)) = response.get_mut("output") else {
            return Ok(());
        };
        for (to, sent) in self.items.iter().enumerate() {
            let is_it = |item: &Value| item["id"] == sent.id.as_str();
            let from = output.iter().position(is_it).ok_or(Changed)?;
            if from < to || self.is_given && from != to {
                return Err(Changed);
            }
            output[to..=from].rotate_right(1);
        }
        Ok(())
    }

    /// Ends a response, with the rest of its items.
    ///
    /// # Errors
    /// If it differs from what was sent.
    pub fn end(&mut self, response: &Map<String, Value>) -> Result<(), Changed> {
        self.begin(response, "");
        let output = response.get("output").and_then(Value::as_array);
        let mut sent = std::mem::take(&mut self.items).into_iter();
        for (index, item) in output.into_iter().flatten().enumerate() {
            self.item(index, item, sent.next())?;
        }
        self.close(response);
        Ok(())
    }

    /// Ends a response without more of its items.
    pub fn close(&mut self, response: &Map<String, Value>) {
        self.begin(response, "");
        let status = response.get("status").and_then(Value::as_str);
        let end = format!("response.{}", status.unwrap_or_default());
        self.say(&end, json!({"response": response}));
    }

    /// The event of an error, with these further fields.
    pub fn error(&mut self, code: &str, message: &str, mut fields: Value) {
        fields["code"] = code.into();
        fields["message"] = message.into();
        fields["param"] = Value::Null;
        self.say("error", fields);
    }

    /// The rest of a text, and its end.
    fn text(&mut self, kind: &str, place: &Value, (name, text): (&str, &Value), more: &str) {
        if !more.is_empty() || text == "" {
            let mut piece = place.clone();
            piece["delta"] = more.into();
            self.say(&format!("response.{kind}.delta"), piece);
        }
        let mut whole = place.clone();
        whole[name] = text.clone();
        self.say(&format!("response.{kind}.done"), whole);
    }

    fn item(&mut self, index: usize, item: &Value, sent: Option<SentItem>) -> Result<(), Changed> {
        let kind = item["type"].as_str().unwrap_or_default();
        let is_new = sent.is_none();
        let sent = sent.unwrap_or_default();
        if is_new {
            let added = json!({"output_index": index, "item": begun(item)});
            self.say("response.output_item.added", added);
        } else if item["id"] != sent.id.as_str() || kind != sent.kind {
            return Err(Changed);
        }
        let place = json!({"output_index": index, "item_id": item["id"]});
        match kind {
            "message" => self.parts(&place, &item["content"], &sent.content)?,
            "reasoning" => {
                self.parts(&place, &item["summary"], &sent.summary)?;
                self.parts(&place, &item["content"], &sent.content)?;
            }
            "function_call" | "custom_tool_call" => {
                let (kind, name) = call_names(kind);
                let more =
                    rest_of_arguments(item[name].as_str().unwrap_or_default(), &sent.arguments)?;
                self.text(kind, &place, (name, &item[name]), more);
            }
            _ => {}
        }
        let done = json!({"output_index": index, "item": item});
        self.say("response.output_item.done", done);
        Ok(())
    }

    fn parts(&mut self, place: &Value, parts: &Value, sent: &[SentPart]) -> Result<(), Changed> {
        let parts = parts.as_array().map(Vec::as_slice).unwrap_or_default();
        if sent.len() > parts.len() {
            return Err(Changed);
        }
        for (index, part) in parts.iter().enumerate() {
            let (kind, name) = names(part);
            let place = self.part(place, index, part, sent.get(index).is_none());
            let sent = sent.get(index).map_or("", |sent| &sent.text);
            let more = rest(part[name].as_str().unwrap_or_default(), sent)?;
            let mut of_text = place.clone();
            if kind == "output_text" {
                of_text["logprobs"] = part.get("logprobs").cloned().unwrap_or(json!([]));
            }
            self.text(kind, &of_text, (name, &part[name]), more);
            let annotations = part["annotations"].as_array();
            for (n, annotation) in annotations.into_iter().flatten().enumerate() {
                let mut added = place.clone();
                added["annotation_index"] = n.into();
                added["annotation"] = annotation.clone();
                self.say("response.output_text.annotation.added", added);
            }
            let mut done = place;
            done["part"] = part.clone();
            let kind = if kind == SUMMARY {
                "reasoning_summary_part"
            } else {
                "content_part"
            };
            self.say(&format!("response.{kind}.done"), done);
        }
        Ok(())
    }

    /// The place of a part, which is added if it `is_new`.
    fn part(&mut self, place: &Value, index: usize, part: &Value, is_new: bool) -> Value {
        let mut place = place.clone();
        let (kind, number) = if names(part).0 == SUMMARY {
            ("reasoning_summary_part", "summary_index")
        } else {
            ("content_part", "content_index")
        };
        place[number] = index.into();
        if is_new {
            let mut added = place.clone();
            added["part"] = begun_part(part);
            self.say(&format!("response.{kind}.added"), added);
        }
        place
    }

    /// The events of a piece.
    pub fn piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Item(item) => {
                self.is_given = true;
                self.waiting.push(item.clone());
            }
            Piece::Part(part) => {
                self.add_waiting();
                self.add_part(part);
            }
            Piece::Text(text) => {
                let part =
                    json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
                self.say_text("message", "msg", &part, text);
            }
            Piece::Reasoning(text) => {
                let part = json!({"type": "summary_text", "text": ""});
                self.say_text("reasoning", "rs", &part, text);
            }
            Piece::ToolCall { .. } if self.is_given => self.add_waiting(),
            Piece::ToolCall { number, id, name } => {
                let item = json!({
                    "type": "function_call", "id": format!("fc_{}_{number}", self.id), "status": "in_progress",
                    "call_id": id, "name": name, "arguments": "",
                });
                self.add_item(&item);
            }
            Piece::Arguments { number, text } => {
                let id = format!("fc_{}_{number}", self.id);
                let found = self
                    .items
                    .iter()
                    .rposition(|item| self.is_given || item.id == id);
                if let Some(index) = found {
                    let item = &mut self.items[index];
                    item.arguments += text;
                    let (kind, _) = call_names(&item.kind);
                    let delta = json!({"output_index": index, "item_id": item.id, "delta": text});
                    self.say(&format!("response.{kind}.delta"), delta);
                }
            }
        }
    }

    fn add_item(&mut self, item: &Value) {
        let word = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let index = self.items.len();
        self.items.push(SentItem {
            id: word("id"),
            kind: word("type"),
            begun: item.clone(),
            ..SentItem::default()
        });
        let added = json!({"output_index": index, "item": item});
        self.say("response.output_item.added", added);
    }

    fn add_waiting(&mut self) {
        for item in std::mem::take(&mut self.waiting) {
            self.add_item(&item);
        }
    }

    /// Begins a part of the last item.
    fn add_part(&mut self, part: &Value) {
        let Some(index) = self.items.len().checked_sub(1) else {
            return;
        };
        let kind = names(part).0;
        let item = &mut self.items[index];
        item.part = kind;
        let parts = if kind == SUMMARY {
            &mut item.summary
        } else {
            &mut item.content
        };
        let number = parts.len();
        parts.push(SentPart {
            begun: part.clone(),
            text: String::new(),
        });
        let place = json!({"output_index": index, "item_id": item.id});
        self.part(&place, number, part, true);
    }

    /// A piece of the text of the item of this kind, which begins with it if necessary.
    fn say_text(&mut self, kind: &str, prefix: &str, part: &Value, text: &str) {
        self.add_waiting();
        let found = self.items.iter().rposition(|item| item.kind == kind);
        let index = found.unwrap_or(self.items.len());
        if found.is_none() {
            let mut item = json!({"type": kind, "id": format!("{prefix}_{}", self.id)});
            match kind {
                "message" => {
                    item["status"] = "in_progress".into();
                    item["role"] = "assistant".into();
                    item["content"] = json!([]);
                }
                _ => item["summary"] = json!([]),
            }
            self.add_item(&item);
            self.add_part(part);
        }
        let item = &mut self.items[index];
        let name = item.part;
        let Some(sent) = item.text() else {
            return;
        };
        sent.push_str(text);
        let (of, number) = match name {
            SUMMARY => ("summary_index", item.summary.len() - 1),
            _ => ("content_index", item.content.len() - 1),
        };
        let mut delta =
            json!({"output_index": index, "item_id": item.id, of: number, "delta": text});
        if name == "output_text" {
            delta["logprobs"] = json!([]);
        }
        self.say(&format!("response.{name}.delta"), delta);
    }
}

/// The name of the text of a call in events, and of its field.
fn call_names(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "custom_tool_call" => ("custom_tool_call_input", "input"),
        _ => ("function_call_arguments", "arguments"),
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
