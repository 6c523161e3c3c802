//! Replies in the OpenAI chat dialect.
//!
//! Spoken by OpenAI, xAI, Groq, Mistral and the local servers, with the differences that
//! [`Vendor`] lists. Decoding is lenient about what does not matter (a strange `usage` must not
//! cost a paid answer) and strict about what does (no text is no answer).

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Paid, Usage, Usd};
use crate::llm::nested_json::shallow;
use crate::llm::reply_details::{RawJson, ReplyDetails, ToolCall};
use crate::llm::response::Response;

use super::answer::{
    Answer, beginning, interrupted, list, name_calls, reasoning, tool_call, unlike,
};
use super::bounded;
use super::counts::{Count, CountDetails, counts, object, output_of, server_tools};
use super::ends::{self, End};
use super::error_body::{own_word, word};
use super::errors::failure_inside;
use super::reply_contents::Holds;
use super::vendor::Vendor;

mod usual;

#[derive(Deserialize)]
struct Reply<'b> {
    #[serde(borrow)]
    id: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::word")]
    model: String,
    #[serde(borrow, default, deserialize_with = "bounded::first")]
    choices: Option<Choice<'b>>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::word")]
    service_tier: String,
    /// Of xAI and Perplexity.
    #[serde(borrow)]
    citations: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::rare")]
    error: Option<Box<Value>>,
}

#[derive(Deserialize)]
struct Choice<'b> {
    #[serde(default, deserialize_with = "bounded::word")]
    finish_reason: String,
    #[serde(borrow)]
    message: Option<Message<'b>>,
    /// As it came: the probabilities of a long answer are more values than anything else in a reply.
    #[serde(borrow)]
    logprobs: Option<&'b RawValue>,
    /// OpenRouter: the finish reason of the provider behind it, and that provider's failure.
    #[serde(default, deserialize_with = "bounded::rare")]
    native_finish_reason: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    error: Option<Box<Value>>,
    /// Of LiteLLM.
    #[serde(default, deserialize_with = "bounded::rare")]
    provider_specific_fields: Option<Box<Value>>,
}

impl Choice<'_> {
    /// The word for the end of the answer.
    fn finish(&mut self) -> String {
        let behind = self.provider_specific_fields.as_mut();
        let behind = behind.and_then(|fields| Some(fields.get_mut("native_finish_reason")?.take()));
        let native = self.native_finish_reason.take().map(|word| *word);
        // xAI names no end when the model wants a tool.
        let silent = self.message.as_ref().is_none_or(Message::is_silent);
        let own = std::mem::take(&mut self.finish_reason);
        ends::telling(own, own_word(native.or(behind)), silent)
    }
}

#[derive(Default, Deserialize)]
struct Message<'b> {
    #[serde(default, deserialize_with = "bounded::field")]
    content: Option<Value>,
    #[serde(default, deserialize_with = "bounded::rare")]
    refusal: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    tool_calls: Option<Box<Value>>,
    /// The older form of one call.
    #[serde(default, deserialize_with = "bounded::rare")]
    function_call: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    audio: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    images: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    reasoning: Option<Box<Value>>,
    #[serde(default, deserialize_with = "bounded::rare")]
    reasoning_content: Option<Box<Value>>,
    /// Of OpenRouter.
    #[serde(borrow)]
    reasoning_details: Option<&'b RawValue>,
    /// Of LiteLLM: what Anthropic has signed, in its own shape.
    #[serde(borrow)]
    thinking_blocks: Option<&'b RawValue>,
    /// Of LiteLLM: what OpenAI has no field for, and its refusal.
    #[serde(default, deserialize_with = "bounded::rare")]
    provider_specific_fields: Option<Box<Value>>,
    #[serde(borrow)]
    annotations: Option<&'b RawValue>,
}

/// What a message says, apart.
#[derive(Default)]
struct Said {
    text: String,
    details: ReplyDetails,
    holds: Holds,
}

