//! The API of jobs, processes and settings under `/api/v1`, and the endpoints for monitoring: health and metrics.

pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod health;
mod jobs;
mod lines;
pub(crate) mod once;
mod openapi;
mod processes;
mod results;

use crate::access::Access::{Open, Operate, Read};
use crate::route::Route;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[
    Route::get("/healthz", Open, health::healthz),
    Route::get("/readyz", Open, health::readyz),
    Route::get("/metrics", Read, health::metrics),
    Route::post("/api/v1/jobs", Operate, jobs::create),
    Route::get("/api/v1/jobs", Read, jobs::list),
    Route::get("/api/v1/jobs/{job_id}", Read, jobs::get),
    Route::post("/api/v1/jobs/{job_id}/cancel", Operate, jobs::cancel),
    Route::get("/api/v1/jobs/{job_id}/payload", Read, jobs::payload),
    Route::post("/api/v1/jobs/{job_id}/retry", Operate, jobs::retry),
    Route::post("/api/v1/processes", Operate, processes::create),
    Route::get("/api/v1/processes", Read, processes::list),
    Route::get("/api/v1/processes/{process_id}", Read, processes::get),
    Route::delete("/api/v1/processes/{process_id}", Operate, processes::delete),
    Route::post(
        "/api/v1/processes/{process_id}/cancel",
        Operate,
        processes::cancel,
    ),
    Route::post(
        "/api/v1/processes/{process_id}/retry",
        Operate,
        processes::retry,
    ),
    Route::post(
        "/api/v1/processes/{process_id}/budget",
        Operate,
        processes::set_budget,
    ),
    Route::get("/api/v1/processes/{process_id}/results", Read, results::get),
    Route::post(
        "/api/v1/processes/{process_id}/results/ack",
        Operate,
        results::ack,
    ),
    Route::post("/api/v1/pause", Operate, jobs::pause),
    Route::post("/api/v1/resume", Operate, jobs::resume),
    Route::get("/api/v1/batches", Read, processes::batches),
    Route::get("/api/v1/spent", Read, health::spent),
    Route::get("/api/v1/overview", Read, health::overview),
    Route::get("/api/v1/config", Read, config::list),
    Route::get("/api/v1/config/{key}", Read, config::get),
    Route::put("/api/v1/config/{key}", Operate, config::put),
    Route::delete("/api/v1/config/{key}", Operate, config::delete),
    Route::get("/api/v1/events", Read, events::events),
    Route::get("/api/v1/openapi.json", Read, openapi::openapi),
];
