//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.
//!
//! A batch is a process of the queue. Handlers write down what is asked; [`progress`] does it.

mod answer;
mod batches;
mod chat;
mod direct;
mod embeddings;
mod endpoints;
mod files;
mod limits;
mod lines;
mod models;
mod multipart;
mod parts;
mod progress;
mod results;
mod storage;
mod waiting;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batchwright::Error;
use crossbeam_channel::{Receiver, Sender, bounded};

pub(crate) use direct::settle_abandoned;
pub(crate) use parts::{KIND as LINE_KIND, handler as line_handler};
pub(crate) use progress::Progress;
pub(crate) use waiting::Waiting;

use crate::app::App;
use crate::records::batches::{BatchRecord, BatchState};
use crate::router::Route;
use storage::Storage;

/// What is answered here.
pub(crate) const ROUTES: &[Route] = &[
    Route::post("/v1/files", files::create),
    Route::get("/v1/files", files::list),
    Route::get("/v1/files/{file_id}", files::get),
    Route::delete("/v1/files/{file_id}", files::delete),
    Route::get("/v1/files/{file_id}/content", files::content),
    Route::post("/v1/batches", batches::create),
    Route::get("/v1/batches", batches::list),
    Route::get("/v1/batches/{batch_id}", batches::get),
    Route::post("/v1/batches/{batch_id}/cancel", batches::cancel),
    Route::post("/v1/chat/completions", chat::create),
    Route::post("/v1/embeddings", embeddings::create),
    Route::get("/v1/models", models::list),
    Route::get("/v1/models/{model}", models::get),
];

/// What the Batch endpoint needs beside the queue.
pub(crate) struct OpenAi {
    storage: Storage,
    pub waiting: Arc<Waiting>,
    waker: Sender<()>,
    woken: Receiver<()>,
    stopped: AtomicBool,
}

impl OpenAi {
    /// With files of so many bytes in a folder below this one.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(folder: &Path, most_bytes: u64) -> Result<Self, Error> {
        let (waker, woken) = bounded(1);
        Ok(Self {
            storage: Storage::open(&folder.join("files"), most_bytes)?,
            waiting: Arc::default(),
            waker,
            woken,
            stopped: AtomicBool::new(false),
        })
    }

    /// Has [`Progress`] look at once.
    pub fn wake(&self) {
        // Full: it is to look already.
        let _ = self.waker.try_send(());
    }

    /// Has [`Progress`] end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until it is woken, or for this time. True when it was woken.
    fn rest(&self, most: Duration) -> bool {
        self.woken.recv_timeout(most).is_ok()
    }
}

impl App {
    /// True while a batch reads this file.
    fn reads(&self, file: &str) -> Result<bool, Error> {
        let open = BatchRecord::open(&self.records.lock())?;
        let reads =
            |batch: &BatchRecord| batch.state == BatchState::Validating && batch.input_file == file;
        Ok(open.iter().any(reads))
    }
}
