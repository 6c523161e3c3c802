//! Replies of OpenAI's Responses API: a list of items instead of choices.

use std::cell::Cell;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::{Error, Paid, Usage};
use crate::llm::nested_json::shallow;
use crate::llm::reply_details::{RawJson, ReplyDetails, ToolCall};
use crate::llm::response::Response;

use super::answer::{Answer, list, reasoning, tool_call};
use super::bounded;
use super::counts::{Count, CountDetails, counts, object, output_of};
use super::error_body::word;
use super::errors::failure_inside;
use super::reply_contents::Holds;
use super::vendor::Vendor;

#[derive(Deserialize)]
struct Reply<'b> {
    #[serde(default, deserialize_with = "bounded::word")]
    model: String,
    #[serde(default, deserialize_with = "bounded::word")]
    status: String,
    #[serde(default, deserialize_with = "bounded::rare")]
    incomplete_details: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    error: Option<Box<Value>>,
    #[serde(borrow)]
    output: Option<&'b RawValue>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::word")]
    service_tier: String,
}

/// Reads the body of a success reply.
///
/// # Errors
/// If it is not JSON of this format. The inner result is an error if the reply contains a failure or no usable answer.
pub(super) fn read(
    vendor: &Vendor,
    body: &[u8],
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    let usage = counts::<Counts>(reply.usage).and_then(|counts| counts.usage());
    if let Some(error) = reply.error.as_deref().filter(|error| !error.is_null()) {
        let cost_usd = None;
        let failure = failure_inside(vendor, error, body);
        return Ok(Err(failure.with_paid(Paid::new(usage, cost_usd))));
    }
    let why = reply.incomplete_details.as_deref();
    let why = word(why.and_then(|details| details.get("reason")));
    let mut answer = Answer {
        finish: match reply.status {
            status if status == "incomplete" && !why.is_empty() => why,
            status => status,
        },
        model: Some(reply.model),
        usage,
        ..Answer::default()
    };
    answer.details.service_tier = Some(reply.service_tier).filter(|tier| !tier.is_empty());
    let output = Output::read(reply.output);
    Ok(output.told(answer).conclude(vendor.name, body, unchecked))
}

#[derive(Default, Deserialize)]
struct Item<'b> {
    #[serde(rename = "type", default, deserialize_with = "bounded::field")]
    kind: Option<Value>,
    /// The content of a message. It is not parsed yet, because the probabilities in it are more values than the rest of
    /// a reply.
    #[serde(borrow)]
    content: Option<&'b RawValue>,
}

#[derive(Deserialize)]
struct Part<'b> {
    #[serde(default, deserialize_with = "bounded::field")]
    text: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    refusal: Option<Value>,
    #[serde(borrow)]
    annotations: Option<&'b RawValue>,
    #[serde(borrow)]
    logprobs: Option<&'b RawValue>,
}

/// The content of all output items, by kind.
#[derive(Default)]
struct Output {
    text: String,
    refusal: String,
    thoughts: String,
    blocks: Vec<Value>,
    details: ReplyDetails,
    holds: Holds,
    /// The probabilities of each part, without the brackets around them.
    logprobs: Vec<String>,
    /// The ids of calls whose result is in the output too.
    carried_out: Vec<String>,
    server_tool_calls: u64,
    web_search_calls: u64,
}

/// Stands for a part of an output that is too large to be parsed.
const TOO_MUCH: &str = "more than is read of a reply";

