//! A rate that nobody tells, learned from refusals.
//!
//! A number of calls in flight is a poor measure of calls a minute: whoever stays just below has too few,
//! whoever is just above is refused all the time. When a call is refused for a rate, nothing is left of what
//! there is for a while. So the calls accepted between two refusals, by the time between them, are the rate,
//! whatever room for bursts the provider has. Calls are let out just below it: at a [`Pace`].

use std::time::Duration;

use crate::base::clock::Time;

use super::pace::{Accepted, Begun, Pace};

/// Accepted calls that make a rate of two refusals; of a wave of refusals, which pass for one; and of a
/// wave of so many that anything is better than to go on.
const ENOUGH: u64 = 4;
const ENOUGH_IN_WAVE: u64 = 6;
const ENOUGH_IN_FLOOD: u64 = 2;
const FLOOD: u64 = 8;

#[derive(Debug, Default)]
pub(super) struct RateGuess {
    /// Calls that have begun.
    begun: u64,
    /// The refused call from which on calls are counted, and refusals since then.
    mark: Option<Begun>,
    refusals: u64,
    pace: Option<Pace>,
    strays: Option<Strays>,
}

/// Refusals that no pace avoids, as it has turned out, and answers since then.
#[derive(Debug, Default)]
struct Strays {
    refusals: u64,
    answers: u64,
}

/// More than one refusal among so many calls, and so many of them, are no strays.
const CALLS_OF_A_STRAY: u64 = 12;
const FEW_STRAYS: u64 = 5;
/// Answers after which it may be otherwise.
const LOOK_AGAIN: u64 = 2_000;

impl RateGuess {
    /// A call was answered.
    pub(super) fn answered(&mut self, now: Time) {
        let begun = self.so_far(now);
        if let Some(pace) = &mut self.pace
            && pace.answered(begun)
        {
            self.pace = None;
        }
        if let Some(strays) = &mut self.strays {
            strays.answers += 1;
            if strays.answers >= LOOK_AGAIN {
                self.strays = None;
            }
        }
    }

    /// Whether a refusal of a number of calls that had been fine has nothing to do with a rate either.
    pub(super) fn is_stray(&mut self) -> bool {
        let Some(strays) = &mut self.strays else {
            return false;
        };
        strays.refusals += 1;
        let many = strays.refusals * CALLS_OF_A_STRAY > strays.answers;
        if strays.refusals >= FEW_STRAYS && many {
            self.strays = None;
        }
        self.strays.is_some()
    }

    /// A call was refused for a rate, as it seems.
    pub(super) fn refused(&mut self, call: Begun, now: Time) {
        let accepted = self.accepted(call, ENOUGH);
        let begun = self.so_far(now);
        match &mut self.pace {
            Some(pace) => {
                pace.refused(accepted, begun);
                if pace.is_in_vain() {
                    (self.pace, self.strays) = (None, Some(Strays::default()));
                }
            }
            None => self.pace = accepted.map(|accepted| Pace::new(accepted, begun)),
        }
        self.mark(call);
    }

    /// A call was refused, for whatever reason. While few have been accepted since the last one, they go on
    /// being counted.
    pub(super) fn mark(&mut self, call: Begun) {
        match self.mark.is_none() || self.accepted(call, ENOUGH).is_some() {
            true => (self.mark, self.refusals) = (Some(call), 0),
            false => self.refusals += 1,
        }
    }

    /// A call was refused that had begun before the last refusal was heeded.
    pub(super) fn refused_too(&mut self, call: Begun, now: Time) {
        let enough = match self.refusals >= FLOOD {
            true => ENOUGH_IN_FLOOD,
            false => ENOUGH_IN_WAVE,
        };
        if let (None, Some(accepted)) = (&self.pace, self.accepted(call, enough)) {
            self.pace = Some(Pace::new(accepted, self.so_far(now)));
        }
        self.refusals += 1;
    }

    /// Calls that were accepted between the marked refusal and this. Nothing was left at either, so it is what
    /// came in between; less where room was left unused.
    fn accepted(&self, call: Begun, enough: u64) -> Option<Accepted> {
        let mark = self.mark?;
        let span = call.at.since(mark.at).as_secs_f64();
        let begun = call.number.saturating_sub(mark.number + 1);
        let calls = begun.saturating_sub(self.refusals);
        (calls >= enough && span > 0.0).then(|| Accepted {
            calls,
            rate: calls as f64 / span,
        })
    }

