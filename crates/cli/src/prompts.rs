//! From prompt flags to the defaults of prompts.

use std::path::Path;

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;
use serde_json::{Map, Value};

use super::args::shared::PromptArgs;
use super::args::values::read_text;
use super::exit::Refusal;
use super::settings::refused;
use batchwright::unstable::Optional;

/// The settings from the flags.
pub fn settings(prompt: &PromptArgs, model: Option<&str>) -> Result<PromptSettings, Refusal> {
    if prompt.task == RequestTask::Embed {
        fits_vectors(prompt)?;
    }
    let mut settings = PromptSettings::new()
        .task(prompt.task)
        .set(model, PromptSettings::model)
        .set(prompt.system.as_ref(), PromptSettings::system)
        .set(prompt.max_tokens, PromptSettings::max_tokens)
        .set(prompt.temperature, PromptSettings::temperature);
    if let Some(given) = &prompt.json_schema {
        settings = with_schema(settings, given)?;
    }
    if let Some(template) = &prompt.template {
        settings = settings.template(template).map_err(refused)?;
    }
    with_extra(settings, prompt)
}

impl PromptArgs {
    /// The number of dimensions that `--extra` asks of embeddings.
    pub fn dimensions(&self) -> Option<u32> {
        let text = self
            .extra
            .as_ref()
            .filter(|_| self.task == RequestTask::Embed);
        let fields: Value = serde_json::from_str(text?).ok()?;
        u32::try_from(fields["dimensions"].as_u64()?).ok()
    }
}

/// Adds further fields to every request: those of `--extra`, and `--service-tier`.
fn with_extra(settings: PromptSettings, prompt: &PromptArgs) -> Result<PromptSettings, Refusal> {
    let bad = |what: &str| Refusal::usage(format!("--extra: {what}"));
    let mut fields = match &prompt.extra {
        None => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => {
                return Err(bad("found no JSON object, such as {\"top_k\": 40}"));
            }
            Err(error) => return Err(bad(&format!("no JSON: {error}"))),
        },
    };
    let own = [
        ("model", "--model"),
        ("system", "--system"),
        ("temperature", "--temperature"),
        ("max_tokens", "--max-tokens"),
        ("max_completion_tokens", "--max-tokens"),
        ("response_format", "--json-schema"),
    ];
    if let Some((field, flag)) = own.iter().find(|(field, _)| fields.contains_key(*field)) {
        return Err(bad(&format!("`{field}` is set by {flag}")));
    }
    let dimensions = prompt.dimensions();
    if dimensions.is_some() {
        fields.remove("dimensions");
    }
    if let Some(tier) = &prompt.service_tier {
        if fields.contains_key("service_tier") {
            return Err(bad("`service_tier` is set by --service-tier"));
        }
        fields.insert("service_tier".to_owned(), tier.as_str().into());
    }
    let settings = settings.set(dimensions, PromptSettings::dimensions);
    settings.extra(fields).map_err(|error| bad(error.message()))
}

/// Requests answers that fit the schema of the flag.
fn with_schema(settings: PromptSettings, given: &Path) -> Result<PromptSettings, Refusal> {
    if asks_any_object(given) {
        return Ok(settings.json_mode(true));
    }
    let (name, schema) = schema(given)?;
    settings.json_schema(schema).map_err(|error| {
        Refusal::usage(format!("{name}: no JSON Schema that can be used: {error}"))
    })
}

/// Whether the flag asks for any JSON object. A file with this name is written as `@object`.
pub fn asks_any_object(given: &Path) -> bool {
    given == Path::new("object")
}

/// The JSON of a schema in the flag itself or in the file that it names, and its name for messages.
pub fn schema(given: &Path) -> Result<(String, Value), Refusal> {
    let words = given.to_str().unwrap_or_default();
    let (name, text) = if words.trim_start().starts_with('{') {
        ("--json-schema".into(), Ok(words.to_owned()))
    } else {
        let path = words.strip_prefix('@').map_or(given, Path::new);
        (path.display().to_string(), read_text(path))
    };
    let bad = |why: String| Refusal::usage(format!("{name}: {why}"));
    let text = text.map_err(|e| bad(format!("cannot be read: {e}")))?;
    let schema = serde_json::from_str(&text).map_err(|e| bad(format!("no JSON: {e}")))?;
    Ok((name, schema))
}

/// Rejects flags that have no meaning for embeddings.
fn fits_vectors(prompt: &PromptArgs) -> Result<(), Refusal> {
    let given = [
        (prompt.system.is_some(), "--system"),
        (prompt.max_tokens.is_some(), "--max-tokens"),
        (prompt.temperature.is_some(), "--temperature"),
        (prompt.json_schema.is_some(), "--json-schema"),
        (prompt.service_tier.is_some(), "--service-tier"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(Refusal::usage(format!(
            "{flag} is for answers and has no meaning with --task embed"
        ))),
    }
}
