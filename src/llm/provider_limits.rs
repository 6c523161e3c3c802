//! The current limits of the providers of a route.

use crate::engine::quota::QuotaStatus;

use super::request::Request;
use super::route::Route;

/// The current limits of a provider that the limiter of its route knows: configured limits, and those that replies
/// reported. Limits per day are not included.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderLimits {
    /// The provider.
    pub provider: String,
    /// The model of the request there, if known. Each model has its own limits.
    pub model: Option<String>,
    /// The limits.
    pub quota: QuotaStatus,
}

impl Route<'_> {
    /// The limits of the providers for such a request, in the order in which they are called.
    ///
    /// ```
    /// use std::time::Duration;
    /// use batchwright::client::QuotaKey;
    /// use batchwright::testing::ManualClock;
    /// use batchwright::{Context, Error, Limits, LlmClient, Request, Response, Route};
    ///
    /// struct Echo;
    ///
    /// impl LlmClient for Echo {
    ///     fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
    ///         Ok(Response::new("echo", request.messages[0].text()))
    ///     }
    ///     fn quota(&self, _: &Request) -> QuotaKey {
    ///         QuotaKey::new(&["echo"])
    ///     }
    /// }
    ///
    /// let limits = Limits::default().requests_per_minute(60.0);
    /// let route = Route::limited(Echo, limits).clock(std::sync::Arc::new(ManualClock::new()));
    /// let request = Request::new("Hello");
    /// route.complete(&request, &Context::new())?;
    /// let requests = route.limits(&request)[0].quota.requests.unwrap();
    /// assert_eq!((requests.limit, requests.remaining), (60, 59));
    /// assert_eq!(requests.reset_after, Duration::from_secs(1));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn limits(&self, request: &Request) -> Vec<ProviderLimits> {
        let (class, limiter) = (self.class(request, &mut None), self.limiter());
        let now = self.clock_ref().now();
        let steps = (0..class.steps() as u8).map(|step| {
            let (provider, model) = self.asked(step, request);
            ProviderLimits {
                provider,
                model,
                quota: limiter.status(class.quota(step), now),
            }
        });
        steps.collect()
    }
}
