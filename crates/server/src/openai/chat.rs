//! `/v1/chat/completions`: one request, answered when its job has ended.

use std::fmt::Write;

use serde_json::{Value, json};

use super::answer::Reply;
use super::direct;
use super::endpoints::{CHAT, flag};
use super::parts::{MOST_BYTES, Parts};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `POST /v1/chat/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let streamed = flag(&mut body, "stream")?;
    let with_usage = match body.remove("stream_options") {
        None | Some(Value::Null) => false,
        Some(options) => options["include_usage"] == true,
    };
    let strict = app.is_strict(&call.head)?;
    let parts = Parts::of(CHAT, body, strict, &mut |bytes| call.body.hold_also(bytes))?;
    if !streamed {
        return direct::answered(app, call, CHAT, parts, |reply| Response::json(200, reply));
    }
    direct::streamed(app, call, CHAT, parts, |reply| match reply {
        Reply::Json(completion) => events(completion, with_usage),
        Reply::Vectors(_) => String::new(),
    })
}

/// A completion as events: each choice in one piece, then why it ended, as clients put it together again.
fn events(completion: &Value, with_usage: bool) -> String {
    let mut out = String::new();
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": completion["id"],
            "object": "chat.completion.chunk",
            "created": completion["created"],
            "model": completion["model"],
            "system_fingerprint": completion["system_fingerprint"],
            "choices": choices,
        });
        if let Some(tier) = completion.get("service_tier") {
            chunk["service_tier"] = tier.clone();
        }
        if with_usage {
            chunk["usage"] = usage;
        }
        chunk
    };
    let mut say = |chunk: Value| {
        let _ = write!(out, "data: {chunk}\n\n");
    };
    for choice in completion["choices"].as_array().into_iter().flatten() {
        let mut delta = choice["message"].clone();
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (n, call) in calls.into_iter().flatten().enumerate() {
            call["index"] = n.into();
        }
        let piece = json!([{
            "index": choice["index"], "delta": delta, "logprobs": choice["logprobs"], "finish_reason": null,
        }]);
        say(chunk(piece, Value::Null));
        let end = json!([{
            "index": choice["index"], "delta": {}, "logprobs": null, "finish_reason": choice["finish_reason"],
        }]);
        say(chunk(end, Value::Null));
    }
    if with_usage {
        say(chunk(json!([]), completion["usage"].clone()));
    }
    out.push_str("data: [DONE]\n\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_goes_out_as_pieces_and_their_end() {
        let completion = json!({
            "id": "c", "created": 1, "model": "m", "system_fingerprint": null, "usage": {"total_tokens": 3},
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "a\nb", "tool_calls": [{"id": "t"}]},
                "logprobs": null,
                "finish_reason": "tool_calls",
            }, {
                "index": 1,
                "message": {"role": "assistant", "content": "c"},
                "logprobs": null,
                "finish_reason": "stop",
            }],
        });
        let read = |with_usage| {
            let events = events(&completion, with_usage);
            let data: Vec<String> = events
                .split_terminator("\n\n")
                .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
                .collect();
            let (done, chunks) = data.split_last().unwrap();
            assert_eq!(done, "[DONE]");
            let chunks = chunks
                .iter()
                .map(|chunk| serde_json::from_str(chunk).unwrap());
            chunks.collect::<Vec<Value>>()
        };
        let chunks = read(false);
        assert_eq!(chunks.len(), 4);
        let second = &chunks[2]["choices"][0]["delta"];
        assert_eq!(second, &completion["choices"][1]["message"]);
        let delta = &chunks[0]["choices"][0]["delta"];
        assert_eq!(
            (&delta["content"], &delta["tool_calls"][0]["index"]),
            (&json!("a\nb"), &json!(0))
        );
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], "tool_calls");
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        let chunks = read(true);
        assert_eq!(chunks[4]["usage"]["total_tokens"], 3);
        assert_eq!(chunks[4]["choices"], json!([]));
    }
}
