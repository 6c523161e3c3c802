//! State of a provider that all machines share in addition to its limits: whether any call was answered yet, and
//! whether the provider is unavailable.
//!
//! Until a call of a quota without known limits has ended, all machines together make few calls: the first reply may
//! report a limit. While a provider is unavailable on one machine, the others do not call it either, and one call of
//! all machines probes it.

use std::time::Duration;

use crate::base::clock::Time;
use crate::hub::shares::{Outage, Standing};

use super::{LOOK_AGAIN, Quota};

/// Interval of checks whether other machines have ended an outage.
pub(in crate::engine) const LOOK_FOR_END: Duration = Duration::from_millis(250);
/// Longest wait that a machine requests from others.
const LONGEST: Duration = Duration::from_secs(120);

/// State read from Redis, and changes to publish.
#[derive(Default)]
pub(super) struct Others {
    /// Whether a call of another machine was answered.
    replied: bool,
    /// Number of calls allowed before the first reply.
    first_calls: u32,
    wants_first: bool,
    /// End of the outage, if the provider is unavailable: no machine calls it earlier.
    outage: Option<Time>,
    probe: Probe,
    /// Whether the last exchange requested the probe.
    asked: bool,
    news: Outage,
}

/// The probe: the one call that checks whether the provider is available again.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Probe {
    #[default]
    None,
    Wanted,
    Granted,
    Out,
}

impl Others {
    /// Adds requests and reports to the next exchange. Returns whether there are any.
    pub(super) fn ask(&mut self) -> (Outage, bool, bool) {
        let first = std::mem::take(&mut self.wants_first);
        self.asked = self.probe != Probe::None;
        (std::mem::take(&mut self.news), first, self.asked)
    }

    pub(super) fn has_news(&self) -> bool {
        self.news != Outage::Unchanged
    }

    pub(super) fn hear(&mut self, standing: Standing, now: Time) {
        self.first_calls += u32::from(standing.may_begin);
        self.replied = standing.has_replied;
        if self.has_news() {
            // It does not know that yet.
            return;
        }
        match standing.outage {
            None => (self.outage, self.probe) = (None, Probe::None),
            Some(wait) => {
                self.outage = Some(now.after(wait.min(LONGEST)));
                if wait.is_zero() && self.asked && self.probe == Probe::Wanted {
                    self.probe = Probe::Granted;
                }
            }
        }
    }

    /// Redis cannot be reached, so the state of other machines is unknown.
    pub(super) fn lose(&mut self) {
        *self = Self::default();
    }

    /// A call starts.
    pub(super) fn begin(&mut self) {
        self.first_calls = self.first_calls.saturating_sub(1);
        if self.probe == Probe::Granted {
            self.probe = Probe::Out;
        }
    }
}

impl Quota {
    /// When to check again, if the shared state forbids this machine to start a call.
    pub(super) fn await_others(&mut self, now: Time) -> Option<Time> {
        let is_unknown = !self.has_replied && self.requests.is_none() && self.tokens.is_none();
        let lease = self.lease.as_mut().filter(|lease| !lease.is_lost())?;
        let others = &mut lease.others;
        if is_unknown && !others.replied && others.first_calls == 0 {
            others.wants_first = true;
            return Some(lease.look(now));
        }
        let until = others.outage?;
        if until > now {
            return Some(until.min(now.after(LOOK_FOR_END)));
        }
        match others.probe {
            Probe::Granted => None,
            Probe::Out => Some(now.after(LOOK_AGAIN)),
            Probe::None | Probe::Wanted => {
                others.probe = Probe::Wanted;
                Some(lease.look(now))
            }
        }
    }

    /// Records that the provider is unavailable until then, or is available again. Publishes this unless `is_ours`:
    /// then the network of this machine may be the cause.
    pub(in crate::engine) fn note_outage(&mut self, until: Option<Time>, is_ours: bool, now: Time) {
        let Some(lease) = &mut self.lease else { return };
        let others = &mut lease.others;
        others.probe = Probe::None;
        if is_ours {
            return;
        }
        others.outage = until;
        others.news = until.map_or(Outage::Over, |until| Outage::For(until.since(now)));
        lease.hub.nudge();
    }

    /// End of the outage; the inner `None` if the provider is available. The outer `None` if only this machine knows.
    pub(in crate::engine) fn outage(&mut self, waits: bool, now: Time) -> Option<Option<Time>> {
        let lease = self.lease.as_mut().filter(|lease| !lease.is_lost())?;
        if waits {
            // This machine will read the end of the outage.
            lease.last_use = Some(now);
        }
        Some(lease.others.outage)
    }

    /// Whether the provider is known to be unavailable.
    pub(in crate::engine) fn has_outage(&self) -> bool {
        (self.lease.as_ref()).is_some_and(|lease| lease.others.outage.is_some())
    }
}
