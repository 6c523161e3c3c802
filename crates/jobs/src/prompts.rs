//! `completion` and `embedding`: prompts as payloads, for programs that also submit jobs of other types.

use serde::Deserialize;

use batchwright::Request;
use batchwright::files::PromptSettings;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND, JobKinds};

use super::fields::{PayloadError, Text, read};
use super::job_type::JobType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embedding {
    text: Text,
    model: Option<Text>,
}

pub(crate) fn completion() -> JobType {
    let about = "Answer to a prompt; files with only prompts need no --type";
    let job_type = JobType::new(COMPLETION_KIND, JobKinds::new()).about(about);
    // The same as a line of a file.
    job_type.accept(|payload| {
        let request = PromptSettings::new().request(&payload.to_string());
        request
            .map(Some)
            .map_err(|error| PayloadError::new("", error.message()))
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
