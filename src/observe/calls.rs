//! The start and end of calls, for observers that count or record them.

use std::time::Duration;

use crate::base::Error;

/// Receives every call to a provider, on the thread that makes it.
pub trait CallObserver: Send + Sync {
    /// A call begins. It should return quickly: the call waits for it.
    fn on_start(&self, call: &ObservedCall<'_>);

    /// The call has ended. It should return quickly: the outcome of the call waits for it.
    fn on_end(&self, call: &ObservedCall<'_>, end: &CallResult<'_>);
}

/// A call to a provider, without the contents of request and answer.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ObservedCall<'a> {
    /// The operation: `chat` for an answer, `embeddings` for embeddings.
    pub operation: &'static str,
    /// The provider's name.
    pub provider: &'a str,
    /// The requested model, if known.
    pub model: Option<&'a str>,
    /// The id of the item; if several items share the call, that of the first one.
    pub item: Option<&'a str>,
    /// Items that share the call.
    pub items: usize,
    /// Number of the item's call: 1 for the first.
    pub attempt: u32,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CallResult<'a> {
    /// Duration of the call.
    pub took: Duration,
    /// The reason if the call brought no answer.
    pub error: Option<&'a Error>,
    /// Input and output tokens, if the provider reported them.
    pub tokens: Option<(u64, u64)>,
}

impl CallResult<'_> {
    /// Logs one event per call. It contains neither prompt nor answer.
    pub(crate) fn log(&self, call: &ObservedCall<'_>) {
        log::debug!(
            "{} {} call {} of item {} after {:.3} s",
            call.provider,
            self.error.map_or("answered", |error| error.kind().as_str()),
            call.attempt,
            call.item.unwrap_or("(unnamed)"),
            self.took.as_secs_f64(),
        );
    }
}
