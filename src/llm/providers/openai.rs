//! Replies in the OpenAI chat dialect.
//!
//! Spoken by OpenAI, xAI, Groq, Mistral and the local servers, with the differences that
//! [`Vendor`] lists. Decoding is lenient about what does not matter (a strange `usage` must not
//! cost a paid answer) and strict about what does (no text is no answer).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Paid, Usage, Usd};
use crate::llm::reply_details::{RawJson, ToolCall, shallow};
use crate::llm::response::Response;

use super::answer::{
    Answer, End, beginning, end, interrupted, name_calls, reasoning, telling, tool_call, unlike,
};
use super::errors::failure_inside;
use super::fields::{self, Counts, Raw, field, list, word};
use super::rules::word as value_word;
use super::vendor::Vendor;

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct Reply<'b> {
    id: Raw<'b>,
    #[serde(default, deserialize_with = "fields::any")]
    model: Option<Value>,
    #[serde(default, deserialize_with = "fields::first")]
    choices: Option<Choice<'b>>,
    usage: Raw<'b>,
    service_tier: Raw<'b>,
    /// Of xAI and Perplexity.
    citations: Raw<'b>,
    error: Raw<'b>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct Choice<'b> {
    #[serde(default, deserialize_with = "fields::any")]
    finish_reason: Option<Value>,
    /// Of a stream: what its chunks have said together.
    #[serde(alias = "delta")]
    message: Option<Message<'b>>,
    logprobs: Raw<'b>,
    /// OpenRouter: the finish reason of the provider behind it, and that provider's failure.
    native_finish_reason: Raw<'b>,
    error: Raw<'b>,
    /// Of LiteLLM.
    provider_specific_fields: Raw<'b>,
}

impl Choice<'_> {
    /// The word for the end of the answer. xAI names no end when the model wants a tool.
    fn finish(&mut self, is_silent: bool) -> serde_json::Result<String> {
        let behind = field(self.provider_specific_fields)?;
        let behind = behind
            .as_ref()
            .and_then(|fields| fields.get("native_finish_reason"));
        let native = match word(field(self.native_finish_reason)?) {
            native if native.is_empty() => value_word(behind),
            native => native,
        };
        Ok(telling(word(self.finish_reason.take()), native, is_silent))
    }
}

#[derive(Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct Message<'b> {
    #[serde(default, deserialize_with = "fields::any")]
    content: Option<Value>,
    refusal: Raw<'b>,
    tool_calls: Raw<'b>,
    /// The older form of one call.
    function_call: Raw<'b>,
    audio: Raw<'b>,
    images: Raw<'b>,
    reasoning: Raw<'b>,
    reasoning_content: Raw<'b>,
    /// Of OpenRouter.
    reasoning_details: Raw<'b>,
    /// Of LiteLLM: what Anthropic has signed, in its own shape.
    thinking_blocks: Raw<'b>,
    /// Of LiteLLM: what OpenAI has no field for, and its refusal.
    provider_specific_fields: Raw<'b>,
    annotations: Raw<'b>,
}

impl Message<'_> {
    /// What the message says, and whether it holds neither text nor media nor the call of a tool.
    fn said(self) -> serde_json::Result<(Answer, bool)> {
        let (content, audio) = (self.content, field(self.audio)?);
        let (calls, older) = (field(self.tool_calls)?, field(self.function_call)?);
        let images = list(self.images);
        let is_empty = |value: &Value| match value {
            Value::String(text) => text.trim().is_empty(),
            Value::Array(parts) => parts.is_empty(),
            value => value.is_null(),
        };
        let says_nothing = [&content, &audio, &calls, &older]
            .into_iter()
            .flatten()
            .all(is_empty);
        let is_silent = says_nothing && images.is_empty();
        let mut said = Answer::default();
        let behind = field(self.provider_specific_fields)?;
        let behind = behind.as_ref().and_then(|fields| fields.get("refusal"));
        let refusals = [word(field(self.refusal)?), value_word(behind)];
        said.refusal = refusals.into_iter().find(|text| !text.is_empty());
        let calls = match calls {
            Some(Value::Array(calls)) => calls,
            _ => Vec::new(),
        };
        let older = older.filter(Value::is_object);
        let older = older.map(|call| json!({ "function": call }));
        let calls = calls.into_iter().chain(older).filter(Value::is_object);
        said.details.tool_calls = calls.map(call).collect();
        let mut thoughts = read_content(&mut said, content);
        if let Some(Value::Object(mut audio)) = audio {
            said.holds.media("audio");
            // What is said in sound is written nowhere else.
            if said.text.is_empty()
                && let Some(Value::String(transcript)) = audio.remove("transcript")
            {
                said.text = transcript;
            }
        }
        if !images.is_empty() {
            said.holds.media("image");
        }
        let mut details = list(self.reasoning_details);
        details.extend(list(self.thinking_blocks));
        for text in [self.reasoning, self.reasoning_content] {
            if let Some(Value::String(text)) = field(text)?
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
        Ok((said, is_silent))
    }
}

