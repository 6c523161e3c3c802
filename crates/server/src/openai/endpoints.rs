//! What can be asked here, in batches and by whoever waits: by the paths that OpenAI has for it.

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const EMBEDDINGS: &str = "/v1/embeddings";

/// What requests to an end point are.
pub(super) fn settings(endpoint: &str) -> PromptSettings {
    PromptSettings::new().task(match endpoint {
        EMBEDDINGS => RequestTask::Embed,
        _ => RequestTask::Complete,
    })
}
