//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.
//!
//! A batch is a process of the queue. Handlers record requests; [`progress`] performs them.

mod answer;
mod batches;
mod chat;
mod direct;
mod embeddings;
mod endpoints;
mod files;
mod lines;
mod models;
mod multipart;
mod parts;
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
use crate::tokens::Access::{Operate, Read};

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
    Route::post("/v1/chat/completions", Operate, chat::create),
    Route::post("/v1/embeddings", Operate, embeddings::create),
    Route::get("/v1/models", Read, models::list),
    Route::get("/v1/models/{model}", Read, models::get),
];

impl App {
    /// Whether answers to this request are checked, as its header says.
    fn is_strict(&self, head: &Head) -> Result<bool, Problem> {
        match head.header("x-batchwright-strict") {
            Some("true" | "1") => Ok(true),
            Some("false" | "0") | None => Ok(false),
            Some(_) => {
                let why = "x-batchwright-strict is true or false";
                Err(Problem::invalid(why).param("x-batchwright-strict"))
            }
        }
    }

    /// True while a batch reads this file.
    fn reads(&self, file: &str) -> Result<bool, Error> {
        let open = BatchRecord::open(&self.records.single())?;
        let reads =
            |batch: &BatchRecord| batch.state == BatchState::Validating && batch.input_file == file;
        Ok(open.iter().any(reads))
    }
}
