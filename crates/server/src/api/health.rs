//! Whether the server is up, and its numbers.

use std::path::Path;

use batchwright::ProcessId;
use batchwright::provider::Day;
use rustix::fs::{Access, StatVfs, access, statvfs};
use serde_json::json;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::BatchRecord;
use crate::shapes::now;

/// `GET /healthz`: 200 while the queue can be read.
pub(super) fn healthz(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    check_queue(app)?;
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// `GET /readyz`: 200 while the server can work; otherwise 503 with the causes. It needs no token, so it tells no more
/// than their kind.
pub(super) fn readyz(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    // Open connections to a file that was removed do not notice it.
    let is_lost = app.queue_file.as_ref().is_some_and(|file| !file.is_file());
    let mut causes = Vec::new();
    if is_lost || check_queue(app).is_err() {
        causes.push(("queue", "the queue cannot be read"));
    }
    if BatchRecord::open(&app.records.single()).is_err() {
        causes.push(("records", "server.db cannot be read"));
    }
    if !can_write(&app.folder) {
        let why = "the data folder is missing or full, or cannot be written";
        causes.push(("data_folder", why));
    }
    let (codes, details): (Vec<&str>, Vec<&str>) = causes.into_iter().unzip();
    if codes.is_empty() {
        return Ok(Response::json(200, &json!({"status": "ok"})));
    }
    let mut details = Problem::new(503, "not_ready", details.join("; ")).as_details();
    details["causes"] = json!(codes);
    let body = details.to_string().into_bytes();
    Ok(Response::full(503, "application/problem+json", body))
}

/// Number of bytes that must fit into the data folder: about what a few jobs take.
const ROOM: u64 = 64 << 10;

/// Whether files can be added to this folder. Quotas of users are not seen.
fn can_write(folder: &Path) -> bool {
    let has_room = |disk: StatVfs| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM;
    statvfs(folder).is_ok_and(has_room)
        && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn check_queue(app: &App) -> Result<(), Problem> {
    // One index lookup, whatever the length of the queue.
    app.queue.process(ProcessId::from_bytes([0; 16]))?;
    Ok(())
}

/// `GET /api/v1/spent`: what was spent, by day and model.
pub(super) fn spent(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["since"])?;
    let since = match call.query::<String>("since")? {
        None => Day::of(now()).first_of_month(),
        Some(text) => text.parse().map_err(|_| {
            let why = "since: write a day, for example 2026-11-26";
            Problem::invalid(why).param("since")
        })?,
    };
    let data = app.queue.spent_since(Some(since))?;
    Ok(Response::json(200, &json!({"since": since, "data": data})))
}

/// `GET /metrics`: everything counted, in the text format of Prometheus.
pub(super) fn metrics(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    let metrics = &app.observer.metrics;
    app.counted.get(|| {
        metrics.observe_queue(&app.queue)?;
        metrics.observe_spent(&app.queue, now())
    })?;
    let text = metrics.text()?;
    Ok(Response::full(
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        text.into_bytes(),
    ))
}

/// `GET /api/v1/overview`.
pub(super) fn overview(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    Ok(Response::json(200, &*app.overview.now()?))
}