impl Message<'_> {
    /// It holds neither text nor media nor the call of a tool.
    fn is_silent(&self) -> bool {
        let is_empty = |value: &Value| match value {
            Value::String(text) => text.trim().is_empty(),
            Value::Array(parts) => parts.is_empty(),
            value => value.is_null(),
        };
        let calls = [&self.tool_calls, &self.function_call];
        let said = [&self.audio, &self.images].into_iter().chain(calls);
        let said = said.filter_map(Option::as_deref);
        self.content.iter().chain(said).all(is_empty)
    }

    fn refusal(&self) -> Option<String> {
        let behind = self.provider_specific_fields.as_ref();
        let behind = behind.and_then(|fields| fields.get("refusal"));
        let mut said = [self.refusal.as_deref(), behind].into_iter().map(word);
        said.find(|text| !text.is_empty())
    }

    fn said(self) -> Said {
        let mut said = Said::default();
        let calls = match self.tool_calls.map(|calls| *calls) {
            Some(Value::Array(calls)) => calls,
            _ => Vec::new(),
        };
        let older = self.function_call.filter(|call| call.is_object());
        let older = older.map(|call| json!({ "function": call }));
        let calls = calls.into_iter().chain(older).filter(Value::is_object);
        said.details.tool_calls = calls.map(call).collect();
        let mut thoughts = said.content(self.content);
        if let Some(Value::Object(mut audio)) = self.audio.map(|audio| *audio) {
            said.holds.media("audio");
            // What is said in sound is written nowhere else.
            if said.text.is_empty()
                && let Some(Value::String(transcript)) = audio.remove("transcript")
            {
                said.text = transcript;
            }
        }
        let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        if self.images.as_deref().is_some_and(some) {
            said.holds.media("image");
        }
        let mut details = list(self.reasoning_details);
        details.extend(list(self.thinking_blocks));
        for text in [self.reasoning, self.reasoning_content] {
            if let Some(Value::String(text)) = text.map(|text| *text)
                && thoughts.is_empty()
            {
                thoughts = text;
            }
        }
        if thoughts.is_empty() {
            let told = |block: &Value| {
                let mut names = ["text", "summary", "thinking"].into_iter();
                let text = names.find_map(|name| block.get(name)?.as_str());
                text.map(str::to_owned)
            };
            thoughts = details.iter().filter_map(told).collect();
        }
        said.details.reasoning = reasoning(thoughts, details);
        if said.details.reasoning.is_some() {
            said.holds.part("thoughts");
        }
        said.details.citations.extend(list(self.annotations));
        said
    }
}

impl Said {
    /// Takes a content apart: a string, or a list of parts. Returns the thoughts in it, which Mistral
    /// puts there.
    fn content(&mut self, content: Option<Value>) -> String {
        let parts = match content {
            Some(Value::String(text)) => {
                self.text = text;
                return String::new();
            }
            Some(Value::Array(parts)) => parts,
            _ => return String::new(),
        };
        let mut thoughts = String::new();
        for part in parts {
            match part.get("type").and_then(Value::as_str) {
                Some("text") => {
                    self.text += part.get("text").and_then(Value::as_str).unwrap_or_default();
                }
                Some("thinking") => match part.get("thinking") {
                    Some(Value::String(text)) => thoughts += text,
                    Some(Value::Array(parts)) => {
                        thoughts.extend(parts.iter().filter_map(|part| part.get("text")?.as_str()))
                    }
                    _ => {}
                },
                Some("reference") => self.details.citations.push(shallow(part)),
                _ => self.holds.block(&part),
            }
        }
        thoughts
    }
}

