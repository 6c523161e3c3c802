//! `completion` and `embedding`: prompts as payloads, for programs that also submit jobs of other types.

use std::num::NonZeroU32;

use serde::Deserialize;

use batchwright::Request;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND, JobKinds};

use super::fields::{PayloadError, Text, read};
use super::job_type::JobType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Completion {
    prompt: Text,
    system: Option<Text>,
    model: Option<Text>,
    max_tokens: Option<NonZeroU32>,
    temperature: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embedding {
    text: Text,
    model: Option<Text>,
}

pub(crate) fn completion() -> JobType {
    let about = "Answer to a prompt; files with only prompts need no --type";
    let job_type = JobType::new(COMPLETION_KIND, JobKinds::new()).about(about);
    job_type.accept(|payload| {
        let payload: Completion = read(payload)?;
        let mut request = Request::new(payload.prompt.0);
        request.system = payload.system.map(|text| text.0);
        request.model = payload.model.map(|text| text.0);
        request.params.max_tokens = payload.max_tokens.map(NonZeroU32::get);
        request.params.temperature = payload.temperature;
        if !(0.0..=2.0).contains(&payload.temperature.unwrap_or_default()) {
            let why = "write a number from 0 to 2";
            return Err(PayloadError::new("temperature", why));
        }
        Ok(Some(request))
    })
}

pub(crate) fn embedding() -> JobType {
    let about = "Embedding of a text; one call embeds many texts";
    let job_type = JobType::new(EMBEDDING_KIND, JobKinds::new()).about(about);
    job_type.accept(|payload| {
        let payload: Embedding = read(payload)?;
        let mut request = Request::embedding(payload.text.0);
        request.model = payload.model.map(|text| text.0);
        Ok(Some(request))
    })
}
