//! The flex tier: calls at about half the price that take longer, and that the provider rejects while it has no
//! capacity for them. Sources: developers.openai.com, "Flex processing"; ai.google.dev, "Flex inference".

use std::borrow::Cow;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::Error;
use crate::llm::request::Request;

use super::native;
use super::vendor::{Dialect, Vendor};

/// Decides whether the next call uses the flex tier. One for all calls of a client.
pub(super) struct Flex {
    /// Time without an answer after which calls use the standard tier. Without it, they wait for capacity.
    patience: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The first rejection since the last answer.
    rejected_since: Option<Instant>,
    standard_until: Option<Instant>,
}

impl Flex {
    pub fn new(patience: Option<Duration>) -> Self {
        Self {
            patience,
            state: Mutex::default(),
        }
    }

    /// Whether a call that starts now uses the flex tier.
    pub fn is_used(&self, now: Instant) -> bool {
        self.state
            .lock()
            .standard_until
            .is_none_or(|end| now >= end)
    }

    /// A call at the flex tier was answered.
    pub fn answered(&self) {
        *self.state.lock() = State::default();
    }

    /// A call was rejected because the provider has no capacity. Returns the time of calls at the standard tier that
    /// begins now, if one does.
    pub fn rejected(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        let since = *state.rejected_since.get_or_insert(now);
        let patience = self.patience?;
        let begins = now.duration_since(since) >= patience
            && state.standard_until.is_none_or(|end| now >= end);
        // Afterwards calls use the flex tier again; one rejection is then enough to return to the standard tier.
        let length = patience.max(SHORTEST);
        begins.then(|| {
            state.standard_until = Some(now + length);
            length
        })
    }
}

/// Shortest time of calls at the standard tier.
const SHORTEST: Duration = Duration::from_secs(60);

/// The request at the flex tier. A tier that the request names itself stays.
pub(super) fn at_flex_tier<'r>(vendor: &Vendor, request: &'r Request) -> Cow<'r, Request> {
    let mut changed;
    if let Some(native) = native::own(vendor, request) {
        let field = match vendor.dialect {
            Dialect::Gemini => "serviceTier",
            _ => "service_tier",
        };
        if ["service_tier", "serviceTier"]
            .iter()
            .any(|name| native.body().contains_key(*name))
        {
            return Cow::Borrowed(request);
        }
        changed = request.clone();
        if let Some(native) = &mut changed.native {
            native.set(field, "flex".into());
        }
    } else if request.extra.contains_key("service_tier") {
        return Cow::Borrowed(request);
    } else {
        changed = request.clone();
        let tier = ("service_tier".to_owned(), "flex".into());
        changed.extra.extend([tier]);
    }
    Cow::Owned(changed)
}

/// Whether a provider rejected a call at the flex tier for want of capacity. It bills nothing then.
pub(super) fn lacks_capacity(error: &Error) -> bool {
    let text = || error.message().to_ascii_lowercase().replace('_', " ");
    match error.status() {
        Some(429) => text().contains("resource unavailable"),
        Some(status) => status == 503,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn calls_return_to_the_standard_tier_after_a_time_without_answers() {
        let (flex, start) = (Flex::new(Some(5 * MINUTE)), Instant::now());
        assert_eq!(flex.rejected(start), None);
        assert_eq!(flex.rejected(start + 4 * MINUTE), None);
        assert!(flex.is_used(start + 4 * MINUTE));
        assert_eq!(flex.rejected(start + 5 * MINUTE), Some(5 * MINUTE));
        assert!(!flex.is_used(start + 9 * MINUTE));
        // A call that began before: the time is not extended.
        assert_eq!(flex.rejected(start + 6 * MINUTE), None);
        let again = start + 10 * MINUTE;
        assert!(flex.is_used(again));
        assert_eq!(flex.rejected(again), Some(5 * MINUTE));
        flex.answered();
        assert!(flex.is_used(again));
        assert_eq!(flex.rejected(again + MINUTE), None);
    }

    #[test]
    fn without_a_patience_calls_wait_for_capacity() {
        let (flex, start) = (Flex::new(None), Instant::now());
        assert_eq!(flex.rejected(start), None);
        assert_eq!(flex.rejected(start + 600 * MINUTE), None);
        assert!(flex.is_used(start + 600 * MINUTE));
    }

    #[test]
    fn a_request_keeps_the_tier_that_it_names() {
        let vendor = Vendor::named("openai").unwrap();
        let plain = Request::new("Hello.");
        assert_eq!(at_flex_tier(vendor, &plain).extra["service_tier"], "flex");
        let own = plain.with_extra("service_tier", "priority".into());
        assert_eq!(at_flex_tier(vendor, &own).into_owned(), own);
    }

    #[test]
    fn want_of_capacity_is_told_from_a_rate_limit() {
        let error = |status, text: &str| Error::new(ErrorKind::Transient, text).with_status(status);
        assert!(lacks_capacity(&error(
            429,
            "openai answered 429 (resource_unavailable): …"
        )));
        assert!(lacks_capacity(&error(429, "Resource Unavailable")));
        assert!(lacks_capacity(&error(503, "overloaded")));
        assert!(!lacks_capacity(&error(429, "Rate limit reached")));
        assert!(!lacks_capacity(&error(500, "resource unavailable")));
    }
}
