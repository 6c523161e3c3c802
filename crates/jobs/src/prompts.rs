//! `completion` and `embedding`: prompts as payloads, for those who submit them beside jobs of other types.

use serde_json::Value;

use batchwright::Request;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND};

use super::fields::Fields;
use super::job_type::JobType;

const MOST_TOKENS: usize = u32::MAX as usize;

pub(crate) fn completion() -> JobType {
    JobType::prompt(COMPLETION_KIND, |payload| {
        let names = ["prompt", "system", "model", "max_tokens", "temperature"];
        let fields = Fields::of(payload, &names)?;
        let mut request = Request::new(fields.required_text("prompt")?);
        if let Some(system) = fields.text("system")? {
            request = request.with_system(system);
        }
        if let Some(model) = fields.text("model")? {
            request = request.with_model(model);
        }
        if let Some(tokens) = fields.whole("max_tokens", 1..=MOST_TOKENS)? {
            request = request.with_max_tokens(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        match fields.get("temperature").map(Value::as_f64) {
            None => Ok(request),
            Some(Some(heat)) if (0.0..=2.0).contains(&heat) => Ok(request.with_temperature(heat)),
            Some(_) => Err(fields.bad("temperature", "write a number from 0 to 2")),
        }
    })
    .about("Answer to a prompt; files with only prompts need no --type")
}

pub(crate) fn embedding() -> JobType {
    JobType::prompt(EMBEDDING_KIND, |payload| {
        let fields = Fields::of(payload, &["text", "model"])?;
        let request = Request::embedding(fields.required_text("text")?);
        Ok(match fields.text("model")? {
            Some(model) => request.with_model(model),
            None => request,
        })
    })
    .about("Embedding of a text; one call embeds many texts")
}
