//! The client trait: one blocking try for one prompt.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::engine::limiter::QuotaKey;
use crate::engine::pack::PackLimits;

use super::request::Request;
use super::response::Response;

/// Answers one prompt at a time. Retries, limits and fallback are the engine's business, never a
/// client's.
///
/// A client that ignores its context delays cancellation until it returns.
pub trait LlmClient: Send + Sync {
    /// One try.
    ///
    /// # Errors
    /// Any [`Error`]; its kind decides what happens next. One that was paid for all the same says so
    /// with [`Error::with_usage`].
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error>;

    /// One try to embed several texts with one call: one answer or failure for each, in their order. The
    /// failure of a single text ends that item; it is not tried again. All of
    /// them have [`RequestTask::Embed`](crate::client::RequestTask::Embed) and are alike in all but their text. If the
    /// call finally fails in a way that one of them may have caused ([`ErrorKind::Invalid`],
    /// [`Blocked`](ErrorKind::Blocked), [`Malformed`](ErrorKind::Malformed), or
    /// [`Transient`](ErrorKind::Transient) with a status), smaller ones follow until it is alone.
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

    /// How many texts, and how much of them, one call of [`embed`](Self::embed) takes. Default:
    /// [`PackLimits::ONE`].
    fn pack_limits(&self) -> PackLimits {
        PackLimits::ONE
    }

    /// What the request shares an allowance with. Default: nothing.
    fn quota(&self, _request: &Request) -> QuotaKey {
        QuotaKey::none()
    }

    /// The name shown for failures. Default: `"custom"`.
    fn provider(&self) -> &str {
        "custom"
    }

    /// The model a request will be sent to, as far as known. Default: the request's own.
    fn model_for(&self, request: &Request) -> Option<String> {
        request.model.clone()
    }

    /// Whether it can be asked such a thing at all. A kind of a queue's jobs that says what
    /// it asks for passes by clients that cannot: they take over nothing when others are in trouble. Default: yes.
    fn can(&self, _request: &Request) -> bool {
        true
    }

    /// Calls in flight that suit it, for runs that set no number. Default: unknown, and a run makes 5.
    fn concurrency(&self) -> Option<usize> {
        None
    }

    /// Where it is asked: answers of the same provider and model are not [reused](crate::FileRun::reuse) where they
    /// came from another address. Default: nowhere in particular.
    fn address(&self) -> &str {
        ""
    }
}

/// Has a type forward all calls to another client.
macro_rules! forward {
    ($([$($generics:tt)*] $client:ty, $self:ident => $to:expr;)*) => {$(
        impl $($generics)* $crate::llm::client::LlmClient for $client {
            fn complete(&$self, request: &Request, ctx: &Context) -> Result<Response, Error> {
                ($to).complete(request, ctx)
            }
            fn embed(
                &$self,
                requests: &[&Request],
                ctx: &Context,
            ) -> Result<Vec<Result<Response, Error>>, Error> {
                ($to).embed(requests, ctx)
            }
            fn pack_limits(&$self) -> PackLimits {
                ($to).pack_limits()
            }
            fn quota(&$self, request: &Request) -> QuotaKey {
                ($to).quota(request)
            }
            fn provider(&$self) -> &str {
                ($to).provider()
            }
            fn model_for(&$self, request: &Request) -> Option<String> {
                ($to).model_for(request)
            }
            fn can(&$self, request: &Request) -> bool {
                ($to).can(request)
            }
            fn concurrency(&$self) -> Option<usize> {
                ($to).concurrency()
            }
            fn address(&$self) -> &str {
                ($to).address()
            }
        }
    )*};
}
pub(crate) use forward;

forward! {
    [<C: LlmClient + ?Sized>] &C, self => **self;
    [<C: LlmClient + ?Sized>] Box<C>, self => **self;
    [<C: LlmClient + ?Sized>] Arc<C>, self => **self;
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
