//! From prompt flags to the defaults of prompts.

use std::path::Path;

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

use super::args::shared::{PromptArgs, TaskArg};
use super::exit::Refusal;

/// The settings that the flags make.
pub fn settings(prompt: &PromptArgs, model: Option<&str>) -> Result<PromptSettings, Refusal> {
    let mut settings = PromptSettings::new().json_mode(prompt.json_mode);
    match prompt.task {
        TaskArg::Embed => {
            fits_vectors(prompt)?;
            settings = settings.task(RequestTask::Embed);
        }
        TaskArg::Complete if prompt.dimensions.is_some() => {
            return Err(Refusal::usage("--dimensions goes with --task embed"));
        }
        TaskArg::Complete => {}
    }
    if let Some(dimensions) = prompt.dimensions {
        settings = settings.dimensions(dimensions);
    }
    if let Some(model) = model {
        settings = settings.model(model);
    }
    if let Some(system) = &prompt.system {
        settings = settings.system(system);
    }
    if let Some(template) = &prompt.template {
        settings = settings
            .template(template)
            .map_err(|error| Refusal::usage(error.message()))?;
    }
    if let Some(given) = &prompt.json_schema {
        settings = with_schema(settings, given)?;
    }
    if let Some(tokens) = prompt.max_tokens {
        settings = settings.max_tokens(tokens);
    }
    if let Some(temperature) = prompt.temperature {
        settings = settings.temperature(temperature);
    }
    Ok(settings)
}

/// Takes the schema from the flag itself or from the file it names.
fn with_schema(settings: PromptSettings, given: &Path) -> Result<PromptSettings, Refusal> {
    let words = given.to_str().unwrap_or_default();
    let (name, text) = match words.trim_start().starts_with('{') {
        true => ("--json-schema".into(), Ok(words.as_bytes().to_vec())),
        false => {
            let path = words.strip_prefix('@').map_or(given, Path::new);
            (path.display().to_string(), std::fs::read(path))
        }
    };
    let bad = |why: String| Refusal::usage(format!("{name}: {why}"));
    let text = text.map_err(|e| bad(format!("cannot be read: {e}")))?;
    let schema = serde_json::from_slice(&text).map_err(|e| bad(format!("no JSON: {e}")))?;
    settings
        .json_schema(schema)
        .map_err(|error| bad(format!("no JSON Schema that can be used: {error}")))
}

/// Refuses flags that have no meaning for embeddings.
fn fits_vectors(prompt: &PromptArgs) -> Result<(), Refusal> {
    let given = [
        (prompt.system.is_some(), "--system"),
        (prompt.max_tokens.is_some(), "--max-tokens"),
        (prompt.temperature.is_some(), "--temperature"),
        (prompt.json_mode, "--json-mode"),
        (prompt.json_schema.is_some(), "--json-schema"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(Refusal::usage(format!(
            "{flag} is for answers and has no meaning with --task embed"
        ))),
    }
}
