//! The requests that a dry run shows: complete, but without a key.

use batchwright::{Client, Error, ErrorKind, LlmConfig, LlmManager, Request, Secret, Settings};
use serde_json::{Value, json};

use crate::args::run::RunArgs;
use crate::exit::{About, Refusal};
use crate::session::Session;
use batchwright::unstable::Optional;

/// Replaces the missing key of a provider: nothing is sent, and no key is shown.
const NO_KEY: &str = "none";

/// The client that makes the calls, or would if it had its key.
pub fn client(
    args: &RunArgs,
    settings: &Settings,
    manager: Option<&LlmManager>,
) -> Result<Client, Error> {
    if let Some(manager) = manager {
        return manager.client();
    }
    let unnamed = || {
        Error::new(
            ErrorKind::Invalid,
            "no provider is named: add --provider NAME",
        )
    };
    LlmConfig::new(settings.provider()?.ok_or_else(unnamed)?)
        .api_key(Secret::new(NO_KEY))
        .set(args.provider.base_url.as_ref(), LlmConfig::base_url)
        .set(settings.model()?, LlmConfig::model)
        .client()
}

/// Each request as it would be sent.
///
/// # Errors
/// If there is no client for them, or one of them cannot be sent.
pub fn requests(
    requests: &[Request],
    client: Result<Client, Error>,
    session: &Session,
) -> Result<Vec<Value>, Refusal> {
    let refused = |error: Error| {
        let why = format!("--show: {}", error.message());
        Refusal::usage(why).about(About::Provider)
    };
    let client = client.map_err(refused)?;
    let shown = requests.iter().map(|request| {
        let call = client.preview(request, &session.ctx)?;
        Ok(json!({"id": request.id, "url": call.url, "body": call.body}))
    });
    shown.collect::<Result<_, Error>>().map_err(refused)
}