impl Output {
    /// Reads the items of an output. If one is too large or malformed, the others are read anyway.
    fn read(output: Option<&RawValue>) -> Self {
        let mut said = Self::default();
        let left = Cell::new(bounded::MOST_NODES);
        for item in said.items(output) {
            let of: Item<'_> = if bounded::is_object(item) {
                serde_json::from_str(item.get()).unwrap_or_default()
            } else {
                Item::default()
            };
            match word(of.kind.as_ref()).as_str() {
                "message" => {
                    for part in said.items(of.content) {
                        said.part(part, &left);
                    }
                }
                kind => match bounded::value(item.get().as_bytes(), &left) {
                    Ok(item) => said.item(kind, item),
                    Err(_) => said.holds.part(TOO_MUCH),
                },
            }
        }
        said
    }

    fn items<'b>(&mut self, list: Option<&'b RawValue>) -> Vec<&'b RawValue> {
        bounded::items(list).unwrap_or_else(|_| {
            self.holds.part(TOO_MUCH);
            Vec::new()
        })
    }

    fn part(&mut self, json: &RawValue, left: &Cell<usize>) {
        if !bounded::is_object(json) {
            return;
        }
        let Ok(part) = serde_json::from_str::<Part<'_>>(json.get()) else {
            self.holds.part(TOO_MUCH);
            return;
        };
        match (part.text, part.refusal) {
            (Some(Value::String(text)), _) => self.text += &text,
            (_, Some(Value::String(refusal))) => self.refusal += &refusal,
            _ => match bounded::value(json.get().as_bytes(), left) {
                Ok(block) => self.holds.block(&block),
                Err(_) => self.holds.part(TOO_MUCH),
            },
        }
        self.details.citations.extend(list(part.annotations));
        let logprobs = part.logprobs.map(|list| list.get().trim());
        let logprobs = logprobs.and_then(|list| list.strip_prefix('[')?.strip_suffix(']'));
        let logprobs = logprobs.filter(|list| !list.trim().is_empty());
        self.logprobs.extend(logprobs.map(str::to_owned));
    }

    fn item(&mut self, kind: &str, item: Value) {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let id = text("call_id").filter(|id| !id.is_empty());
        match kind {
            "reasoning" => {
                let parts = ["summary", "content"].map(|name| item.get(name)?.as_array());
                let parts = parts.into_iter().flatten().flatten();
                let texts = parts.filter_map(|part| part.get("text")?.as_str());
                self.thoughts.extend(texts);
                self.holds.block(&item);
                self.blocks.push(shallow(item));
            }
            "image_generation_call" if text("result").is_some() => {
                self.holds.media("image");
                self.server_tool_calls += 1;
            }
            _ if kind.ends_with("_output") => {
                self.carried_out.extend(id.map(str::to_owned));
                self.holds.block(&item);
            }
            "mcp_approval_request" => self.details.tool_calls.push(call(kind, item)),
            _ if kind == "function_call" || id.is_some() && text("execution") != Some("server") => {
                self.details.tool_calls.push(call(kind, item));
            }
            _ => {
                let is_call = kind.ends_with("_call");
                self.server_tool_calls += u64::from(is_call);
                // Opening a page that was found is not billed.
                let action = item.pointer("/action/type").and_then(Value::as_str);
                let searches = kind == "web_search_call" && action.is_none_or(|a| a == "search");
                self.web_search_calls += u64::from(searches);
                let outputs = item.get("outputs").and_then(Value::as_array);
                let mut outputs = outputs.into_iter().flatten();
                if outputs.any(|output| output["type"] == "image") {
                    self.holds.media("image");
                }
                self.holds.block(&item);
            }
        }
    }

    /// Moves the content into the answer.
    fn told(mut self, mut answer: Answer) -> Answer {
        let before = self.details.tool_calls.len();
        let carried_out = &self.carried_out;
        let open = |call: &ToolCall| call.id.is_empty() || !carried_out.contains(&call.id);
        self.details.tool_calls.retain(open);
        self.server_tool_calls += (before - self.details.tool_calls.len()) as u64;
        answer.text = self.text;
        answer.refusal = Some(self.refusal).filter(|refusal| !refusal.is_empty());
        answer.usage = answer.usage.map(|usage| Usage {
            server_tool_calls: self.server_tool_calls,
            web_search_calls: self.web_search_calls,
            ..usage
        });
        self.details.service_tier = answer.details.service_tier;
        self.details.reasoning = reasoning(self.thoughts, self.blocks);
        self.details.logprobs = (!self.logprobs.is_empty())
            .then(|| RawJson::new(&format!("[{}]", self.logprobs.join(","))));
        answer.details = self.details;
        answer.holds = self.holds;
        answer
    }
}

/// A tool call: of a function, or of a tool that OpenAI defines and the caller executes, for example a shell. The
/// arguments of the latter are the other fields of the item.
fn call(kind: &str, mut item: Value) -> ToolCall {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = text("call_id").or_else(|| text("id"));
    let name = text("name").unwrap_or_else(|| kind.trim_end_matches("_call").to_owned());
    if kind == "custom_tool_call" {
        // The input of a custom tool is text, even if it looks like JSON.
        let input = item.get("input").cloned().unwrap_or_default();
        return ToolCall::new(id.unwrap_or_default(), name, shallow(input));
    }
    let arguments = match item.get("arguments") {
        Some(arguments) => Some(arguments.clone()),
        None if kind == "function_call" => None,
        None => {
            if let Some(fields) = item.as_object_mut() {
                fields.retain(|name, _| !OF_EVERY_CALL.contains(&name.as_str()));
            }
            Some(item)
        }
    };
    tool_call(id.as_deref(), Some(&name), arguments)
}

/// Fields of a call that are not arguments.
const OF_EVERY_CALL: [&str; 5] = ["type", "id", "call_id", "name", "status"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: Count,
    output_tokens: Count,
    total_tokens: Count,
    #[serde(deserialize_with = "object")]
    input_tokens_details: CountDetails,
    #[serde(deserialize_with = "object")]
    output_tokens_details: CountDetails,
}

impl Counts {
    fn usage(&self) -> Option<Usage> {
        let cached = self.input_tokens_details.cached_tokens;
        let reasoning = self.output_tokens_details.reasoning_tokens;
        let input_tokens = self.input_tokens.0?;
        Some(Usage {
            input_tokens,
            cached_input_tokens: cached.or_zero(),
            output_tokens: output_of(self.output_tokens, self.total_tokens, input_tokens)?,
            reasoning_tokens: reasoning.or_zero(),
            ..Usage::default()
        })
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
