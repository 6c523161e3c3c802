//! What a job came to, in OpenAI's words: a completion, a vector, or an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::client::{RawJson, ToolCall};
use batchwright::queue::JobResult;
use batchwright::{Error, ErrorKind, FinishReason, JobId, Outcome, Response as Answer, Usage};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::EMBEDDINGS;

/// The beginning of the ids of completions.
pub(super) const COMPLETION: &str = "chatcmpl-";

/// The calls of tools in a message.
fn tool_calls(calls: &[ToolCall]) -> Value {
    let written = |call: &ToolCall| match &call.arguments {
        Value::String(written) => written.clone(),
        arguments => arguments.to_string(),
    };
    let calls = calls.iter().map(|call| {
        let function = json!({"name": call.name, "arguments": written(call)});
        json!({"id": call.id, "type": "function", "function": function})
    });
    calls.collect()
}

/// What a job that calls a model came to.
pub(super) fn outcome(result: &JobResult) -> Result<Answer, Error> {
    if let Some(line) = &result.result
        && let Ok(outcome) = serde_json::from_str::<Outcome>(line.get())
    {
        return outcome.result;
    }
    let error = result.error.clone();
    Err(error.unwrap_or_else(|| {
        Error::new(
            ErrorKind::Cancelled,
            "the request was cancelled before it was carried out",
        )
    }))
}

/// An id of a reply, the same whenever it is asked for.
pub(super) fn id_of(what: &str, job: JobId) -> String {
    format!("{what}{}", job.to_string().replace('-', ""))
}

/// The choice of a completion. A refusal is an answer, too.
fn choice(result: &Result<Answer, Error>) -> Option<Value> {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            let refusal = error.refusal()?;
            let message = json!({"role": "assistant", "content": null, "refusal": refusal});
            return Some(
                json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}),
            );
        }
    };
    let details = answer.details();
    let audio = details.reply.as_ref().and_then(audio);
    let is_spoken = |audio: &Value| audio["transcript"] == answer.text.as_str();
    let silent = answer.text.is_empty() && !details.tool_calls.is_empty();
    let content = if silent || audio.as_ref().is_some_and(is_spoken) {
        Value::Null
    } else {
        answer.text.as_str().into()
    };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if let Some(audio) = audio {
        message["audio"] = audio;
    }
    if !details.tool_calls.is_empty() {
        message["tool_calls"] = tool_calls(&details.tool_calls);
    }
    let annotates = |citation: &Value| citation["type"].is_string();
    if !details.citations.is_empty() && details.citations.iter().all(annotates) {
        message["annotations"] = details.citations.clone().into();
    }
    if let Some(reasoning) = &details.reasoning
        && !reasoning.text.is_empty()
    {
        // The name that servers of open models have for it.
        message["reasoning_content"] = reasoning.text.as_str().into();
    }
    let logprobs = details.logprobs.as_ref();
    let logprobs = logprobs.and_then(|json| json.parse::<Value>().ok());
    let logprobs = logprobs.filter(|json| json.get("content").is_some());
    let finish = match &answer.finish_reason {
        FinishReason::Other(word)
            if !["content_filter", "function_call"].contains(&word.as_str()) =>
        {
            "stop"
        }
        reason => reason.as_str(),
    };
    Some(json!({"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}))
}

/// The audio of a reply in OpenAI's format, which has one choice.
fn audio(reply: &RawJson) -> Option<Value> {
    let mut reply: Value = reply.parse().ok()?;
    let audio = reply.pointer_mut("/choices/0/message/audio")?.take();
    audio.is_object().then_some(audio)
}

/// A completion with the only part as its choice.
fn completion(
    id: String,
    created: u64,
    model: &str,
    result: &Result<Answer, Error>,
) -> Option<Value> {
    let choice = choice(result)?;
    let answer = result.as_ref().ok();
    let mut completion = json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": answer.and_then(|answer| answer.model.as_deref()).unwrap_or(model),
        "choices": [choice],
        "usage": usage(used(result)),
        "system_fingerprint": null,
    });
    if let Some(answer) = answer {
        let details = answer.details();
        if let Some(tier) = &details.service_tier {
            completion["service_tier"] = tier.as_str().into();
        }
        if !details.citations.is_empty() && details.citations.iter().all(Value::is_string) {
            completion["citations"] = details.citations.clone().into();
        }
        if let Some(warning) = &answer.warning {
            completion["warning"] = warning.as_str().into();
        }
    }
    Some(completion)
}

