//! The last resort that needs no network: the first 300 characters of the text.

use crate::base::{Context, Error, ErrorKind, Usd};
use crate::llm::client::LlmClient;
use crate::llm::params::RequestTask;
use crate::llm::request::{Request, Role};
use crate::llm::response::{FinishReason, Response};

/// Characters of the text that are kept.
pub const EXTRACT_CHARS: usize = 300;

/// The name of [`Extract`] as a provider.
pub(crate) const STAND_IN: &str = "extract";

/// Answers with the beginning of the last user message. It is no model: results carry the
/// provider `extract`, so that nobody mistakes them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract;

/// Why a request asks for more than the beginning of a text.
fn refusal(request: &Request) -> Option<&'static str> {
    if request.task == RequestTask::Speech {
        Some("extract cannot generate speech")
    } else if request.params.response_format.is_some() {
        Some("the request requires an answer in JSON, and extract is not a model")
    } else if request.files().next().is_some() {
        Some("extract reads no files")
    } else {
        None
    }
}

impl LlmClient for Extract {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        ctx.check()?;
        if let Some(why) = refusal(request) {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let mut messages = request.messages.iter().rev();
        let last = messages.find(|message| message.role == Role::User);
        let text = last.map(|message| message.text()).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            let why = "there is no user text to extract from";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let end = text
            .char_indices()
            .nth(EXTRACT_CHARS)
            .map_or(text.len(), |(at, _)| at);
        let mut response = Response::new(STAND_IN, &text[..end]);
        if end < text.len() {
            response.finish_reason = FinishReason::Length;
        }
        response.model = Some("extract".to_owned());
        response.cost_usd = Some(Usd::ZERO);
        Ok(response)
    }

    fn can(&self, request: &Request) -> bool {
        request.task == RequestTask::Complete && refusal(request).is_none()
    }

    fn provider(&self) -> &str {
        STAND_IN
    }

    fn concurrency(&self) -> Option<usize> {
        Some(5)
    }

    fn model_for(&self, _: &Request) -> Option<String> {
        Some("extract".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::params::ResponseFormat;

    #[test]
    fn the_extract_is_the_beginning_of_a_text_and_never_json() {
        let ask = |request: &Request| Extract.complete(request, &Context::new());
        let long = ask(&Request::new("é😀".repeat(400))).unwrap();
        assert_eq!(long.text.chars().count(), EXTRACT_CHARS);
        assert_eq!(long.finish_reason, FinishReason::Length);
        let short = ask(&Request::new(" short ")).unwrap();
        assert_eq!(
            (&*short.text, short.finish_reason),
            ("short", FinishReason::Stop)
        );
        let json = Request::new("{}").with_response_format(ResponseFormat::JsonObject);
        for refused in [json, Request::new("")] {
            assert_eq!(ask(&refused).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
