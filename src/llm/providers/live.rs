//! Answers that arrive as a stream of events: which calls are made so, and the pieces of the answer while it arrives.
//! The complete answer is made of all events, see [`events`](super::events).

use std::cell::Cell;
use std::collections::HashSet;

use parking_lot::Mutex;
use serde_json::Value;

use crate::base::{AnswerListener, AnswerPiece, Error, ErrorKind, Sent};
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::transport::HttpReply;

use super::access::Access;
use super::answer::interrupted;
use super::events;
use super::native;
use super::vendor::{Dialect, Streams, Vendor};

/// A stream has many times the bytes of the same answer in one piece: its limit is a multiple of the other one.
pub(super) const STREAM_FACTOR: u64 = 8;
/// Longest line of a stream that is read for its pieces, in bytes.
const LONGEST_LINE: usize = 1 << 20;
/// Most values in a single event.
const MOST_VALUES: usize = 10_000;
/// Bytes of text that are known before a piece, to recognize a key whose beginning was in the last one.
const TAIL: usize = 32;
/// Bytes of text that wait because they may be a part of a key.
const MOST_HELD: usize = 4096;
/// Most models that are remembered.
const MOST_MODELS: usize = 1000;

/// How a request can be streamed at a vendor; `None` if it cannot.
pub(super) fn streams(vendor: &Vendor, request: &Request) -> Option<Streams> {
    // Probabilities are dozens of values for each word, and sound has other formats in a stream.
    const IN_ONE_PIECE: [&str; 6] = [
        "logprobs",
        "top_logprobs",
        "modalities",
        "audio",
        "stream",
        "stream_options",
    ];
    let is_set =
        |value: Option<&Value>| value.is_some_and(|value| !value.is_null() && value != false);
    let own = native::own(vendor, request).map(|native| native.body());
    let fields = own.unwrap_or(&request.extra);
    // A field of the request itself must not be there twice.
    let is_there = own.is_some_and(|body| body.contains_key("stream"));
    let is_plain = !is_there && !IN_ONE_PIECE.iter().any(|name| is_set(fields.get(*name)));
    let is_prompt = request.task == RequestTask::Complete;
    vendor.streams.filter(|_| is_prompt && is_plain)
}

/// The models that were found not to stream, or not to report the usage of a stream.
#[derive(Default)]
pub(super) struct Unstreamed(Mutex<HashSet<String>>);

impl Unstreamed {
    pub fn has(&self, model: &str) -> bool {
        self.0.lock().contains(model)
    }

    pub fn add(&self, provider: &str, model: &str, why: &str) {
        let mut models = self.0.lock();
        if models.len() < MOST_MODELS && models.insert(model.to_owned()) {
            log::info!("{provider}: answers of {model:?} are not streamed any more: {why}");
        }
    }
}

/// Whether a provider may have rejected a call because its answer was to be streamed: the error has the word.
pub(super) fn may_be_refused(reply: &HttpReply) -> bool {
    let body = String::from_utf8_lossy(&reply.body).to_ascii_lowercase();
    let mut found = body.match_indices("stream");
    let is_word = |at: usize| !body[..at].ends_with(|before: char| before.is_alphanumeric());
    matches!(reply.status, 400 | 422) && found.any(|(at, _)| is_word(at))
}

/// The error of a stream that had begun. If the stream ended with an error, a part of the answer was made and may have been
/// billed: the call is repeated as one that was broken off, also if the provider was overloaded.
pub(super) fn broken_off(error: Error, body: &[u8]) -> Error {
    if !body.starts_with(b"{\"error\":") {
        return error;
    }
    if error.kind() == ErrorKind::RateLimited {
        let why = error.message().to_owned();
        return interrupted(why, body).with_retry_after(error.retry_after());
    }
    error.with_sent(Sent::Maybe)
}

/// Where a piece belongs.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Text,
    Reasoning,
    Arguments(usize),
}

impl Place {
    fn piece(self, text: &str) -> AnswerPiece<'_> {
        match self {
            Self::Text => AnswerPiece::Text(text),
            Self::Reasoning => AnswerPiece::Reasoning(text),
            Self::Arguments(number) => AnswerPiece::Arguments { number, text },
        }
    }
}

/// A call of a tool that has begun.
struct BegunCall {
    /// Its index in the stream.
    index: Option<u64>,
    id: String,
}

/// Reads a stream while it arrives, and passes the pieces of the answer on. If it meets something that it does not
/// understand, it passes on nothing more: the complete answer has it.
pub(super) struct LiveReader<'l> {
    dialect: Dialect,
    access: &'l Access,
    listener: &'l dyn AnswerListener,
    /// The beginning of a line.
    line: Vec<u8>,
    place: Place,
    /// The last text that was passed on, and the text that waits because it may be a part of a key.
    tail: String,
    held: String,
    calls: Vec<BegunCall>,
    has_reasoning: bool,
    /// A part of the answer has arrived, also one that is not passed on.
    has_begun: bool,
    is_stopped: bool,
}