/// The body of an answer. Vectors are thousands of numbers each, which no tree is made of.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Reply {
    Json(Value),
    Vectors(Vectors),
    /// Of a line of several texts, as its job has written it.
    Written(Box<RawValue>),
}

/// The vectors of several texts.
#[derive(Serialize)]
pub(super) struct Vectors {
    object: &'static str,
    data: Vec<Vector>,
    model: String,
    usage: Value,
}

#[derive(Serialize)]
struct Vector {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Plain(Vec<f32>),
    Packed(String),
}

/// The reply to a request of which this has come, one for each of its parts; a completion has one part, and an id.
///
/// # Errors
/// The failure that it is instead.
pub(super) fn reply(
    endpoint: &str,
    id: String,
    created: u64,
    model: &str,
    mut given: Vec<Result<Answer, Error>>,
    as_base64: bool,
) -> Result<Reply, Error> {
    if endpoint == EMBEDDINGS {
        let answers = given.into_iter().collect::<Result<Vec<_>, _>>()?;
        return Ok(Reply::Vectors(vectors(model, answers, as_base64)));
    }
    let unread = || Error::new(ErrorKind::Malformed, "the answer cannot be read");
    let given = given.pop().ok_or_else(unread)?;
    match completion(id, created, model, &given) {
        Some(made) => Ok(Reply::Json(made)),
        None => Err(given.err().unwrap_or_else(unread)),
    }
}

/// The usage of a request, also of a failed one.
pub(super) fn used(result: &Result<Answer, Error>) -> Option<Usage> {
    match result {
        Ok(answer) => answer.usage,
        Err(error) => error.usage(),
    }
}

