//! What can be asked here, in batches and by clients that wait: by the paths that OpenAI has for it.

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;
use serde_json::{Map, Value};

use crate::problem::Problem;

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const COMPLETIONS: &str = "/v1/completions";
pub(super) const EMBEDDINGS: &str = "/v1/embeddings";
pub(super) const RESPONSES: &str = "/v1/responses";

/// Those that batches support.
pub(super) const ALL: [&str; 4] = [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES];

/// The beginning of the ids of their replies; vectors have none.
pub(super) fn prefix(endpoint: &str) -> &'static str {
    match endpoint {
        COMPLETIONS => "cmpl-",
        RESPONSES => "resp_",
        _ => "chatcmpl-",
    }
}

/// The end point of batches that is meant. Azure's documentation names it without the version.
pub(super) fn of_batches(named: &str) -> Option<&'static str> {
    let is_meant = |path: &&str| named == *path || path.strip_prefix("/v1") == Some(named);
    ALL.into_iter().find(is_meant)
}

/// What requests to an end point are.
pub(super) fn settings(endpoint: &str) -> PromptSettings {
    PromptSettings::new().task(match endpoint {
        EMBEDDINGS => RequestTask::Embed,
        _ => RequestTask::Complete,
    })
}

/// Takes a field that is true or false; false if it is missing.
pub(super) fn flag(body: &mut Map<String, Value>, name: &'static str) -> Result<bool, Problem> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Problem::invalid(format!("{name} is true or false")).param(name)),
    }
}
