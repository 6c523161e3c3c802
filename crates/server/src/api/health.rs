//! Whether the server is up, and its numbers.

use std::time::Instant;

use batchwright::ProcessId;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::overview::fresh_until;
use crate::problem::Problem;
use crate::shapes::now;

/// `GET /healthz`: 200 while the queue can be read.
pub(super) fn healthz(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    check_queue(app)?;
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// `GET /readyz`: 200 while the server can work, with the problems that someone should solve. It needs no token, so it
/// tells no more than their kind.
pub(super) fn readyz(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    check_queue(app)?;
    let of_tokens = app.guard.tokens.problem().map(|_| {
        json!({
            "code": "token_file",
            "detail": "the token file cannot be used, so the tokens stay as they were; the server's log names the reason",
        })
    });
    let problems: Vec<Value> = of_tokens.into_iter().collect();
    Ok(Response::json(
        200,
        &json!({"status": "ok", "problems": problems}),
    ))
}

fn check_queue(app: &App) -> Result<(), Problem> {
    // One index lookup, whatever the length of the queue.
    let look = app.queue.process(ProcessId::from_bytes([0; 16]));
    look.map_err(|error| {
        if error.is_storage() {
            Problem::from(error)
        } else {
            Problem::new(503, "unavailable", error.message())
        }
    })?;
    Ok(())
}

/// `GET /metrics`: everything counted, in the text format of Prometheus.
pub(super) fn metrics(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    {
        let mut until = app.counted_until.lock();
        if until.is_none_or(|until| Instant::now() >= until) {
            let began = Instant::now();
            app.metrics.observe_queue(&app.queue)?;
            app.metrics.observe_ledger(&app.queue, now())?;
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
