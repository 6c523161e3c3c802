//! Replies of OpenAI's Responses API: a list of items instead of choices.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error::Error;
use crate::base::usage::Usage;
use crate::llm::response::Response;

use super::answer::{Answer, End, Ends, count, count_in, counts, list, reasoning, tool_call};
use super::bounded;
use super::error_body::{own_word, word};
use super::errors::failure_inside;
use super::vendor::Vendor;

#[derive(Deserialize)]
struct Reply<'b> {
    #[serde(default, deserialize_with = "bounded::field")]
    model: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    status: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    incomplete_details: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    error: Option<Value>,
    #[serde(borrow)]
    output: Option<&'b RawValue>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::field")]
    service_tier: Option<Value>,
}

/// How a response stands; one that was cut off says why beside it.
const ENDS: Ends = &[
    ("completed", End::Complete),
    ("max_output_tokens", End::Cut),
    ("content_filter", End::Blocked),
    ("failed", End::Fault),
    ("cancelled", End::Fault),
];

/// Reads the body of a success reply.
///
/// # Errors
/// When it is not JSON of that shape; inside, when it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8]) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    if let Some(error) = reply.error.as_ref().filter(|error| !error.is_null()) {
        return Ok(Err(failure_inside(vendor, error, body)));
    }
    let why = reply.incomplete_details.as_ref();
    let why = word(why.and_then(|details| details.get("reason")));
    let mut answer = Answer {
        finish: match own_word(reply.status) {
            status if status == "incomplete" && !why.is_empty() => why,
            status => status,
        },
        model: Some(own_word(reply.model)),
        usage: counts::<Counts>(reply.usage).and_then(|counts| counts.usage()),
        ..Answer::default()
    };
    let tier = own_word(reply.service_tier);
    answer.details.service_tier = Some(tier).filter(|tier| !tier.is_empty());
    let (mut refusal, mut thoughts, mut blocks) = (String::new(), String::new(), Vec::new());
    for item in list(reply.output) {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        match text("type") {
            Some("message") => {
                let parts = item.get("content").and_then(Value::as_array);
                for part in parts.into_iter().flatten() {
                    let text = |name: &str| part.get(name).and_then(Value::as_str);
                    answer.text += text("text").unwrap_or_default();
                    refusal += text("refusal").unwrap_or_default();
                    let citations = part.get("annotations").and_then(Value::as_array);
                    let citations = citations.into_iter().flatten().cloned();
                    answer.details.citations.extend(citations);
                }
            }
            Some("function_call") => {
                let arguments = item.get("arguments").cloned();
                let call = tool_call(text("call_id"), text("name"), arguments);
                answer.details.tool_calls.push(call);
            }
            Some("reasoning") => {
                let parts = ["summary", "content"].map(|name| item.get(name)?.as_array());
                let parts = parts.into_iter().flatten().flatten();
                let texts = parts.filter_map(|part| part.get("text")?.as_str());
                thoughts.extend(texts);
                blocks.push(item);
            }
            _ => answer.holds.block(&item),
        }
    }
    answer.refusal = Some(refusal).filter(|refusal| !refusal.is_empty());
    answer.details.reasoning = reasoning(thoughts, blocks);
    if answer.details.reasoning.is_some() {
        answer.holds.part("thoughts");
    }
    Ok(answer.conclude(vendor.name, ENDS, body))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    #[serde(deserialize_with = "count")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    output_tokens: Option<u64>,
    input_tokens_details: Value,
    output_tokens_details: Value,
}

impl Counts {
    fn usage(&self) -> Option<Usage> {
        let cached = count_in(&self.input_tokens_details, "cached_tokens");
        let reasoning = count_in(&self.output_tokens_details, "reasoning_tokens");
        Some(Usage {
            input_tokens: self.input_tokens?,
            cached_input_tokens: cached.unwrap_or(0),
            output_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: reasoning.unwrap_or(0),
            ..Usage::default()
        })
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
