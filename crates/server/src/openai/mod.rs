//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.
//!
//! A batch is a process of the queue. Handlers record requests; [`progress`] performs them.

mod answer;
mod batches;
pub(crate) mod direct;
mod files;
mod lines;
mod multipart;
mod parts;
mod progress;
mod results;
pub(crate) mod storage;
pub(crate) mod waiting;

use batchwright::Error;
use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;
use serde_json::{Value, json};

pub(crate) use direct::settle_abandoned;
pub(crate) use parts::{KIND as LINE_KIND, handler as line_handler};
pub(crate) use progress::start as start_progress;

use crate::access::Access::{Operate, Read};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{BatchRecord, BatchState};
use crate::route::Route;

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
    Route::get("/v1/models", Read, models_page),
    Route::get("/v1/models/{model}", Read, model),
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

/// The endpoints of this server.
const OFFERED: &str = "chat/completions, embeddings, batches, files and models";

/// Why such a path does not exist. The status is 404: OpenAI's clients, and others, repeat a request after 501, as
/// after every status from 500 on.
pub(crate) fn unknown(method: &str, path: &str) -> Problem {
    let hint = if path.starts_with("/v1") {
        format!("The endpoints here are /v1/… {OFFERED}")
    } else {
        "Add /v1 to the base URL".to_owned()
    };
    let why = format!("unknown request URL: {method} {path}. {hint}");
    Problem::new(404, "unknown_url", why)
}

/// `GET /v1/models`.
fn models_page(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    let models: Vec<Value> = models(app).iter().map(described_model).collect();
    Ok(Response::json(
        200,
        &json!({"object": "list", "data": models}),
    ))
}

/// `GET /v1/models/{model}`; names with a slash in them are sent as `%2F`.
fn model(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let name: String = call.param("model")?;
    let models = models(app);
    let found = models.iter().find(|(model, _)| *model == name);
    found
        .map(|model| Response::json(200, &described_model(model)))
        .ok_or_else(|| {
            let why = format!(
                "The model '{name}' is not configured here; GET /v1/models lists those that are"
            );
            Problem::new(404, "model_not_found", why).param("model")
        })
}

fn described_model((model, provider): &(String, &'static str)) -> Value {
    json!({"id": model, "object": "model", "created": 0, "owned_by": provider})
}

/// Each with its provider, those that are asked first before others.
fn models(app: &App) -> Vec<(String, &'static str)> {
    let models = app.overview.look_at_providers(|choice| {
        let mut models: Vec<(String, &'static str)> = Vec::new();
        for provider in std::iter::once(&choice.first).chain(&choice.fallbacks) {
            for model in provider.model.iter().chain(&provider.models) {
                if models.iter().all(|(known, _)| known != model) {
                    models.push((model.clone(), provider.provider));
                }
            }
        }
        models
    });
    models.unwrap_or_default()
}
