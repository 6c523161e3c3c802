//! What shares an allowance, and what its user allows.

use std::time::Duration;

use super::shared_quota::Remembered;
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
    /// No quota: never limited, never paused, shared with nobody.
    pub const fn none() -> Self {
        Self(0)
    }

    /// The quota named by these parts, such as provider, account and model.
    pub fn new(parts: &[&str]) -> Self {
        // FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): asked for every request, so cheap
        // counts; the parts come from configuration, not from an adversary.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in parts {
            for byte in part.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Self(hash.max(1))
    }
}

/// A quota's place in its limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuotaId(pub(crate) u32);

impl QuotaId {
    pub(crate) const NONE: QuotaId = QuotaId(0);
}

/// Limits set by the user; unset ones are learned from replies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub(super) requests_per_minute: Option<f64>,
    pub(super) tokens_per_minute: Option<f64>,
    pub(super) burst: u32,
    pub(super) in_flight: Option<u32>,
    /// Calls in flight at first and at most, where the number is to be found.
    pub(super) window: Option<(u32, u32)>,
    pub(super) assumed_rpm: Option<f64>,
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
            assumed_rpm: None,
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

    /// Requests per minute as long as none are given and no reply has told them. Default: none are
    /// assumed.
    ///
    /// # Panics
    /// If `rpm` is not a positive finite number.
    pub fn assume_requests_per_minute(mut self, rpm: f64) -> Self {
        assert!(rpm > 0.0 && rpm.is_finite(), "rpm must be positive");
        self.assumed_rpm = Some(rpm);
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

    /// Requests that may start at once after a pause in traffic, and the calls allowed in flight
    /// until a quota's first reply tells its limits. Default: 10.
    ///
    /// # Panics
    /// If `burst` is 0.
    pub fn burst(mut self, burst: u32) -> Self {
        assert!(burst > 0, "burst must be at least 1");
        self.burst = burst;
        self
    }

    /// These are all the limits there are: no reply is waited for that could tell more. Default: the
    /// first reply is.
    pub fn known(mut self) -> Self {
        self.known = true;
        self
    }

    /// Calls in flight at once, however many the run makes: a server of few slots beside one of
    /// many. Default: as many as the run makes.
    ///
    /// # Panics
    /// If `calls` is 0.
    pub fn in_flight(mut self, calls: u32) -> Self {
        assert!(calls > 0, "at least 1 call must be allowed");
        self.in_flight = Some(calls);
        self
    }

    /// The number of calls in flight is found by itself: `start` at first, more while that helps, fewer when
    /// calls are refused, and never more than `most`. A run should make as many calls at once as that, see
    /// [`FileRun::up_to`](crate::FileRun::up_to). Default: as many as the run makes, and fewer
    /// once calls are refused.
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

    /// The window that follows what an earlier run found.
    pub(super) fn window_after(&self, remembered: Remembered) -> Window {
        match (self.window, remembered) {
            // The last refusal of a run may have left less than that was worth.
            (Some((start, most)), Remembered::Fresh(calls)) => {
                Window::resumed(calls.max(start), most)
            }
            // Much may have changed: growing again is cheap.
            (Some((start, most)), Remembered::Old(calls)) => {
                Window::tuned((calls / 2).max(start), most)
            }
            (None, _) => Window::default(),
        }
    }
}

/// How a call ended, as far as quotas are concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CallEnd {
    /// A reply came; tokens it used for input and output, where it said so.
    Replied(Option<(u64, u64)>),
    /// A reply came that tells of trouble over there: it says nothing of how much is too much. Tokens as above.
    Troubled(Option<(u64, u64)>),
    /// The provider refused it for its pace, with the wait it asked for.
    RateLimited(Option<Duration>),
    /// The server is up, but its model is still loading; with the wait it asked for.
    NotReady(Option<Duration>),
    /// No connection came about: whatever else would be sent there now fares no better.
    Unreachable,
    /// It failed in another way.
    Failed,
}
