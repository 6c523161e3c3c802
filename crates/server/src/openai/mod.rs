//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.
//!
//! A batch is a process of the queue. Handlers record requests; [`progress`] performs them.

mod answer;
mod batches;
mod direct;
mod files;
mod lines;
mod models;
mod multipart;
mod parts;
mod progress;
mod results;
pub(crate) mod storage;
pub(crate) mod waiting;

use batchwright::Error;
use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

pub(crate) use direct::settle_abandoned;
pub(crate) use parts::{KIND as LINE_KIND, handler as line_handler};
pub(crate) use progress::start as start_progress;

use crate::access::Access::{Operate, Read};
use crate::app::App;
use crate::problem::Problem;
use crate::records::batches::{BatchRecord, BatchState};
use crate::router::Route;

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

/// Those that batches support.
const ALL: [&str; 2] = [CHAT, EMBEDDINGS];

/// The end point of batches that is meant. Azure's documentation names it without the version.
fn of_batches(named: &str) -> Option<&'static str> {
    let is_meant = |path: &&str| named == *path || path.strip_prefix("/v1") == Some(named);
    ALL.into_iter().find(is_meant)
}

/// What requests to an end point are.
fn settings(endpoint: &str) -> PromptSettings {
    PromptSettings::new().task(match endpoint {
        EMBEDDINGS => RequestTask::Embed,
        _ => RequestTask::Complete,
    })
}

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[
    Route::post("/v1/files", Operate, files::create),
    Route::get("/v1/files", Read, files::list),
    Route::get("/v1/files/{file_id}", Read, files::get),
    Route::delete("/v1/files/{file_id}", Operate, files::delete),
    Route::get("/v1/files/{file_id}/content", Read, files::content),
    Route::post("/v1/batches", Operate, batches::create),
    Route::get("/v1/batches", Read, batches::list),
    Route::get("/v1/batches/{batch_id}", Read, batches::get),
    Route::post("/v1/batches/{batch_id}/cancel", Operate, batches::cancel),
    Route::post("/v1/chat/completions", Operate, direct::create),
    Route::post("/v1/embeddings", Operate, direct::embeddings),
    Route::get("/v1/models", Read, models::list),
    Route::get("/v1/models/{model}", Read, models::get),
];

impl App {
    /// True while a batch reads this file.
    fn reads(&self, file: &str) -> Result<bool, Error> {
        let open = BatchRecord::open(&self.records.single())?;
        let reads =
            |batch: &BatchRecord| batch.state == BatchState::Validating && batch.input_file == file;
        Ok(open.iter().any(reads))
    }
}

/// The first part of the path behind `/v1/`, and what to use instead of what OpenAI has there.
const INSTEAD: [(&str, &str); 7] = [
    ("completions", "/v1/chat/completions"),
    ("conversations", "/v1/chat/completions"),
    ("edits", "/v1/chat/completions"),
    ("engines", "/v1/models"),
    ("organization", "/api/v1, which has the server's own"),
    ("responses", "/v1/chat/completions"),
    ("uploads", "/v1/files"),
];

/// The endpoints of this server.
const OFFERED: &str = "chat/completions, embeddings, batches, files and models";

/// Why a path below `/v1/` does not exist. The status is 404: OpenAI's clients, and others, repeat a request after 501, as
/// after every status from 500 on.
pub(crate) fn unknown(method: &str, path: &str) -> Problem {
    let first = path.split('/').nth(2).unwrap_or_default();
    let other = INSTEAD.iter().find(|(name, _)| *name == first);
    let why = match other {
        Some((_, instead)) => format!("this server does not offer {path}; use {instead}"),
        None => format!("unknown request URL: {method} {path}"),
    };
    let why = format!("{why}. The endpoints here are /v1/… {OFFERED}");
    Problem::new(404, "unknown_url", why)
}
