//! `/v1/models`: those that are configured, or that a local server has. Others of a provider can be asked, too.

use batchwright::provider::ProviderStatus;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// `GET /v1/models`.
pub(super) fn list(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    let models: Vec<Value> = models(app).iter().map(described).collect();
    Ok(Response::json(
        200,
        &json!({"object": "list", "data": models}),
    ))
}

/// `GET /v1/models/{model}`; names with a slash in them are sent as `%2F`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let name: String = call.param("model")?;
    let models = models(app);
    let found = models.iter().find(|(model, _)| *model == name);
    found
        .map(|model| Response::json(200, &described(model)))
        .ok_or_else(|| {
            let why = format!(
                "The model '{name}' is not configured here; GET /v1/models lists those that are"
            );
            Problem::new(404, "model_not_found", why).param("model")
        })
}

fn described((model, provider): &(String, &'static str)) -> Value {
    json!({"id": model, "object": "model", "created": 0, "owned_by": provider})
}

/// Each with its provider, those that are asked first before others.
fn models(app: &App) -> Vec<(String, &'static str)> {
    let models = app.overview.look_at_providers(|choice| {
        let mut models: Vec<(String, &'static str)> = Vec::new();
        for provider in std::iter::once(&choice.first).chain(&choice.fallbacks) {
            for model in provider.model.iter().chain(served(provider)) {
                if models.iter().all(|(known, _)| known != model) {
                    models.push((model.clone(), provider.provider));
                }
            }
        }
        models
    });
    models.unwrap_or_default()
}

fn served(provider: &ProviderStatus) -> impl Iterator<Item = &String> {
    provider
        .servers
        .first()
        .into_iter()
        .flat_map(|server| &server.models)
}
