//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.
//!
//! A batch is a process of the queue. Handlers record requests; [`progress`] performs them.

mod answer;
mod batches;
mod caller;
mod chat;
mod direct;
mod embeddings;
mod endpoints;
mod files;
mod lines;
mod models;
mod multipart;
mod parts;
mod pieces;
mod progress;
mod results;
pub(crate) mod state;
pub(crate) mod storage;
mod unsupported;
pub(crate) mod waiting;

use batchwright::Error;

pub(crate) use direct::settle_abandoned;
pub(crate) use parts::{KIND as LINE_KIND, handler as line_handler};
pub(crate) use progress::start as start_progress;
pub(crate) use unsupported::unknown;

use crate::app::App;
use crate::http::Head;
use crate::problem::Problem;
use crate::records::batches::{BatchRecord, BatchState};
use crate::router::Route;
use crate::tokens::Access::{Change, Own};
use crate::webhooks;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[
    Route::post("/v1/files", Change, files::create),
    Route::get("/v1/files", Own, files::list),
    Route::get("/v1/files/{file_id}", Own, files::get),
    Route::delete("/v1/files/{file_id}", Change, files::delete),
    Route::get("/v1/files/{file_id}/content", Own, files::content),
    Route::post("/v1/batches", Change, batches::create),
    Route::get("/v1/batches", Own, batches::list),
    Route::get("/v1/batches/{batch_id}", Own, batches::get),
    Route::post("/v1/batches/{batch_id}/cancel", Change, batches::cancel),
    Route::put("/v1/batches/{batch_id}/webhook", Change, webhooks::put),
    Route::get("/v1/batches/{batch_id}/webhook", Own, webhooks::get),
    Route::delete("/v1/batches/{batch_id}/webhook", Change, webhooks::delete),
    Route::post(
        "/v1/batches/{batch_id}/webhook/resend",
        Change,
        webhooks::resend,
    ),
    Route::post("/v1/chat/completions", Change, chat::create),
    Route::post("/v1/embeddings", Change, embeddings::create),
    Route::get("/v1/models", Own, models::list),
    Route::get("/v1/models/{model}", Own, models::get),
];

impl App {
    /// Whether answers to this request are checked: according to its header, otherwise to the setting `serve.strict`.
    fn is_strict(&self, head: &Head) -> Result<bool, Problem> {
        match (head.header("x-batchwright-strict"), &self.settings) {
            (Some("true" | "1"), _) => Ok(true),
            (Some("false" | "0"), _) | (None, None) => Ok(false),
            (Some(_), _) => {
                let why = "x-batchwright-strict is true or false";
                Err(Problem::invalid(why).param("x-batchwright-strict"))
            }
            (None, Some(live)) => {
                let settings = live.settings(&self.records, &self.events)?;
                Ok(settings.serve_strict()?)
            }
        }
    }

    /// True while a batch reads this file.
    fn reads(&self, file: &str) -> Result<bool, Error> {
        let open = BatchRecord::open(&mut self.records.single())?;
        let reads =
            |batch: &BatchRecord| batch.state == BatchState::Validating && batch.input_file == file;
        Ok(open.iter().any(reads))
    }
}