    fn so_far(&self, now: Time) -> Begun {
        Begun {
            at: now,
            number: self.begun,
        }
    }

    /// Whether a pace is what limits calls.
    pub(super) fn is_used(&self, now: Time) -> bool {
        let begun = self.so_far(now);
        self.pace.as_ref().is_some_and(|pace| pace.is_used(begun))
    }

    /// What was before says nothing of what comes.
    pub(super) fn restart(&mut self) {
        self.mark = None;
    }

    /// A call begins where none was out. If no pace kept others back there were none, and what is accepted while
    /// little is asked is no rate.
    pub(super) fn resume(&mut self) {
        if self.pace.is_none() {
            self.mark = None;
        }
    }

    /// Until a call may start.
    pub(super) fn wait(&mut self, now: Time) -> Duration {
        self.pace
            .as_mut()
            .map_or(Duration::ZERO, |pace| pace.wait(now))
    }

    /// A call begins.
    pub(super) fn take(&mut self, now: Time) -> Begun {
        self.begun += 1;
        if let Some(pace) = &mut self.pace {
            pace.take();
        }
        self.so_far(now)
    }

    /// The provider tells it.
    pub(super) fn forget(&mut self) {
        self.pace = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    /// Calls that start within a second, one for each that is let out.
    fn starts(guess: &mut RateGuess, from: u64) -> u32 {
        let mut started = 0;
        for ms in from..from + 1000 {
            if guess.wait(at(ms)).is_zero() {
                guess.take(at(ms));
                guess.answered(at(ms));
                started += 1;
            }
        }
        started
    }

    /// Two calls were refused within a second, and as many between them were not.
    fn accepted(calls: u64) -> RateGuess {
        let mut guess = RateGuess::default();
        let first = guess.take(at(0));
        guess.mark(first);
        (1..=calls).for_each(|call| _ = guess.take(at(1000 * call / (calls + 1))));
        let second = guess.take(at(1000));
        guess.refused(second, at(1000));
        guess
    }

    #[test]
    fn what_was_accepted_between_two_refusals_is_the_pace_and_less_after_another() {
        let mut guess = accepted(100);
        let first = starts(&mut guess, 1000);
        assert!((90..=99).contains(&first), "{first}");
        let refused = guess.take(at(2000));
        guess.refused(refused, at(2000));
        let less = starts(&mut guess, 2000);
        assert!((85..first).contains(&less), "{less} after {first}");
    }

    #[test]
    fn it_rests_then_grows_faster_and_faster_until_it_limits_nothing() {
        let mut guess = accepted(50);
        let mut each = (1..60).map(|second| starts(&mut guess, second * 1000));
        assert!(each.by_ref().take(5).all(|starts| starts <= 49));
        assert!(each.take_while(|starts| *starts < 100).count() < 20);
        // Nobody wants more: then it is in nobody's way.
        for ms in (60_000..120_000).step_by(20) {
            guess.take(at(ms));
            guess.answered(at(ms));
        }
        assert!(guess.pace.is_none());
    }

    #[test]
    fn growth_in_vain_goes_back_to_what_worked_and_rests_longer() {
        let mut guess = accepted(100);
        let mut rests = Vec::new();
        let mut now = 1000;
        for _ in 0..3 {
            let begun = now;
            // Refused as soon as it grows.
            let grown = |guess: &mut RateGuess, from: u64| starts(guess, from) > 98;
            while !grown(&mut guess, now) {
                now += 1000;
            }
            now += 1000;
            rests.push((now - begun) / 1000);
            let refused = guess.take(at(now));
            guess.refused(refused, at(now));
            let back = starts(&mut guess, now);
            now += 1000;
            assert!((90..=98).contains(&back), "{back}");
        }
        assert!(rests[1] > rests[0] && rests[2] >= rests[1], "{rests:?}");
    }

    #[test]
    fn few_calls_are_no_reason_for_a_pace_but_go_on_being_counted() {
        let mut guess = accepted(2);
        assert!(guess.wait(at(1001)).is_zero());
        (0..10).for_each(|_| _ = guess.take(at(1100)));
        let refused = guess.take(at(1200));
        guess.refused(refused, at(1200));
        assert!(!guess.wait(at(1201)).is_zero());
    }
}
