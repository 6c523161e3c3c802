//! `/v1/completions`: OpenAI's older completion of a text.

use serde_json::{Value, json};

use super::answer::Reply;
use super::direct;
use super::endpoints::{COMPLETIONS, flag};
use super::parts::{MOST_BYTES, Parts};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `POST /v1/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let streamed = flag(&mut body, "stream")?;
    let options = body.remove("stream_options").unwrap_or_default();
    let with_usage = options["include_usage"] == true;
    let strict = app.is_strict(&call.head)?;
    let hold = &mut |bytes| call.body.hold_also(bytes);
    let parts = Parts::of(COMPLETIONS, body, strict, hold)?;
    if streamed {
        return direct::streamed(app, call, COMPLETIONS, parts, |reply| match reply {
            Reply::Json(completion) => events(completion, with_usage),
            Reply::Vectors(_) => String::new(),
        });
    }
    direct::answered(app, call, COMPLETIONS, parts, |reply| {
        Response::json(200, reply)
    })
}

/// A completion as events: each choice in one piece.
fn events(completion: &Value, with_usage: bool) -> String {
    let mut out = String::new();
    let chunk = |choices: Value, usage: &Value| {
        let mut chunk = completion.clone();
        chunk["choices"] = choices;
        chunk["usage"] = usage.clone();
        format!("data: {chunk}\n\n")
    };
    for choice in completion["choices"].as_array().into_iter().flatten() {
        out += &chunk(json!([choice]), &Value::Null);
    }
    if with_usage {
        out += &chunk(json!([]), &completion["usage"]);
    }
    out += "data: [DONE]\n\n";
    out
}
