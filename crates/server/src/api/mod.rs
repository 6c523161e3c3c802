//! The API of jobs, processes and settings under `/api/v1`, and the endpoints for monitoring: health and metrics.

mod config;
mod health;
mod jobs;
mod lines;
pub(crate) mod once;
mod openapi;
mod processes;
mod results;
mod search;
mod stream;
mod types;

pub(crate) use once::settle_abandoned;

use crate::router::Route;
use crate::tokens::Access::{Change, Open, Operate, Own, Read};

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[
    Route::get("/healthz", Open, health::healthz),
    Route::get("/readyz", Open, health::readyz),
    Route::get("/metrics", Read, health::metrics),
    Route::post("/api/v1/jobs", Change, jobs::create),
    Route::get("/api/v1/jobs", Own, search::list),
    Route::get("/api/v1/jobs/{job_id}", Own, jobs::get),
    Route::delete("/api/v1/jobs/{job_id}", Change, jobs::delete),
    Route::post("/api/v1/jobs/{job_id}/cancel", Change, jobs::cancel),
    Route::get("/api/v1/jobs/{job_id}/payload", Own, search::payload),
    Route::post("/api/v1/jobs/{job_id}/retry", Change, search::retry),
    Route::post("/api/v1/processes", Change, processes::create),
    Route::get("/api/v1/processes", Own, processes::list),
    Route::get("/api/v1/processes/{process_id}", Own, processes::get),
    Route::delete("/api/v1/processes/{process_id}", Change, processes::delete),
    Route::post(
        "/api/v1/processes/{process_id}/cancel",
        Change,
        processes::cancel,
    ),
    Route::post(
        "/api/v1/processes/{process_id}/retry",
        Change,
        processes::retry,
    ),
    Route::post(
        "/api/v1/processes/{process_id}/budget",
        Change,
        processes::set_budget,
    ),
    Route::get("/api/v1/processes/{process_id}/results", Own, results::get),
    Route::delete(
        "/api/v1/processes/{process_id}/results",
        Change,
        results::consume,
    ),
    Route::get(
        "/api/v1/processes/{process_id}/failures",
        Own,
        results::failures,
    ),
    Route::post("/api/v1/pause", Operate, search::pause),
    Route::post("/api/v1/resume", Operate, search::resume),
    Route::get("/api/v1/batches", Own, processes::batches),
    Route::get("/api/v1/spent", Read, health::spent),
    Route::get("/api/v1/overview", Read, health::overview),
    Route::get("/api/v1/config", Read, config::list),
    Route::get("/api/v1/config/{key}", Read, config::get),
    Route::put("/api/v1/config/{key}", Operate, config::put),
    Route::delete("/api/v1/config/{key}", Operate, config::delete),
    Route::get("/api/v1/config-changes", Read, config::changes),
    Route::get("/api/v1/events", Own, stream::events),
    Route::get("/api/v1/openapi.json", Own, openapi::openapi),
];
