//! Circuit breakers of a shared quota: a machine publishes its open breakers and applies those of other machines.

use crate::base::{Error, ErrorKind, Time};

use super::super::class::StepId;
use super::super::quota::QuotaId;
use super::{Breaker, Breakers, State};

/// An open breaker, as published to other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Opened {
    /// `None` if a probe is allowed or in flight.
    pub until: Option<Time>,
    /// The provider sent no reply: the network of this machine may be the cause.
    pub is_ours: bool,
}

/// A change that another machine reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum OutageChange {
    Nothing,
    Opened,
    Closed,
}

impl Breakers {
    /// `None` if the breaker of the step is closed.
    pub(in crate::engine) fn opened(&self, step: StepId) -> Option<Opened> {
        let breaker = self.of(step)?;
        let is_ours = !breaker.is_shared();
        match breaker.state {
            State::Closed => None,
            State::Open { until, .. } => Some(Opened {
                until: Some(until),
                is_ours,
            }),
            State::HalfOpen { .. } => Some(Opened {
                until: None,
                is_ours,
            }),
        }
    }

    /// Whether a breaker is open that other machines may close.
    pub(in crate::engine) fn any_shared(&self) -> bool {
        self.0.iter().any(Breaker::is_shared)
    }

    /// Applies the outages that `outage` returns for each quota: `Some(Some(until))` while no machine calls it,
    /// `Some(None)` if it is available, `None` if the state on other machines is unknown. The second argument of
    /// `outage` says whether the breaker waits for the end.
    pub(in crate::engine) fn apply_outages(
        &mut self,
        outage: impl Fn(QuotaId, bool) -> Option<Option<Time>>,
        now: Time,
    ) -> OutageChange {
        let mut change = OutageChange::Nothing;
        for breaker in &mut self.0 {
            let waits = !matches!(breaker.state, State::Closed);
            match outage(breaker.quota, waits) {
                Some(Some(until)) if until > now => {
                    if !waits {
                        change = OutageChange::Opened;
                    }
                    breaker.wait_with_others(until, now);
                }
                Some(None) if breaker.is_shared() && !breaker.is_probed() => {
                    breaker.close(true);
                    change = OutageChange::Closed;
                }
                _ => {}
            }
        }
        change
    }
}

impl Breaker {
    /// Whether other machines know of the open breaker: a reply of the provider opened it, or another machine did.
    fn is_shared(&self) -> bool {
        match &self.state {
            State::Closed => false,
            State::Open { why, .. } | State::HalfOpen { why, .. } => {
                why.status().is_some() || self.opened_elsewhere
            }
        }
    }

    fn is_probed(&self) -> bool {
        matches!(self.state, State::HalfOpen { probing: true, .. })
    }

    fn wait_with_others(&mut self, until: Time, now: Time) {
        let reported = until.since(now);
        let (why, wait) = match &self.state {
            State::HalfOpen { probing: true, .. } => return,
            State::Open { until: own, .. } if *own >= until => return,
            State::Open { why, wait, .. } | State::HalfOpen { why, wait, .. } => {
                (why.clone(), reported.max(*wait))
            }
            State::Closed => {
                self.opened_elsewhere = true;
                let why = "another worker reports that the provider is unavailable";
                (Error::new(ErrorKind::Transient, why), reported)
            }
        };
        self.open_since.get_or_insert(now);
        self.times.note(until, now);
        self.state = State::Open { until, why, wait };
    }
}
