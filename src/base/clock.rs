//! Time as a value: decisions take a [`Time`], and the shell reads a [`Clock`] once per turn.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, relative to an origin that is the same for the whole OS process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens.
    pub const FAR: Time = Time(u64::MAX);

    /// The point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is in the future.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point plus `by`, at most [`Time::FAR`].
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// A point in time that other OS processes and later runs understand: milliseconds since 1970 (UTC).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This point plus `by`, rounded up to a whole millisecond, so never too early.
    pub fn after(self, by: Duration) -> Self {
        let millis = by.as_nanos().div_ceil(1_000_000);
        Self(
            self.0
                .saturating_add(i64::try_from(millis).unwrap_or(i64::MAX)),
        )
    }

    /// Time since `earlier`; zero if that is in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Wakes a waiting engine; called when a manual clock is moved.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// A source of time. Unstable: for tests only.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Time;

    /// The current time of day. Default: the system's.
    fn wall(&self) -> Timestamp {
        SystemTime::now().into()
    }

    /// How long to block, in real time, until `until`; `None` to block until woken.
    fn real_wait(&self, until: Time) -> Option<Duration> {
        Some(until.since(self.now()))
    }

    /// Registers a function to call when time jumps. A clock that runs by itself needs none.
    fn on_jump(&self, _wake: Wake) {}
}

/// The monotonic clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

impl SystemClock {
    /// Translates an `Instant` to the crate's time.
    pub fn at(instant: Instant) -> Time {
        Time::ZERO.after(instant.saturating_duration_since(origin()))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        // The origin first: an earlier instant would count as zero.
        let origin = origin();
        Time::ZERO.after(origin.elapsed())
    }
}
