//! `/v1/chat/completions`: one request, answered when its job has ended.

use serde_json::Value;

use super::answer::Form;
use super::chat_events::ChatEvents;
use super::direct;
use super::endpoints::{CHAT, flag};
use super::parts::{MOST_BYTES, Parts};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `POST /v1/chat/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let is_streamed = flag(&mut body, "stream")?;
    let with_usage = match body.remove("stream_options") {
        None | Some(Value::Null) => false,
        Some(options) => options["include_usage"] == true,
    };
    let strict = app.is_strict(&call.head)?;
    let parts = Parts::of(CHAT, body, strict)?;
    if !is_streamed {
        return direct::answered(app, call, CHAT, parts, |reply| Response::json(200, reply));
    }
    let form = parts.requests.first().map(Form::of);
    let mut events = ChatEvents::new(with_usage, form.unwrap_or_default());
    direct::streamed(app, call, CHAT, parts, &mut events)
}
