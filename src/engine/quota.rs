//! Quotas, those of a route, and the limits that the user sets for them.

use std::sync::Arc;
use std::time::Duration;

use super::window::Window;

/// Names a quota: everything that shares one allowance at a provider.
///
/// ```
/// use batchwright::client::QuotaKey;
/// assert_eq!(QuotaKey::new(&["openai", "key-1", "m"]), QuotaKey::new(&["openai", "key-1", "m"]));
/// assert_ne!(QuotaKey::new(&["openai", "key-1"]), QuotaKey::none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuotaKey(pub(super) u64);

impl QuotaKey {
    /// No quota: no limits, no pauses, shared with nothing.
    pub const fn none() -> Self {
        Self(0)
    }

    /// The quota named by these parts, such as provider, account and model.
    pub fn new(parts: &[&str]) -> Self {
        // FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): computed for every request, so it must be cheap; the
        // parts come from configuration, so collisions are not an attack.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in parts {
            for byte in part.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Self(hash.max(1))
    }
}

/// Index of a quota in its limiter, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuotaId(pub(crate) u32);

impl QuotaId {
    pub(crate) const NONE: QuotaId = QuotaId(0);
}

/// The quotas of a route, one per step. Items of one class are treated equally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    quotas: Arc<[QuotaId]>,
    /// Index of the route, if several routes share an engine.
    route: u16,
}

impl Class {
    pub(crate) fn new(quotas: impl Into<Arc<[QuotaId]>>) -> Self {
        Self {
            quotas: quotas.into(),
            route: 0,
        }
    }

    /// The same quotas on another route.
    pub(crate) fn on(self, route: u16) -> Self {
        Self { route, ..self }
    }

    pub(crate) fn steps(&self) -> usize {
        self.quotas.len()
    }

    pub(crate) fn quota(&self, step: u8) -> QuotaId {
        let quota = self.quotas.get(usize::from(step));
        quota.copied().unwrap_or(QuotaId::NONE)
    }

    /// The identity of a step among those of all routes.
    pub(crate) fn at(&self, step: u8) -> StepId {
        StepId(self.route, step)
    }
}

/// A step of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepId(u16, u8);

/// Limits set by the user; unset ones are learned from replies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub(super) requests_per_minute: Option<f64>,
    pub(super) tokens_per_minute: Option<f64>,
    pub(super) burst: u32,
    pub(super) in_flight: Option<u32>,
    /// First and highest number of calls in flight, if the number is to be found.
    pub(super) window: Option<(u32, u32)>,
    pub(super) known: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            burst: 10,
            in_flight: None,
            window: None,
            known: false,
        }
    }
}

impl Limits {
    /// Requests per minute. Default: learned from the provider's replies, else none.
    ///
    /// # Panics
    /// If `rpm` is not a positive finite number.
    pub fn requests_per_minute(mut self, rpm: f64) -> Self {
        assert!(rpm > 0.0 && rpm.is_finite(), "rpm must be positive");
        self.requests_per_minute = Some(rpm);
        self
    }

    /// Tokens (input and output) per minute. Default: learned from replies, else none.
    ///
    /// # Panics
    /// If `tpm` is not a positive finite number.
    pub fn tokens_per_minute(mut self, tpm: f64) -> Self {
        assert!(tpm > 0.0 && tpm.is_finite(), "tpm must be positive");
        self.tokens_per_minute = Some(tpm);
        self
    }

    /// Requests that may start at once after a period without calls, and calls in flight until the first reply of a
    /// quota reports its limits. Default: 10.
    ///
    /// # Panics
    /// If `burst` is 0.
    pub fn burst(mut self, burst: u32) -> Self {
        assert!(burst > 0, "burst must be at least 1");
        self.burst = burst;
        self
    }

    /// The configured limits are complete: calls do not wait for a first reply that could report more. Default: they
    /// wait.
    pub fn known(mut self) -> Self {
        self.known = true;
        self
    }

    /// Maximum number of calls in flight for this quota, independent of the concurrency of the run; for example for a
    /// server with few slots. Default: the concurrency of the run.
    ///
    /// # Panics
    /// If `calls` is 0.
    pub fn in_flight(mut self, calls: u32) -> Self {
        assert!(calls > 0, "at least 1 call must be allowed");
        self.in_flight = Some(calls);
        self
    }

    /// Finds the number of calls in flight automatically: it starts with `start`, grows while that increases
    /// throughput, shrinks when calls are rejected, and is at most `most`. The concurrency of the run should be
    /// `most`. Default: the concurrency of the run, and fewer once
    /// calls are rejected.
    ///
    /// # Panics
    /// If `start` is 0 or more than `most`.
    pub fn self_tuned(mut self, start: u32, most: u32) -> Self {
        assert!((1..=most).contains(&start), "a start from 1 to {most}");
        self.window = Some((start, most));
        self
    }

    pub(super) fn window(&self) -> Window {
        match self.window {
            Some((start, most)) => Window::tuned(start, most),
            None => Window::default(),
        }
    }
}

/// How a call ended, for its quota.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CallEnd {
    /// A reply, with its input and output tokens if reported.
    Replied(Option<(u64, u64)>),
    /// A reply that reports a failure of the server, so it shows nothing about limits. Tokens as above.
    Troubled(Option<(u64, u64)>),
    /// Rate-limited, with the requested wait.
    RateLimited(Option<Duration>),
    /// The server is up, but its model is still loading; with the requested wait.
    NotReady(Option<Duration>),
    /// Any other failure.
    Failed,
}

/// Current limits of a quota, as its limiter knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaStatus {
    /// Requests; `None` while no limit is known.
    pub requests: Option<RateStatus>,
    /// Tokens of input and output; `None` while no limit is known.
    pub tokens: Option<RateStatus>,
    /// Calls in flight.
    pub in_flight: u32,
    /// Maximum number of calls in flight, configured or found; `None` if only the concurrency of the run or worker
    /// limits them.
    pub most_in_flight: Option<u32>,
    /// Time for which no call starts, because a call was rejected or its provider was unreachable; zero if calls may
    /// start.
    pub paused_for: Duration,
}

/// Current state of a limit per minute: [`requests`](QuotaStatus::requests) in calls, [`tokens`](QuotaStatus::tokens)
/// in input and output tokens together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateStatus {
    /// The limit per minute, as configured or as the provider's replies report it.
    pub limit: u64,
    /// What is left of it; zero while the next call must wait. The number of calls that start at once is limited
    /// further: to [`Limits::burst`](crate::Limits::burst) requests, and to ten seconds' worth of tokens.
    pub remaining: u64,
    /// Time until all of it is left again, if nothing more is used.
    pub reset_after: Duration,
}
