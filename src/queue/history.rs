//! The history of a job that waits for a retry, as stored in its row.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::brief::beginning;
use crate::base::{Error, Optional, Paid, Time, Timestamp, form};
use crate::engine::route::{FallbackHistory, Tries};
use crate::llm::carried::Carried;
use crate::llm::outcome::EarlierProvider;
use crate::llm::structured_output::Correction;

use super::job::AttemptError;

/// Number of stored errors of earlier attempts.
const MOST_ERRORS: usize = 5;
/// Longer messages are cut to this many bytes.
const MAX_MESSAGE_BYTES: usize = 300;

/// Written by the worker that returns a job, read by the worker that claims it next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(default)]
    pub tries: Tries,
    /// Start of the first call, as a time of day.
    #[serde(default)]
    first: Option<Timestamp>,
    /// The steps it has left, with their providers, because routes can change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<(u8, EarlierProvider)>,
    /// The known cost of the calls so far.
    #[serde(default)]
    pub paid: Paid,
    /// An answer that the next call corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correction: Option<Correction>,
    #[serde(default)]
    pub errors: Vec<AttemptError>,
}

impl History {
    pub(crate) fn parse(text: &str) -> Self {
        form::read("a job's history", text).unwrap_or_else(|error| {
            log::warn!("{error}; it starts anew");
            Self::default()
        })
    }

    pub(crate) fn text(&self) -> String {
        form::write(self)
    }

    /// What its failed calls left for the next one.
    pub(crate) fn carried(&self) -> Carried {
        Carried::new(self.paid, self.correction.clone())
    }

    pub(crate) fn calls(&self) -> u32 {
        self.tries.calls.into()
    }

    /// The time since the start of its first call, which another worker may have made.
    pub(crate) fn latency(&self, tries: &Tries, now: Time, wall: Timestamp) -> Duration {
        match self.first {
            Some(began) => wall.since(began),
            None => tries.latency(now),
        }
    }

    /// The time since the start of its first call, or since it was in its batch.
    pub(crate) fn latency_in_batch(&self, since: Timestamp, wall: Timestamp) -> Duration {
        wall.since(self.first.unwrap_or(since))
    }

    /// The tries of a job at `step`.
    pub(crate) fn tries(&self, step: u8) -> Tries {
        let none = FallbackHistory::default();
        let left = self.left.iter();
        Tries {
            step,
            fallbacks: left.fold(none, |left, (step, next)| left.and(*step, &next.error)),
            ..self.tries.clone()
        }
    }

    /// Records a failed call and what follows. `asked` returns the provider of a step.
    pub(crate) fn failed(
        &mut self,
        error: &Error,
        tries: &Tries,
        asked: impl Fn(u8) -> (String, Option<String>),
        (now, wall): (Time, Timestamp),
    ) {
        let known = self.left.len();
        let left = tries.fallbacks.steps().iter().skip(known).cloned();
        self.left.extend(left.map(|(step, error)| {
            let (provider, model) = asked(step);
            let left = EarlierProvider {
                provider,
                model,
                error,
            };
            (step, left)
        }));
        // The failed call was made at the last step that was left by a call; other steps were skipped.
        let of_call = |(_, left): &&(u8, EarlierProvider)| {
            left.error.kind() == error.kind() && error.message().starts_with(left.error.message())
        };
        let step = self.left[known..].iter().find(of_call);
        let step = step.map_or(tries.step, |(step, _)| *step);
        let first = Some(tries.first).filter(|first| *first != Time::ZERO);
        // The row of the job or the route contains the rest again when it is claimed.
        self.tries = Tries {
            step: 0,
            fallbacks: Default::default(),
            first: Time::ZERO,
            max_retries: None,
            ..tries.clone()
        };
        // The first record is kept, so that the time does not change with each worker's clock.
        self.first = self
            .first
            .or_else(|| first.map(|first| Timestamp(wall.0 - now.since(first).as_millis() as i64)));
        let paid = error.paid();
        if paid.is_known() {
            self.paid = paid;
        }
        if let Some(correction) = Correction::of(error) {
            self.correction = Some(correction);
        }
        if self.errors.len() >= MOST_ERRORS {
            self.errors.remove(0);
        }
        let short = Error::new(error.kind(), beginning(error.message(), MAX_MESSAGE_BYTES));
        self.errors.push(AttemptError {
            step,
            at: wall,
            error: short.set(error.status(), Error::with_status),
        });
    }

    /// The steps it has left, with the provider names of that time. `now` has all of them by the present route,
    /// including those left since the claim.
    pub(crate) fn earlier(&self, now: Vec<EarlierProvider>) -> Vec<EarlierProvider> {
        let then = self.left.iter().map(|(_, left)| left.clone());
        then.chain(now.into_iter().skip(self.left.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    fn names(step: u8) -> (String, Option<String>) {
        (format!("p{step}"), None)
    }

    fn at(millis: u64, wall: i64) -> (Time, Timestamp) {
        let now = Time::ZERO.after(Duration::from_millis(millis));
        (now, Timestamp(wall))
    }

    #[test]
    fn each_error_is_told_of_the_step_whose_call_failed() {
        let refused = Error::new(ErrorKind::Invalid, "not here").with_status(400);
        let slow = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
        let mut history = History::default();
        let moved_on = Tries {
            step: 1,
            fallbacks: FallbackHistory::default().and(0, &refused),
            ..Tries::default()
        };
        // The second uses up no attempt.
        for error in [&refused, &slow] {
            history.failed(error, &moved_on, names, at(0, 1000));
        }
        let steps: Vec<u8> = history.errors.iter().map(|error| error.step).collect();
        assert_eq!(steps, [0, 1]);
        assert_eq!(history.earlier(Vec::new())[0].provider, "p0");
        let tries = history.tries(1);
        let left: Vec<_> = (tries.fallbacks.steps())
            .iter()
            .map(|(step, error)| (*step, error.status()))
            .collect();
        assert_eq!(left, [(0, Some(400))]);
    }

    /// An answer in a wrong format is corrected by any worker, and the latency counts from the first call of any.
    #[test]
    fn the_next_worker_corrects_an_answer_and_counts_from_the_first_call() {
        let misfit = "the answer does not fit the schema: \"a\" is a required property";
        let misfit = Error::new(ErrorKind::Invalid, misfit).with_raw("secret");
        let busy = Error::new(ErrorKind::Transient, "busy");
        let mut history = History::default();
        let tries = Tries {
            first: at(3, 0).0,
            ..Tries::default()
        };
        let (millis, now) = (Duration::from_millis, at(203, 10_200));
        assert_eq!(history.latency(&tries, now.0, now.1), millis(200));
        for error in [misfit.misshapen(), busy] {
            history.failed(&error, &tries, names, now);
        }
        let read = History::parse(&history.text());
        assert!(read.correction.is_some());
        assert!(!format!("{read:?}").contains("secret"), "{read:?}");
        let later = read.latency(&Tries::default(), Time::ZERO, Timestamp(16_340));
        assert_eq!(later, millis(6_340));
    }
}
