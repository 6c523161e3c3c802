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
        request.map(Some).map_err(|error| {
            // The message has the name of the field in quotation marks.
            let mut parts = error.message().split('"');
            let field = parts.find(|part| payload.get(*part).is_some());
            PayloadError::new(field.unwrap_or_default(), error.message())
        })
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

#[cfg(test)]
mod tests {
    use batchwright::Job;
    use serde_json::json;

    use super::*;
    use crate::JobTypes;

    #[test]
    fn a_completion_is_the_request_of_a_line_and_reads_no_file() {
        let types = JobTypes::new();
        let mut request = Request::new("hi").with_system("s").with_model("m");
        request.params.max_tokens = Some(5);
        request.params.temperature = Some(0.5);
        let payload = json!({"prompt": "hi", "system": "s", "model": "m", "max_tokens": 5, "temperature": 0.5});
        let job = types.job("completion", payload).unwrap();
        assert_eq!(job.request_hash, Job::from(&request).request_hash);
        let image = json!({"type": "image", "path": "/etc/hostname"});
        let file = json!({"messages": [{"role": "user", "content": [image]}]});
        let error = types.job("completion", file).unwrap_err();
        assert!(error.message.contains("a file of this machine"), "{error}");
    }
}