/// Takes a content apart: a string, or a list of parts. Returns the thoughts in it, which Mistral
/// puts there.
fn read_content(said: &mut Answer, content: Option<Value>) -> String {
    let parts = match content {
        Some(Value::String(text)) => {
            said.text = text;
            return String::new();
        }
        Some(Value::Array(parts)) => parts,
        _ => return String::new(),
    };
    let mut thoughts = String::new();
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("text") => {
                said.text += part.get("text").and_then(Value::as_str).unwrap_or_default();
            }
            Some("thinking") => match part.get("thinking") {
                Some(Value::String(text)) => thoughts += text,
                Some(Value::Array(parts)) => {
                    thoughts.extend(parts.iter().filter_map(|part| part.get("text")?.as_str()))
                }
                _ => {}
            },
            Some("reference") => said.details.citations.push(shallow(part)),
            _ => said.holds.block(&part),
        }
    }
    thoughts
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
    text: &str,
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_str(text)?;
    let body = text.as_bytes();
    let counts = Counts::read(reply.usage);
    let (usage, cost_usd) = (usage(&counts, false), cost_usd(&counts));
    let paid = Paid::new(usage, cost_usd);
    let Some(mut choice) = reply.choices else {
        // Some gateways answer 200 and put the failure inside.
        return Ok(Err(match field(reply.error)? {
            Some(error) => failure_inside(vendor, &error, body),
            None => unlike("it has no choices", body).with_paid(paid),
        }));
    };
    let (mut answer, is_silent) = choice.message.take().unwrap_or_default().said()?;
    let finish = choice.finish(is_silent)?;
    if end(&finish) == Some(End::Interrupted)
        && let Some(error) = field(choice.error)?.filter(Value::is_object)
    {
        let error = failure_inside(vendor, &error, body).with_raw(&beginning(body));
        let begun = !is_silent || usage.is_some_and(|usage| usage.output_tokens > 0);
        let error = if error.kind() == ErrorKind::RateLimited && begun {
            // What was refused is asked again and again, but this was carried out and is paid for.
            interrupted(error.message().to_owned(), body).with_retry_after(error.retry_after())
        } else {
            error
        };
        return Ok(Err(error.with_paid(paid)));
    }
    let details = &mut answer.details;
    name_calls(&mut details.tool_calls, reply.id);
    details.citations.extend(list(reply.citations));
    details.logprobs = choice.logprobs.map(RawJson::of);
    details.service_tier = Some(word(field(reply.service_tier)?)).filter(|tier| !tier.is_empty());
    answer.finish = finish;
    answer.model = Some(word(reply.model));
    (answer.usage, answer.cost_usd) = (usage, cost_usd);
    Ok(answer.conclude(vendor.name, body, unchecked))
}

/// The tokens of a call, also if it `makes_vectors`, which are no tokens.
pub(super) fn usage(counts: &Counts<'_>, makes_vectors: bool) -> Option<Usage> {
    let input_tokens = counts.get("prompt_tokens")?;
    let stated = if makes_vectors {
        Some(0)
    } else {
        counts.get("completion_tokens")
    };
    let completion = counts.output(stated, "total_tokens", input_tokens)?;
    let read = counts.of("prompt_tokens_details");
    let written = counts.of("completion_tokens_details");
    let reasoning_tokens = written.or_zero("reasoning_tokens");
    // xAI leaves reasoning out of the completion but counts it in the total.
    let all = input_tokens + completion + reasoning_tokens;
    let is_apart = counts.get("total_tokens") == Some(all);
    // DeepSeek's word is the last.
    let cached = || counts.first_of(&["num_cached_tokens", "prompt_cache_hit_tokens"]);
    // Of LiteLLM, as Anthropic has it.
    let cache_written = || counts.get("cache_creation_input_tokens");
    let lasting = read.of("cache_creation_token_details");
    // Of OpenRouter as Anthropic has it, of xAI, and of Perplexity.
    let (tools, searches) = counts.of("server_tool_use").server_tools();
    let (own_tools, own_searches) = counts.of("server_side_tool_usage_details").server_tools();
    let web_search_calls = { searches }
        .max(own_searches)
        .max(counts.or_zero("num_search_queries"));
    Some(Usage {
        input_tokens,
        cached_input_tokens: read.get("cached_tokens").or_else(cached).unwrap_or(0),
        output_tokens: completion + if is_apart { reasoning_tokens } else { 0 },
        reasoning_tokens,
        cache_write_tokens: read
            .first_of(&["cache_write_tokens", "cache_creation_tokens"])
            .or_else(cache_written)
            .unwrap_or(0),
        cache_write_5m_tokens: lasting.or_zero("ephemeral_5m_input_tokens"),
        cache_write_1h_tokens: lasting.or_zero("ephemeral_1h_input_tokens"),
        input_audio_tokens: read.or_zero("audio_tokens"),
        input_image_tokens: read.or_zero("image_tokens"),
        output_audio_tokens: written.or_zero("audio_tokens"),
        output_image_tokens: written.or_zero("image_tokens"),
        server_tool_calls: tools
            .max(own_tools)
            .max(counts.or_zero("num_server_side_tools_used"))
            .max(web_search_calls),
        web_search_calls,
        sources_used: counts.or_zero("num_sources_used"),
    })
}

/// The price of the call, where the provider states it: xAI in ticks of 1e-10 dollars, OpenRouter in
/// dollars, Perplexity as the total of an object. For a call with the user's own key of that
/// provider, OpenRouter states its fee, and beside it the price of the provider.
fn cost_usd(counts: &Counts<'_>) -> Option<Usd> {
    if let Some(ticks) = counts
        .value("cost_in_usd_ticks")
        .and_then(|ticks| ticks.as_u64())
    {
        return Some(Usd::from_picos(ticks.saturating_mul(100)));
    }
    let dollars = |value: &Value| {
        let dollars = value.as_f64().filter(|cost| *cost >= 0.0)?;
        Usd::from_dollars(dollars)
    };
    let cost = counts.value("cost")?;
    let cost = dollars(cost.get("total_cost").unwrap_or(&cost))?;
    if counts.value("is_byok") != Some(Value::Bool(true)) {
        return Some(cost);
    }
    let upstream = counts.value("cost_details")?;
    Some(cost + dollars(upstream.get("upstream_inference_cost")?)?)
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
