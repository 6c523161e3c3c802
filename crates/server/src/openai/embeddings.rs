//! `/v1/embeddings`: each text is a job, and the worker sends many with one call.

use super::direct;
use super::endpoints::EMBEDDINGS;
use super::parts::{MOST_BYTES, Parts};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `POST /v1/embeddings`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let body = call.object(MOST_BYTES)?;
    let parts = Parts::of(EMBEDDINGS, body, false)?;
    direct::answered(app, call, EMBEDDINGS, parts, |vectors| {
        Response::json(200, vectors)
    })
}
