//! Calls as they begin and end, for whoever counts or records them.

use std::time::Duration;

use crate::base::error::Error;

/// Hears of every call that is made to a provider, on the thread that makes it.
pub trait CallObserver: Send + Sync {
    /// A call begins. It should return quickly: the call waits for it.
    fn on_start(&self, call: &ObservedCall<'_>);

    /// That call has ended. It should return quickly: its outcome waits for it.
    fn on_end(&self, call: &ObservedCall<'_>, end: &CallResult<'_>);
}

/// A call to a provider, without anything that it says there.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ObservedCall<'a> {
    /// What is asked for: `chat` for an answer, `embeddings` for vectors.
    pub operation: &'static str,
    /// The provider's name.
    pub provider: &'a str,
    /// The model that is asked for, where that is known.
    pub model: Option<&'a str>,
    /// The id of the item, or of the first one where several share the call.
    pub item: Option<&'a str>,
    /// Items that share the call.
    pub items: usize,
    /// Which call it is that the item has: 1 for the first.
    pub attempt: u32,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CallResult<'a> {
    /// From the call's start to its end.
    pub took: Duration,
    /// Why it brought no answer, if it did not.
    pub error: Option<&'a Error>,
    /// Tokens read and written by the provider, where it said so.
    pub tokens: Option<(u64, u64)>,
}

impl CallResult<'_> {
    /// One event for a call, under the names of the GenAI semantic conventions where they have one
    /// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/>). What was asked and answered is
    /// no part of it.
    pub(crate) fn log(&self, call: &ObservedCall<'_>) {
        let (input, output) = self.tokens.unzip();
        let kind = self.error.map(|error| error.kind().as_str());
        let item = call.item.unwrap_or("(unnamed)");
        log::debug!(
            "gen_ai.operation.name" = call.operation,
            "gen_ai.provider.name" = call.provider,
            "gen_ai.request.model" = call.model,
            "gen_ai.usage.input_tokens" = input,
            "gen_ai.usage.output_tokens" = output,
            "http.response.status_code" = self.error.and_then(Error::status),
            "error.type" = kind,
            "batchwright.item" = call.item,
            "batchwright.items" = call.items,
            "batchwright.attempt" = call.attempt,
            "batchwright.duration_seconds" = self.took.as_secs_f64();
            "{} {} call {} of item {item} after {:.3} s",
            call.provider,
            kind.unwrap_or("answered"),
            call.attempt,
            self.took.as_secs_f64(),
        );
    }
}
