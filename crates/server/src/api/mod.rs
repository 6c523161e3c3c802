//! The API of jobs, processes and settings under `/api/v1`, and what machines look at: health and metrics.

mod health;

use crate::router::Route;

/// What is answered here.
pub(crate) const ROUTES: &[Route] = &[
    Route::get("/healthz", health::healthz),
    Route::get("/metrics", health::metrics),
];
