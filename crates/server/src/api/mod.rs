//! The API of jobs, processes and settings under `/api/v1`, and the endpoints for monitoring: health and metrics.

mod config;
mod health;
mod jobs;
mod lines;
mod once;
mod openapi;
mod processes;
mod results;
mod search;
mod stream;

pub(crate) use once::settle_abandoned;

use crate::http::Call;
use crate::problem::Problem;
use crate::router::Route;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[
    Route::get("/healthz", health::healthz),
    Route::get("/metrics", health::metrics),
    Route::post("/api/v1/jobs", jobs::create),
    Route::get("/api/v1/jobs", search::list),
    Route::get("/api/v1/jobs/{job_id}", jobs::get),
    Route::delete("/api/v1/jobs/{job_id}", jobs::delete),
    Route::get("/api/v1/jobs/{job_id}/payload", search::payload),
    Route::post("/api/v1/jobs/{job_id}/retry", search::retry),
    Route::post("/api/v1/processes", processes::create),
    Route::get("/api/v1/processes", processes::list),
    Route::get("/api/v1/processes/{process_id}", processes::get),
    Route::delete("/api/v1/processes/{process_id}", processes::delete),
    Route::post("/api/v1/processes/{process_id}/cancel", processes::cancel),
    Route::post("/api/v1/processes/{process_id}/retry", processes::retry),
    Route::get("/api/v1/processes/{process_id}/results", results::get),
    Route::delete("/api/v1/processes/{process_id}/results", results::consume),
    Route::get("/api/v1/processes/{process_id}/failures", results::failures),
    Route::post("/api/v1/pause", search::pause),
    Route::post("/api/v1/resume", search::resume),
    Route::get("/api/v1/batches", processes::batches),
    Route::get("/api/v1/overview", health::overview),
    Route::get("/api/v1/config", config::list),
    Route::get("/api/v1/config/{key}", config::get),
    Route::put("/api/v1/config/{key}", config::put),
    Route::delete("/api/v1/config/{key}", config::delete),
    Route::get("/api/v1/config-changes", config::changes),
    Route::get("/api/v1/events", stream::events),
    Route::get("/api/v1/openapi.json", openapi::openapi),
];

/// The number in a query parameter, from one to `most`.
fn limit(call: &Call<'_>, default: usize, most: usize) -> Result<usize, Problem> {
    match call.query::<usize>("limit")? {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(_) => {
            Err(Problem::invalid(format!("limit: write a number from 1 to {most}")).param("limit"))
        }
    }
}
