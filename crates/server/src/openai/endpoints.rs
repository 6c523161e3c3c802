//! What can be asked here, in batches and by clients that wait: by the paths that OpenAI has for it.

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const EMBEDDINGS: &str = "/v1/embeddings";

/// Those that batches support.
pub(super) const ALL: [&str; 2] = [CHAT, EMBEDDINGS];

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
