//! The client trait: one blocking call for one prompt.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::{Context, Error, ErrorKind};
use crate::engine::limiter::QuotaKey;
use crate::llm::pack::PackLimits;

use super::request::Request;
use super::response::Response;

/// Answers one prompt at a time. The engine handles retries, limits and fallback; a client must not.
///
/// If a client ignores its context, a cancelled run waits until its call returns.
#[auto_impl::auto_impl(&, Box, Arc)]
pub trait LlmClient: Send + Sync {
    /// Makes one call.
    ///
    /// # Errors
    /// Any [`Error`]; its kind decides what happens next. If a failed call was billed, set its tokens with
    /// [`Error::with_usage`].
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error>;

    /// Embeds several texts with one call. Returns an answer or a failure for each, in their order; the failure of a
    /// single text is final. All requests have [`RequestTask::Embed`](crate::client::RequestTask::Embed) and differ only
    /// in their text. If the call finally fails in a way that one text may have caused ([`ErrorKind::Invalid`],
    /// [`Blocked`](ErrorKind::Blocked), [`Malformed`](ErrorKind::Malformed), or
    /// [`Transient`](ErrorKind::Transient) with a status), each text is sent in a call of its own.
    /// Default: a failure.
    ///
    /// # Errors
    /// Any [`Error`]; its kind decides what happens next.
    fn embed(
        &self,
        _requests: &[&Request],
        _ctx: &Context,
    ) -> Result<Vec<Result<Response, Error>>, Error> {
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{} makes no embeddings", self.provider()),
        ))
    }

    /// The maximum number and size of the texts of one call of [`embed`](Self::embed). Default:
    /// [`PackLimits::ONE`].
    fn pack_limits(&self) -> PackLimits {
        PackLimits::ONE
    }

    /// The quota of the request, which it shares with all requests of the same key. Default: none.
    fn quota(&self, _request: &Request) -> QuotaKey {
        QuotaKey::none()
    }

    /// The name of the provider in failures. Default: `"custom"`.
    fn provider(&self) -> &str {
        "custom"
    }

    /// The model that a request will be sent to, if known. Default: the model of the request.
    fn model_for(&self, request: &Request) -> Option<String> {
        request.model.clone()
    }

    /// Whether the client supports such a request. Jobs of a queue whose kind declares its requests do not fail over to
    /// clients that do not support them. Default: yes.
    fn can(&self, _request: &Request) -> bool {
        true
    }

    /// Whether the provider caches the beginning of such a request, if that has about this many tokens. Then a route
    /// sets [`Request::cache_prefix`]. Default: no.
    fn caches_prompts(&self, _request: &Request, _tokens: u32) -> bool {
        false
    }

    /// The suitable number of calls in flight, for runs that set none. Default: unknown; a run then makes 5.
    fn concurrency(&self) -> Option<usize> {
        None
    }

    /// The address of the provider. Default: empty.
    fn address(&self) -> &str {
        ""
    }
}

/// A provider's client; [`LlmConfig::client`](crate::LlmConfig::client) makes it.
pub type Client = Box<dyn LlmClient>;

impl fmt::Debug for dyn LlmClient + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.provider())
    }
}

struct ClientFn<F>(F);

impl<F> LlmClient for ClientFn<F>
where
    F: Fn(&Request, &Context) -> Result<Response, Error> + Send + Sync,
{
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        (self.0)(request, ctx)
    }
}

/// Makes a client of a closure.
///
/// ```
/// use batchwright::{Context, Request, Response, client_fn, execute_bulk_sync};
///
/// let shout = client_fn(|request: &Request, _: &Context| {
///     Ok(Response::new("shout", request.messages[0].text().to_uppercase()))
/// });
/// let requests = [Request::new("one"), Request::new("two")];
/// let outcomes = execute_bulk_sync(&Context::new(), &shout, &requests, 2)?;
/// assert_eq!(outcomes[1].result.as_ref().unwrap().text, "TWO");
/// # Ok::<(), batchwright::BulkError>(())
/// ```
pub fn client_fn(
    f: impl Fn(&Request, &Context) -> Result<Response, Error> + Send + Sync,
) -> impl LlmClient {
    ClientFn(f)
}

/// Asks a client something while the engine's lock is held: a panic must not get away with it.
pub(crate) fn guarded<T>(what: &str, ask: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(ask))
        .map_err(|_| log::error!("a client panicked in {what}"))
        .ok()
}