/// A call as the message has it.
fn call(call: Value) -> ToolCall {
    let word =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = word(&call, "id");
    if let Some(custom) = call.get("custom").filter(|custom| custom.is_object()) {
        // What a custom tool is given is text, whatever it looks like.
        let input = custom.get("input").cloned().unwrap_or_default();
        let name = word(custom, "name").unwrap_or_default();
        return ToolCall::new(id.unwrap_or_default(), name, shallow(input));
    }
    let function = call.get("function").unwrap_or(&call);
    let name = word(function, "name");
    let mut read = tool_call(
        id.as_deref(),
        name.as_deref(),
        function.get("arguments").cloned(),
    );
    // Gemini's own OpenAI endpoint hangs it there.
    let signature = call.pointer("/extra_content/google/thought_signature");
    read.signature = signature.and_then(Value::as_str).map(str::to_owned);
    read
}

/// Reads the body of a success reply.
///
/// # Errors
/// When it is not the dialect's JSON; inside, when it holds a failure, or no usable answer.
pub(super) fn read(
    vendor: &Vendor,
    body: &[u8],
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    match usual::read(body) {
        Some(answer) => Ok(answer.conclude(vendor.name, body, unchecked)),
        None => read_any(vendor, body, unchecked),
    }
}

/// Reads a reply that may contain anything.
fn read_any(
    vendor: &Vendor,
    body: &[u8],
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    let Some(mut choice) = reply.choices else {
        // Some gateways answer 200 and put the failure inside.
        let inside = reply.error.as_deref().filter(|error| !error.is_null());
        return Ok(Err(match inside {
            Some(error) => failure_inside(vendor, error, body),
            None => {
                let counts = Counts::read(reply.usage);
                unlike("it has no choices", body).with_paid(counts.paid())
            }
        }));
    };
    let counts = Counts::read(reply.usage);
    let finish = choice.finish();
    if ends::end(&finish) == Some(End::Interrupted)
        && let Some(error) = choice.error.filter(|error| error.is_object())
    {
        let error = failure_inside(vendor, &error, body).with_raw(&beginning(body));
        let begun = choice.message.as_ref().is_some_and(|m| !m.is_silent());
        let begun = begun || counts.usage().is_some_and(|usage| usage.output_tokens > 0);
        let error = if error.kind() == ErrorKind::RateLimited && begun {
            // What was refused is asked again and again, but this was carried out and is paid for.
            interrupted(error.message().to_owned(), body).with_retry_after(error.retry_after())
        } else {
            error
        };
        return Ok(Err(error.with_paid(counts.paid())));
    }
    let message = choice.message.unwrap_or_default();
    let refusal = message.refusal();
    let mut said = message.said();
    let details = &mut said.details;
    name_calls(&mut details.tool_calls, reply.id);
    details.citations.extend(list(reply.citations));
    details.logprobs = choice.logprobs.map(RawJson::of);
    details.service_tier = Some(reply.service_tier).filter(|tier| !tier.is_empty());
    let answer = Answer {
        text: said.text,
        finish,
        refusal,
        category: None,
        model: Some(reply.model),
        usage: counts.usage(),
        cost_usd: counts.cost_usd(),
        details: said.details,
        holds: said.holds,
    };
    Ok(answer.conclude(vendor.name, body, unchecked))
}

/// Token counts as the dialect has them; what is no number counts as absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    num_cached_tokens: Count,
    /// DeepSeek's word for them.
    prompt_cache_hit_tokens: Count,
    cost_in_usd_ticks: Option<Box<Value>>,
    /// Of OpenRouter, in dollars.
    cost: Option<Box<Value>>,
    cost_details: Option<Box<Value>>,
    is_byok: Option<Box<Value>>,
    #[serde(deserialize_with = "object")]
    prompt_tokens_details: CountDetails,
    #[serde(deserialize_with = "object")]
    completion_tokens_details: CountDetails,
    /// Of LiteLLM, as Anthropic has it.
    cache_creation_input_tokens: Count,
    /// Of OpenRouter, as Anthropic has it.
    server_tool_use: Option<Box<Value>>,
    /// Of xAI.
    num_sources_used: Count,
    num_server_side_tools_used: Count,
    server_side_tool_usage_details: Option<Box<Value>>,
    /// Of Perplexity.
    num_search_queries: Count,
}