impl<'l> LiveReader<'l> {
    pub fn new(dialect: Dialect, access: &'l Access, listener: &'l dyn AnswerListener) -> Self {
        Self {
            dialect,
            access,
            listener,
            line: Vec::new(),
            place: Place::Text,
            tail: String::new(),
            held: String::new(),
            calls: Vec::new(),
            has_reasoning: false,
            has_begun: false,
            is_stopped: false,
        }
    }

    /// Whether a part of the answer has arrived.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Reads the next bytes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !self.is_stopped
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
        {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.line(&line);
        }
        if !self.is_stopped {
            self.line.extend_from_slice(bytes);
            self.is_stopped = self.line.len() > LONGEST_LINE;
            // Only a part of the answer is this long.
            self.has_begun |= self.is_stopped;
        }
    }

    fn line(&mut self, line: &[u8]) {
        let line = std::str::from_utf8(line).ok();
        let Some(data) = line.and_then(events::data) else {
            self.is_stopped |= line.is_none();
            self.has_begun |= line.is_none();
            return;
        };
        match events::read(data, &Cell::new(MOST_VALUES)) {
            Some(event) if events::says(&event, "error") => self.is_stopped = true,
            Some(event) => {
                self.has_begun |= self.has_content(&event);
                self.event(&event);
            }
            None => {
                // It may be a part of the answer.
                self.has_begun = true;
                self.is_stopped = true;
            }
        }
    }

    /// Whether an event is a part of the answer, which may have been billed: also hidden reasoning, and a beginning without
    /// text.
    fn has_content(&self, event: &Value) -> bool {
        let any = |list: &Value, is_content: &dyn Fn(&Value) -> bool| {
            list.as_array().into_iter().flatten().any(is_content)
        };
        let has = |object: &Value, name: &str| match &object[name] {
            Value::Null => false,
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        match self.dialect {
            Dialect::OpenAi if event["type"].is_string() => ["item", "part", "delta"]
                .iter()
                .any(|name| has(event, name)),
            Dialect::OpenAi => any(&event["choices"], &|choice| {
                has(choice, "delta") || has(choice, "message")
            }),
            Dialect::Anthropic => ["content_block", "delta"]
                .iter()
                .any(|name| has(event, name)),
            Dialect::Gemini => any(&event["candidates"], &|candidate| {
                has(&candidate["content"], "parts")
            }),
            Dialect::Extract => false,
        }
    }

    fn event(&mut self, event: &Value) {
        match self.dialect {
            Dialect::OpenAi if event["type"].is_string() => self.response(event),
            Dialect::OpenAi => self.chat(event),
            Dialect::Anthropic => self.message(event),
            Dialect::Gemini => self.content(event),
            Dialect::Extract => {}
        }
    }

    fn chat(&mut self, event: &Value) {
        let choices = event["choices"].as_array().into_iter().flatten();
        for choice in choices.filter(|choice| choice["index"].as_u64().unwrap_or(0) == 0) {
            let delta = &choice["delta"];
            let unread = ["refusal", "function_call", "audio", "images"];
            let is_unread = |name: &&str| events::says(delta, name) && delta[*name] != "";
            // A message at the end is there in addition to its pieces.
            if unread.iter().any(is_unread) || events::says(choice, "message") {
                self.is_stopped = true;
                return;
            }
            let thoughts = ["reasoning", "reasoning_content"].map(|name| delta[name].as_str());
            let mut thoughts = thoughts.into_iter().flatten();
            if let Some(text) = thoughts.find(|text| !text.is_empty()) {
                self.say(Place::Reasoning, text);
            }
            match &delta["content"] {
                Value::String(text) => self.say(Place::Text, text),
                Value::Array(parts) => parts.iter().for_each(|part| self.part(part)),
                _ => {}
            }
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                self.chat_call(call);
            }
        }
    }

    /// A part of a content that is a list, as Mistral's.
    fn part(&mut self, part: &Value) {
        match (part["type"].as_str(), &part["thinking"]) {
            (Some("text"), _) => self.say(Place::Text, part["text"].as_str().unwrap_or_default()),
            (Some("thinking"), Value::String(text)) => self.say(Place::Reasoning, text),
            (Some("thinking"), Value::Array(parts)) => {
                for text in parts.iter().filter_map(|part| part["text"].as_str()) {
                    self.say(Place::Reasoning, text);
                }
            }
            _ => {}
        }
    }

    fn chat_call(&mut self, call: &Value) {
        let [function, custom] = ["function", "custom"].map(|name| &call[name]);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, index) = (word(&call["id"]), call["index"].as_u64());
        let name = word(function.get("name").unwrap_or(&custom["name"]));
        let begun = self.calls.iter().rposition(|begun| begun.index == index);
        // Some servers give all calls of a turn the index 0.
        let is_another =
            |number: &usize| !id.is_empty() && !name.is_empty() && self.calls[*number].id != id;
        let number = match begun.filter(|number| !is_another(number)) {
            Some(number) => number,
            None => self.begin_call(index, &id, &name),
        };
        let text = function.get("arguments").unwrap_or(&custom["input"]);
        self.say(Place::Arguments(number), text.as_str().unwrap_or_default());
    }

    fn message(&mut self, event: &Value) {
        let index = event["index"].as_u64();
        let (block, delta) = (&event["content_block"], &event["delta"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["type"].as_str() {
            Some("content_block_start") => match block["type"].as_str() {
                Some("text") => self.say(Place::Text, &text(&block["text"])),
                Some("thinking") => {
                    // The texts of several blocks are separated by an empty line.
                    if self.has_reasoning {
                        self.say(Place::Reasoning, "\n\n");
                    }
                    self.say(Place::Reasoning, &text(&block["thinking"]));
                }
                Some("tool_use") => {
                    self.begin_call(index, &text(&block["id"]), &text(&block["name"]));
                }
                _ => {}
            },
            Some("content_block_delta") => {
                self.say(Place::Text, &text(&delta["text"]));
                self.say(Place::Reasoning, &text(&delta["thinking"]));
                self.arguments(index, &text(&delta["partial_json"]));
            }
            _ => {}
        }
    }

    fn content(&mut self, event: &Value) {
        let parts = event.pointer("/candidates/0/content/parts");
        for part in parts.and_then(Value::as_array).into_iter().flatten() {
            let Some(text) = part["text"].as_str() else {
                // Calls come in one piece, often without an id.
                self.is_stopped = true;
                return;
            };
            let is_thought = part["thought"] == true;
            self.say(
                if is_thought {
                    Place::Reasoning
                } else {
                    Place::Text
                },
                text,
            );
        }
    }

    /// An event of OpenAI's Responses API.
    fn response(&mut self, event: &Value) {
        let index = event["output_index"].as_u64();
        let delta = event["delta"].as_str().unwrap_or_default();
        let kind = event["type"].as_str().unwrap_or_default();
        match kind.strip_prefix("response.").unwrap_or_default() {
            "output_item.added" => {
                let item = &event["item"];
                if let Some(item) = self.begun(item) {
                    self.listener.on_piece(AnswerPiece::Item(&item));
                }
                let word = |name: &str| item[name].as_str().unwrap_or_default();
                if ["function_call", "custom_tool_call"].contains(&word("type")) {
                    self.begin_call(index, word("call_id"), word("name"));
                }
            }
            "content_part.added" | "reasoning_summary_part.added" => {
                if event["part"]["type"] == "refusal" {
                    self.is_stopped = true;
                    return;
                }
                if let Some(part) = self.begun(&event["part"]) {
                    self.listener.on_piece(AnswerPiece::Part(&part));
                }
            }
            "output_text.delta" => self.say(Place::Text, delta),
            "reasoning_summary_text.delta" | "reasoning_text.delta" => {
                self.say(Place::Reasoning, delta);
            }
            "function_call_arguments.delta" | "custom_tool_call_input.delta" => {
                self.arguments(index, delta);
            }
            _ => {}
        }
    }

    /// An item or a part without its contents, which follow in pieces; `None` if it is not passed on.
    fn begun(&mut self, item: &Value) -> Option<Value> {
        let mut begun = item.clone();
        for name in ["arguments", "content", "input", "summary", "text"] {
            match begun.get_mut(name) {
                Some(Value::Array(items)) => items.clear(),
                Some(Value::String(text)) => text.clear(),
                _ => {}
            }
        }
        self.is_stopped |= !self.held.is_empty() || self.access.may_show_key(&begun.to_string());
        (!self.is_stopped).then_some(begun)
    }

    /// Begins a call, and returns its number. A call that the provider does not name gets its id from the complete answer.
    fn begin_call(&mut self, index: Option<u64>, id: &str, name: &str) -> usize {
        let number = self.calls.len();
        self.is_stopped |= id.is_empty() || name.is_empty() || !self.held.is_empty();
        self.is_stopped |= [id, name].iter().any(|word| self.access.may_show_key(word));
        self.calls.push(BegunCall {
            index,
            id: id.to_owned(),
        });
        if !self.is_stopped {
            self.listener
                .on_piece(AnswerPiece::ToolCall { number, id, name });
        }
        number
    }

    fn arguments(&mut self, index: Option<u64>, text: &str) {
        if let Some(number) = self.calls.iter().rposition(|call| call.index == index) {
            self.say(Place::Arguments(number), text);
        }
    }

    /// Passes a text on, unless it may be a part of a key, which some servers repeat.
    fn say(&mut self, place: Place, text: &str) {
        if text.is_empty() || self.is_stopped {
            return;
        }
        if place != self.place {
            // A key would be in one text.
            self.is_stopped = !self.held.is_empty();
            self.tail.clear();
            self.place = place;
        }
        self.held += text;
        let seen = format!("{}{}", self.tail, self.held);
        if self.is_stopped || self.access.may_show_key(&seen) {
            self.is_stopped |= self.held.len() > MOST_HELD;
            return;
        }
        self.has_reasoning |= place == Place::Reasoning;
        self.listener.on_piece(place.piece(&self.held));
        self.held.clear();
        let mut ends = seen.len().saturating_sub(TAIL)..;
        let tail = ends.find_map(|from| seen.get(from..));
        tail.unwrap_or_default().clone_into(&mut self.tail);
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
