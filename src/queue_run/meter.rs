//! Counts the calls of a route, to measure their rate.

use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use crate::base::{Clock, Error, ErrorKind, Time};
use crate::money::call_rate::{CallPace, CallRate};
use crate::observe::calls::{CallObserver, CallResult, ObservedCall};

/// Measures the calls of all routes that report to it.
pub(super) struct Meter {
    rate: Mutex<CallRate>,
    /// The rate that an earlier run has measured.
    noted: Option<CallPace>,
    clock: Arc<dyn Clock>,
}

impl Meter {
    pub(super) fn with_noted(clock: Arc<dyn Clock>, noted: Option<CallPace>) -> Self {
        Self {
            rate: Mutex::default(),
            noted,
            clock,
        }
    }

    pub(super) fn pace(&self, now: Time) -> Option<CallPace> {
        self.rate.lock().pace(now).or(self.noted)
    }

    /// The longest call.
    pub(super) fn longest(&self) -> Duration {
        self.rate.lock().longest()
    }

    /// So many calls can be in flight.
    pub(super) fn set_slots(&self, slots: usize) {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        self.rate.lock().set_slots(slots);
    }

    pub(super) fn wanted(&self, now: Time, yes: bool) {
        self.rate.lock().wanted(now, yes);
    }

    /// An observer that reports to the meter, and then to another one.
    pub(super) fn before(
        self: Arc<Self>,
        inner: Option<Arc<dyn CallObserver>>,
    ) -> impl CallObserver + use<> {
        Metered { meter: self, inner }
    }
}

struct Metered {
    meter: Arc<Meter>,
    inner: Option<Arc<dyn CallObserver>>,
}

impl CallObserver for Metered {
    fn on_start(&self, call: &ObservedCall<'_>) {
        let now = self.meter.clock.now();
        self.meter.rate.lock().start(now);
        if let Some(inner) = &self.inner {
            inner.on_start(call);
        }
    }

    fn on_end(&self, call: &ObservedCall<'_>, end: &CallResult<'_>) {
        let now = self.meter.clock.now();
        let took: Duration = end.took;
        self.meter.rate.lock().end(now, took, is_over(end.error));
        if let Some(inner) = &self.inner {
            inner.on_end(call, end);
        }
    }
}

/// Whether an item whose call ended so is not sent again.
fn is_over(error: Option<&Error>) -> bool {
    error.is_none_or(|error| matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Blocked))
}
