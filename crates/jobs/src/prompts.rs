//! `completion` and `embedding`: prompts as payloads, for programs that also submit jobs of other types.

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
        Ok(match fields.number("temperature", 0.0..=2.0)? {
            Some(temperature) => request.with_temperature(temperature),
            None => request,
        })
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
