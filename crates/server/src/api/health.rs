//! Whether the server is up, and its numbers.

use std::time::Instant;

use batchwright::ProcessId;
use serde_json::json;

use crate::app::App;
use crate::http::{Call, Response};
use crate::overview::fresh_until;
use crate::problem::Problem;

/// `GET /healthz`: 200 while the queue can be read.
pub(super) fn healthz(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    // One index lookup, whatever the length of the queue.
    let look = app.queue.process(ProcessId::from_bytes([0; 16]));
    look.map_err(|error| {
        if error.is_storage() {
            Problem::from(error)
        } else {
            Problem::new(503, "unavailable", error.message())
        }
    })?;
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// `GET /metrics`: everything counted, in the text format of Prometheus.
pub(super) fn metrics(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    {
        let mut until = app.counted_until.lock();
        if until.is_none_or(|until| Instant::now() >= until) {
            let began = Instant::now();
            app.metrics.observe_queue(&app.queue)?;
            app.metrics.forget_ended_processes(&app.queue)?;
            *until = Some(fresh_until(began));
        }
    }
    let text = app.metrics.text()?;
    Ok(Response::full(
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        text.into_bytes(),
    ))
}

/// `GET /api/v1/overview`.
pub(super) fn overview(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    Ok(Response::json(200, &app.overview.whole()?))
}
