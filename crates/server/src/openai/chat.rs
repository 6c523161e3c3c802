//! `/v1/chat/completions` and `/v1/embeddings`: requests that are answered when their jobs have ended. A client that wants
//! a stream gets it as one chunk; each text of embeddings is a job, and the worker sends many with one call.

use serde_json::{Map, Value, json};

use super::answer::Reply;
use super::direct;
use super::parts::{MOST_BYTES, Parts};
use super::{CHAT, EMBEDDINGS};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `POST /v1/chat/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let is_streamed = takes_stream(&mut body)?;
    let options = body.remove("stream_options").unwrap_or_default();
    let with_usage = options["include_usage"] == true;
    let parts = Parts::of(CHAT, body)?;
    direct::answered(app, call, CHAT, parts, |reply| match reply {
        Reply::Json(completion) if is_streamed => {
            let events = events(completion, with_usage);
            Response::full(200, "text/event-stream", events.into_bytes())
        }
        reply => Response::json(200, reply),
    })
}

/// `POST /v1/embeddings`.
pub(super) fn embeddings(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let body = call.object(MOST_BYTES)?;
    let parts = Parts::of(EMBEDDINGS, body)?;
    direct::answered(app, call, EMBEDDINGS, parts, |vectors| {
        Response::json(200, vectors)
    })
}

/// Takes the field `stream`; false if it is missing.
fn takes_stream(body: &mut Map<String, Value>) -> Result<bool, Problem> {
    match body.remove("stream") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Problem::invalid("stream is true or false").param("stream")),
    }
}

/// A completion as a stream of one chunk.
fn events(completion: &Value, with_usage: bool) -> String {
    let mut chunk = completion.clone();
    chunk["object"] = "chat.completion.chunk".into();
    for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
        let mut delta = choice["message"].take();
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (number, call) in calls.into_iter().flatten().enumerate() {
            call["index"] = number.into();
        }
        *choice = json!({
            "index": choice["index"], "delta": delta, "logprobs": choice["logprobs"],
            "finish_reason": choice["finish_reason"],
        });
    }
    if let Some(fields) = chunk.as_object_mut()
        && !with_usage
    {
        fields.remove("usage");
    }
    format!("data: {chunk}\n\ndata: [DONE]\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_one_chunk_and_the_end() {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let message =
            json!({"role": "assistant", "content": "hi", "refusal": null, "tool_calls": [call]});
        let completion = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 9, "model": "m",
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"}],
            "usage": {"total_tokens": 3}, "system_fingerprint": null,
        });
        let chunk = |with_usage| {
            let events = events(&completion, with_usage);
            let chunk = events.strip_prefix("data: ").unwrap();
            let chunk = chunk.strip_suffix("\n\ndata: [DONE]\n\n").unwrap();
            serde_json::from_str::<Value>(chunk).unwrap()
        };
        let mut call = call;
        call["index"] = 0.into();
        let delta =
            json!({"role": "assistant", "content": "hi", "refusal": null, "tool_calls": [call]});
        let mut expected = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": "tool_calls"}],
            "system_fingerprint": null,
        });
        assert_eq!(chunk(false), expected);
        expected["usage"] = json!({"total_tokens": 3});
        assert_eq!(chunk(true), expected);
    }
}