/// What a request used; null where nobody said so.
pub(super) fn usage(used: Option<Usage>) -> Value {
    let Some(sum) = used else {
        return Value::Null;
    };
    json!({
        "prompt_tokens": sum.input_tokens,
        "completion_tokens": sum.output_tokens,
        "total_tokens": sum.input_tokens.saturating_add(sum.output_tokens),
        "prompt_tokens_details": {
            "cached_tokens": sum.cached_input_tokens,
            "audio_tokens": sum.input_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum.reasoning_tokens,
            "audio_tokens": sum.output_audio_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// The vectors of several texts, in their order.
pub(super) fn vectors(model: &str, answers: Vec<Answer>, as_base64: bool) -> Vectors {
    let used = answers.iter().filter_map(|answer| answer.usage);
    let tokens: u64 = used.map(|usage| usage.input_tokens).sum();
    let named = answers.iter().find_map(|answer| answer.model.as_deref());
    let model = named.unwrap_or(model).to_owned();
    let data = answers.into_iter().enumerate().map(|(index, answer)| {
        let numbers = answer.embedding.unwrap_or_default();
        let embedding = if as_base64 {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            Numbers::Packed(STANDARD.encode(bytes))
        } else {
            Numbers::Plain(numbers)
        };
        let object = "embedding";
        Vector {
            object,
            index,
            embedding,
        }
    });
    Vectors {
        object: "list",
        data: data.collect(),
        model,
        usage: json!({"prompt_tokens": tokens, "total_tokens": tokens}),
    }
}

/// A failure as OpenAI would answer it: a status and an error.
pub(super) fn failure(error: &Error) -> (u16, Value) {
    let theirs =
        |range: std::ops::Range<u16>| error.status().filter(|status| range.contains(status));
    let (status, kind, code) = match error.kind() {
        ErrorKind::RateLimited => (429, "rate_limit_error", "rate_limit_exceeded"),
        ErrorKind::Quota => (429, "insufficient_quota", "insufficient_quota"),
        ErrorKind::UnknownModel => (404, "invalid_request_error", "model_not_found"),
        ErrorKind::Blocked => (400, "invalid_request_error", "content_filter"),
        ErrorKind::Invalid => {
            let status = theirs(400..500).unwrap_or(400);
            (status, "invalid_request_error", "invalid_request")
        }
        // The server's own key was refused, not the client's; or something on the way means the prompt.
        ErrorKind::Auth => match theirs(403..500) {
            Some(status) => (status, "invalid_request_error", "request_refused"),
            None => (502, "server_error", "provider_refused_key"),
        },
        ErrorKind::Malformed => (502, "server_error", "unusable_reply"),
        ErrorKind::Transient => (
            theirs(500..600).unwrap_or(503),
            "server_error",
            "unavailable",
        ),
        ErrorKind::DeadlineExceeded => (504, "server_error", "timeout"),
        kind => (500, "server_error", kind.as_str()),
    };
    let body =
        json!({"error": {"message": error.message(), "type": kind, "param": null, "code": code}});
    (status, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_tests::Has;
    use batchwright::client::{Reasoning, ReplyDetails};

    #[test]
    fn a_completion_says_all_that_is_kept_of_the_reply() {
        let mut details = ReplyDetails::default();
        details.reasoning = Some(Reasoning::new("hm"));
        details.logprobs = Some(RawJson::new(r#"{"content":[{"token":"hi"}]}"#));
        details.citations = vec![json!({"type": "url_citation"})];
        details.service_tier = Some("flex".to_owned());
        let mut answer = Answer::new("p", "hi").with_details(details);
        answer.model = Some("m-1".to_owned());
        let answer = answer.with_usage(Usage {
            input_tokens: 7,
            cached_input_tokens: 2,
            output_tokens: 5,
            reasoning_tokens: 3,
            ..Usage::default()
        });
        let made = completion("chatcmpl-1".to_owned(), 9, "m", &Ok(answer)).unwrap();
        let message = json!({
            "role": "assistant", "content": "hi", "refusal": null,
            "annotations": [{"type": "url_citation"}], "reasoning_content": "hm",
        });
        let expected = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 9, "model": "m-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop",
                "logprobs": {"content": [{"token": "hi"}]}}],
            "usage": {
                "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0,
                    "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
            },
            "system_fingerprint": null,
            "service_tier": "flex",
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn calls_of_tools_refusals_and_sound_are_messages() {
        let choice_of = |result| choice(&result).unwrap();
        let with = |text, details| choice_of(Ok(Answer::new("p", text).with_details(details)));
        let mut details = ReplyDetails::default();
        details.tool_calls = vec![
            ToolCall::new("c", "add", json!({"a": 1})),
            ToolCall::new("d", "say", json!("{not json")),
        ];
        with("", details).has(
            json!({"finish_reason": "tool_calls", "/message/content": null,
            "/message/tool_calls/0/function/arguments": r#"{"a":1}"#,
            "/message/tool_calls/1/function/arguments": "{not json"}),
        );
        let audio = json!({"id": "a", "data": "AAAA", "transcript": "hi"});
        let reply = json!({"choices": [{"message": {"content": null, "audio": audio}}]});
        let mut details = ReplyDetails::default();
        details.reply = Some(RawJson::new(&reply.to_string()));
        with("hi", details).has(json!({"/message/audio": audio, "/message/content": null}));
        let refused = Error::new(ErrorKind::Blocked, "refused");
        let refused = Err(refused.with_refusal(Some("No.".to_owned())));
        choice_of(refused).has(json!({"/message/refusal": "No."}));
        let filtered = Err(Error::new(ErrorKind::Blocked, "filtered"));
        assert!(choice(&filtered).is_none());
    }

    #[test]
    fn vectors_go_out_as_numbers_or_packed() {
        for (as_base64, form) in [(false, json!([1.0, -0.5])), (true, json!("AACAPwAAAL8="))] {
            let answers = vec![Answer::vector("p", vec![1.0, -0.5])];
            json!(vectors("m", answers, as_base64)).has(json!({"/data/0/embedding": form}));
        }
    }
}
