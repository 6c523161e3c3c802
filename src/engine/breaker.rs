//! Circuit breakers: a provider that cannot be reached is not waited for while another can be asked.
//!
//! Failures in a row to reach a step of a route *trip* its breaker. While it is *open*, items go on
//! to the next step. After a while it is *half open*: one call probes the step, and the others still
//! go on. An answer closes the breaker; a failure opens it for twice as long.

use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind, Sent};

use super::class::StepId;

/// This many connections in a row that did not come about trip a breaker,
const UNREACHED: u32 = 5;
/// and so many calls in a row that no reply came to in time: each may have held a slot for minutes.
const TIMED_OUT: u32 = 3;
/// How long a breaker is open, at first and at most.
const FIRST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// The breakers of the steps that failed to answer lately.
#[derive(Debug, Default)]
pub(super) struct Breakers(Vec<Breaker>);

#[derive(Debug)]
struct Breaker {
    step: StepId,
    unreached: u32,
    timed_out: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Time,
        why: Error,
        wait: Duration,
    },
    HalfOpen {
        probing: bool,
        why: Error,
        wait: Duration,
    },
}

/// How a call ended, as far as reaching its provider is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// A reply came, whatever it said.
    Yes,
    /// No connection came about, or no reply in time.
    No,
    /// It was ended by us, or broke off.
    Unknown,
}

impl Reached {
    pub(super) fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Yes,
            Err(error) if error.status().is_some() || error.sent() == Sent::Answered => Self::Yes,
            Err(error) if error.is_unusable_reply() || error.kind() == ErrorKind::Malformed => {
                Self::Yes
            }
            Err(error) if error.is_unreachable() || error.timed_out() => Self::No,
            Err(_) => Self::Unknown,
        }
    }
}

impl Breakers {
    /// Takes note of how a call ended; `elsewhere` says whether its item has another step to go to.
    /// True when the step's state changed between closed and open.
    pub(super) fn note<T>(
        &mut self,
        step: StepId,
        result: &Result<T, Error>,
        elsewhere: bool,
        now: Time,
    ) -> bool {
        let reached = Reached::of(result);
        let known = self.0.iter().position(|breaker| breaker.step == step);
        if reached == Reached::Yes {
            let closed = known.map(|at| self.0.swap_remove(at));
            return closed.is_some_and(|breaker| !matches!(breaker.state, State::Closed));
        }
        let at = known.unwrap_or_else(|| {
            self.0.push(Breaker {
                step,
                unreached: 0,
                timed_out: 0,
                state: State::Closed,
            });
            self.0.len() - 1
        });
        let breaker = &mut self.0[at];
        if let (Err(error), Reached::No) = (result, reached) {
            breaker.unreached += 1;
            breaker.timed_out += u32::from(error.timed_out());
        }
        let Err(error) = result else { return false };
        match &breaker.state {
            State::Closed if elsewhere && breaker.is_over() => {
                breaker.open(error, FIRST_OPEN, now);
                true
            }
            State::HalfOpen {
                probing: true,
                wait,
                ..
            } => {
                let wait = (*wait * 2).min(LONGEST_OPEN);
                breaker.open(error, wait, now);
                false
            }
            _ => false,
        }
    }

    /// Breakers that were open for long enough let one call through.
    pub(super) fn half_open(&mut self, now: Time) {
        for breaker in &mut self.0 {
            if let State::Open { until, why, wait } = &breaker.state
                && *until <= now
            {
                breaker.state = State::HalfOpen {
                    probing: false,
                    why: why.clone(),
                    wait: *wait,
                };
            }
        }
    }

    /// A call to the step starts: if its breaker is half open, this one probes.
    pub(super) fn begin_call(&mut self, step: StepId) {
        for breaker in self.0.iter_mut().filter(|breaker| breaker.step == step) {
            if let State::HalfOpen { probing, .. } = &mut breaker.state {
                *probing = true;
            }
        }
    }

    /// Why the step is not called now, if another can be.
    pub(super) fn open_reason(&self, step: StepId) -> Option<&Error> {
        let breaker = self.0.iter().find(|breaker| breaker.step == step)?;
        match &breaker.state {
            State::Open { why, .. }
            | State::HalfOpen {
                probing: true, why, ..
            } => Some(why),
            _ => None,
        }
    }
}

impl Breaker {
    fn is_over(&self) -> bool {
        self.unreached >= UNREACHED || self.timed_out >= TIMED_OUT
    }

    fn open(&mut self, why: &Error, wait: Duration, now: Time) {
        self.state = State::Open {
            until: now.after(wait),
            why: why.clone(),
            wait,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::class::Class;

    fn unreached() -> Result<(), Error> {
        Err(Error::new(ErrorKind::Transient, "nobody there").with_unreachable())
    }

    fn hung() -> Result<(), Error> {
        let error = Error::new(ErrorKind::Transient, "no reply").with_timed_out();
        Err(error.with_sent(Sent::Maybe))
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    fn step() -> StepId {
        Class::new([]).at(0)
    }

    #[test]
    fn five_in_a_row_that_could_not_connect_trip_it_or_three_that_hung() {
        for (failure, most) in [(unreached(), 5), (hung(), 3)] {
            let mut breakers = Breakers::default();
            for _ in 0..2 {
                (1..most).for_each(|_| assert!(!breakers.note(step(), &failure, true, at(0))));
                // Any reply shows that it can be reached.
                let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
                assert!(!breakers.note::<()>(step(), &Err(busy), true, at(0)));
            }
            let tripped = (0..most).map(|_| breakers.note(step(), &failure, true, at(0)));
            assert_eq!(tripped.filter(|tripped| *tripped).count(), 1);
            assert!(breakers.open_reason(step()).is_some());
        }
        let mut breakers = Breakers::default();
        (0..9).for_each(|_| assert!(!breakers.note(step(), &unreached(), false, at(0))));
        assert!(breakers.open_reason(step()).is_none(), "nobody else to ask");
    }

    #[test]
    fn one_call_probes_later_and_later_until_an_answer_closes_it() {
        let mut breakers = Breakers::default();
        (0..5).for_each(|_| {
            breakers.note(step(), &unreached(), true, at(0));
        });
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..6 {
            let since = now;
            while breakers.open_reason(step()).is_some() {
                now += 1;
                breakers.half_open(at(now));
            }
            waits.push(now - since);
            breakers.begin_call(step());
            assert!(breakers.open_reason(step()).is_some(), "one is enough");
            assert!(!breakers.note(step(), &unreached(), true, at(now)));
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        breakers.half_open(at(now + 60));
        breakers.begin_call(step());
        assert!(breakers.note(step(), &Ok(()), true, at(now + 60)));
        assert!(breakers.open_reason(step()).is_none());
    }
}
