//! State of a provider that all machines share in addition to its limits: whether any call was answered yet, and
//! whether the provider is unavailable.
//!
//! Until a call of a quota without known limits has ended, all machines together make few calls: the first reply may
//! report a limit. While a provider is unavailable on one machine, the others do not call it either, and one call of
//! all machines probes it.

use std::time::Duration;

use crate::base::Time;
use crate::hub::shares::{Outage, Standing};

use super::super::quota::CallEnd;
use super::{LOOK_AGAIN, Quota};

/// Interval of checks whether other machines have ended an outage.
pub(in crate::engine) const LOOK_FOR_END: Duration = Duration::from_millis(250);
/// Time until the next probe after one that failed, if no breaker has a longer wait.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// Another machine may probe if no call here has wanted to for this time.
const WANTED_FOR: Duration = Duration::from_millis(500);
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
    /// When a call last waited for the probe, or could have made it.
    wanted: Time,
    /// The last exchange asked for the probe.
    asked: bool,
    /// Redis has not confirmed the news about the outage yet.
    has_news: bool,
    /// The last exchange contained that news.
    is_sent: bool,
    /// The outage was detected here: it is published again if Redis was unavailable.
    is_found_here: bool,
    /// Redis has shown an outage since it was last unavailable, so it can show the end of one.
    is_shown: bool,
}

/// The probe: the one call that checks whether the provider is available again.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Probe {
    #[default]
    None,
    Wanted,
    Granted,
    /// The call with this number is the probe.
    Out(u64),
}

impl Others {
    /// The news and the request for the next exchange; and whether there is anything.
    pub(super) fn ask(&mut self, in_flight: u32, now: Time) -> (Outage, bool, bool) {
        self.drop_probe(in_flight, now);
        let first = std::mem::take(&mut self.wants_first);
        self.asked = self.probe != Probe::None;
        self.is_sent = self.has_news;
        let news = match self.outage {
            _ if !self.has_news => Outage::Unchanged,
            Some(until) => Outage::For(until.since(now)),
            None => Outage::Over,
        };
        (news, first, self.asked)
    }

    pub(super) fn has_news(&self) -> bool {
        self.has_news
    }

    pub(super) fn receive(&mut self, standing: Standing, now: Time) {
        self.first_calls += u32::from(standing.may_begin);
        self.replied = standing.has_replied;
        if self.has_news && !self.is_sent {
            // Redis does not know that yet.
            return;
        }
        self.has_news = false;
        match standing.outage {
            None => {
                (self.outage, self.probe) = (None, Probe::None);
                self.is_found_here = false;
            }
            Some(wait) => {
                self.is_shown = true;
                self.outage = Some(now.after(wait.min(LONGEST)));
                if wait.is_zero() && self.asked && self.probe == Probe::Wanted {
                    self.probe = Probe::Granted;
                }
            }
        }
    }

    /// Redis is unavailable: what others find is unknown, and what was found here may be lost.
    pub(super) fn lose(&mut self) {
        let has_news = self.has_news || self.is_found_here;
        *self = Self {
            outage: self.outage.filter(|_| has_news),
            has_news,
            is_found_here: self.is_found_here,
            ..Self::default()
        };
    }

    /// The call with this number starts.
    pub(super) fn begin(&mut self, number: u64) {
        self.first_calls = self.first_calls.saturating_sub(1);
        if self.probe == Probe::Granted {
            self.probe = Probe::Out(number);
        }
    }

    /// Leaves the probe to others if its call has disappeared, or if no call is ready to probe.
    fn drop_probe(&mut self, in_flight: u32, now: Time) {
        let is_of_use = match self.probe {
            Probe::Out(_) => in_flight > 0,
            _ => now.since(self.wanted) < WANTED_FOR,
        };
        if !is_of_use {
            self.probe = Probe::None;
        }
    }
}

impl Quota {
    /// When to check again, if the shared state forbids this machine to start a call.
    pub(super) fn await_others(&mut self, now: Time) -> Option<Time> {
        let is_unknown = !self.has_replied && self.requests.is_none() && self.tokens.is_none();
        let lease = self.lease.as_mut().filter(|lease| !lease.is_lost())?;
        let others = &mut lease.others;
        others.drop_probe(self.in_flight, now);
        if is_unknown && !others.replied && others.first_calls == 0 {
            others.wants_first = true;
            return Some(lease.look(now));
        }
        let until = others.outage?;
        if until > now {
            return Some(until.min(now.after(LOOK_FOR_END)));
        }
        match others.probe {
            Probe::Granted => {
                others.wanted = now;
                None
            }
            Probe::Out(_) => Some(now.after(LOOK_AGAIN)),
            Probe::None | Probe::Wanted => {
                (others.probe, others.wanted) = (Probe::Wanted, now);
                Some(lease.look(now))
            }
        }
    }

    /// Records that the provider is unavailable until `until`, or is available again. It is published, except with
    /// `is_ours`: then the network of this machine may be the cause.
    pub(in crate::engine) fn note_outage(&mut self, until: Option<Time>, is_ours: bool) {
        let Some(lease) = &mut self.lease else { return };
        let others = &mut lease.others;
        others.probe = Probe::None;
        if is_ours {
            return;
        }
        (others.outage, others.is_found_here) = (until, until.is_some());
        (others.has_news, others.is_sent) = (true, false);
        lease.hub.nudge();
    }

    /// The call with this number has ended. If it was the probe, and no breaker has recorded its end, the end is
    /// published here: this OS process may have no open breaker.
    pub(super) fn end_probe(&mut self, number: u64, ended: CallEnd, now: Time) {
        let Some(lease) = &mut self.lease else { return };
        if lease.others.probe != Probe::Out(number) {
            return;
        }
        match ended {
            CallEnd::Replied(_) | CallEnd::RateLimited(_) | CallEnd::NotReady(_) => {
                self.note_outage(None, false);
            }
            CallEnd::Troubled(_) => self.note_outage(Some(now.after(PROBE_AGAIN)), false),
            // The call shows nothing about the provider.
            CallEnd::Unreachable | CallEnd::Failed => lease.others.probe = Probe::None,
        }
    }

    /// State of the provider: `Some(Some(until))` while no machine calls it, `Some(None)` if it is available, `None`
    /// if Redis is unavailable or has shown no outage since.
    pub(in crate::engine) fn outage(&mut self, waits: bool, now: Time) -> Option<Option<Time>> {
        let lease = self.lease.as_mut().filter(|lease| !lease.is_lost())?;
        if waits {
            // This machine will read the end of the outage.
            lease.last_use = Some(now);
        }
        let others = &lease.others;
        (others.outage.is_some() || others.is_shown).then_some(others.outage)
    }

    /// Whether the provider is known to be unavailable.
    pub(in crate::engine) fn has_outage(&self) -> bool {
        (self.lease.as_ref()).is_some_and(|lease| lease.others.outage.is_some())
    }
}