impl Counts {
    pub(super) fn read(raw: Option<&RawValue>) -> Self {
        counts(raw).unwrap_or_default()
    }

    /// The usage of vectors, which have no output tokens.
    pub(super) fn usage_of_vectors(mut self) -> Option<Usage> {
        self.completion_tokens = Count(Some(0));
        self.usage()
    }

    fn usage(&self) -> Option<Usage> {
        let input_tokens = self.prompt_tokens.0?;
        let completion = output_of(self.completion_tokens, self.total_tokens, input_tokens)?;
        let (read, written) = (&self.prompt_tokens_details, &self.completion_tokens_details);
        let reasoning_tokens = written.reasoning_tokens.or_zero();
        // xAI leaves reasoning out of the completion but counts it in the total.
        let apart = self.total_tokens.0 == Some(input_tokens + completion + reasoning_tokens);
        let cached = read
            .cached_tokens
            .or(self.num_cached_tokens)
            .or(self.prompt_cache_hit_tokens);
        let lasting = &read.cache_creation_token_details;
        let cache_written = read
            .cache_write_tokens
            .or(read.cache_creation_tokens)
            .or(self.cache_creation_input_tokens);
        let (tools, searches) = server_tools(self.server_tool_use.as_deref());
        let (xai_tools, xai_searches) =
            server_tools(self.server_side_tool_usage_details.as_deref());
        let web_search_calls = searches
            .max(xai_searches)
            .max(self.num_search_queries.or_zero());
        Some(Usage {
            input_tokens,
            cached_input_tokens: cached.or_zero(),
            output_tokens: if apart {
                completion + reasoning_tokens
            } else {
                completion
            },
            reasoning_tokens,
            cache_write_tokens: cache_written.or_zero(),
            cache_write_5m_tokens: lasting.ephemeral_5m_input_tokens.or_zero(),
            cache_write_1h_tokens: lasting.ephemeral_1h_input_tokens.or_zero(),
            input_audio_tokens: read.audio_tokens.or_zero(),
            input_image_tokens: read.image_tokens.or_zero(),
            output_audio_tokens: written.audio_tokens.or_zero(),
            output_image_tokens: written.image_tokens.or_zero(),
            server_tool_calls: tools
                .max(xai_tools)
                .max(self.num_server_side_tools_used.or_zero())
                .max(web_search_calls),
            web_search_calls,
            sources_used: self.num_sources_used.or_zero(),
        })
    }

    fn paid(&self) -> Paid {
        Paid::new(self.usage(), self.cost_usd())
    }

    /// The price of the call, where the provider states it: xAI in ticks of 1e-10 dollars, OpenRouter in
    /// dollars, Perplexity as the total of an object. To whoever brings a key of their own OpenRouter
    /// states its fee alone, and beside it what the provider behind it takes.
    fn cost_usd(&self) -> Option<Usd> {
        if let Some(ticks) = self.cost_in_usd_ticks.as_deref().and_then(Value::as_u64) {
            return Some(Usd::from_picos(ticks.saturating_mul(100)));
        }
        let cost = self.cost.as_deref()?;
        let total = cost.get("total_cost").unwrap_or(cost);
        let cost = total.as_f64().filter(|cost| *cost >= 0.0)?;
        let upstream = self.cost_details.as_deref();
        let upstream = upstream.and_then(|details| details.get("upstream_inference_cost"));
        let upstream = upstream.and_then(Value::as_f64).filter(|cost| *cost >= 0.0);
        let (cost, upstream) = (
            Usd::from_dollars(cost)?,
            upstream.and_then(Usd::from_dollars),
        );
        let is_byok = self.is_byok.as_deref() == Some(&Value::Bool(true));
        match (is_byok, upstream) {
            (true, upstream) => Some(cost + upstream?),
            (false, _) => Some(cost),
        }
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
