//! Calls whose answer must be JSON of some shape. What does not fit is shown to the model, together
//! with what is wrong, when the engine asks again.

use serde::{Deserialize, Serialize};

use crate::base::{Context, Error, ErrorKind, Optional, Sent};

use super::client::LlmClient;
use super::json_answer::Shape;
use super::params::ResponseFormat;
use super::request::{Message, Request, Role};
use super::response::{FinishReason, Response};

/// An answer that did not fit, and why.
#[derive(Clone, Serialize, Deserialize, derive_more::Debug)]
#[debug("Correction")]
pub(crate) struct Correction {
    answer: String,
    why: String,
}

/// One call, and the look at its answer.
pub(crate) fn complete(
    client: &dyn LlmClient,
    request: &Request,
    format: &ResponseFormat,
    before: Option<&Correction>,
    ctx: &Context,
) -> Result<Response, Error> {
    let shape = Shape::of(format).map_err(unusable)?;
    let response = match before {
        Some(before) => client.complete(&before.corrected(request), ctx)?,
        None => client.complete(request, ctx)?,
    };
    held_against(&shape, response, request.unchecked)
}

/// Checks an answer of a batch against the requested format.
pub(crate) fn fitting(
    format: &ResponseFormat,
    response: Response,
    unchecked: bool,
) -> Result<Response, Error> {
    let shape = Shape::of(format).map_err(unusable)?;
    held_against(&shape, response, unchecked)
}

fn unusable(fault: String) -> Error {
    let why = format!("the request's JSON Schema cannot be used: {fault}");
    Error::new(ErrorKind::Invalid, why)
}

/// Checks an answer against its format. Tool calls are not checked, because they are not the answer yet. An `unchecked`
/// answer of another format is returned unchanged.
fn held_against(shape: &Shape, mut response: Response, unchecked: bool) -> Result<Response, Error> {
    if !response.details().tool_calls.is_empty() {
        return Ok(response);
    }
    match shape.fit(&response.text) {
        Ok(json) => {
            if json.len() < response.text.len() {
                response.text = json.to_owned();
            }
            Ok(response)
        }
        Err(misfit) => match found(shape, &response) {
            Some(json) => {
                response.text = json;
                Ok(response)
            }
            None if unchecked => Ok(response),
            None => Err(refused(shape, misfit, &response)),
        },
    }
}

/// The JSON in an answer that says more. Of what was cut nobody knows what would have followed.
fn found(shape: &Shape, response: &Response) -> Option<String> {
    let whole = response.finish_reason != FinishReason::Length;
    whole.then(|| shape.find(&response.text).map(str::to_owned))?
}

/// The failure of an answer that does not fit. What was cut would be cut again.
fn refused(shape: &Shape, misfit: String, response: &Response) -> Error {
    let cut = response.finish_reason == FinishReason::Length;
    let why = if cut {
        "the answer was cut at the token limit before its JSON was complete; allow more tokens (max_tokens)"
            .to_owned()
    } else {
        format!("{MISFIT}{}: {misfit}", shape.name())
    };
    let error = Error::new(ErrorKind::Invalid, why)
        .with_sent(Sent::Answered)
        .with_rate_hints(response.hints)
        .with_paid(response.paid())
        .with_answered_model(response.model.clone())
        .with_raw(&response.text);
    error.when(!cut, Error::with_schema_mismatch)
}

/// How the message of such a failure begins.
const MISFIT: &str = "the answer does not fit the ";

impl Correction {
    /// The correction of an answer that failed so.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        let why = error.message().strip_prefix(MISFIT)?;
        let answer = error.raw().filter(|_| error.is_schema_mismatch())?;
        Some(Self {
            answer: answer.to_owned(),
            why: why.to_owned(),
        })
    }

    /// The request, continued by the answer and what is wrong with it. An empty answer cannot be
    /// part of a conversation: then it is the request as it was.
    fn corrected(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if !self.answer.trim().is_empty() {
            let wanted = format!(
                "This does not fit the {}. Answer again with nothing but the corrected JSON.",
                self.why
            );
            let answer = Message::new(Role::Assistant, self.answer.as_str());
            request.messages.push(answer);
            request.messages.push(Message::new(Role::User, wanted));
        }
        request
    }
}
