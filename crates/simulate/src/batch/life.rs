//! One batch from its creation to its end. Its state at a time is a function of that time and of the requests for it:
//! there is no background work here, and no clock is read.

use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::Trouble;
use crate::config::BatchConfig;
use crate::dialect::Dialect;
use crate::trouble::Form;

/// One request of a batch, and its outcome.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) body: Box<RawValue>,
    /// Its prompt's.
    pub(super) key: u64,
    pub(super) form: Form,
    pub(super) fate: Fate,
    /// What its answer costs, and what an answer without text does, in picodollars.
    pub(super) costs: [u64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    /// It was not processed, and is in no result file.
    Missing,
    /// It is invalid; its error is found by reading it again.
    Invalid,
    /// It was answered, or met this trouble.
    Done(Option<Trouble>),
}

impl Item {
    /// What its outcome costs, in picodollars.
    pub(super) fn cost(&self) -> u64 {
        match self.fate {
            Fate::Done(Some(Trouble::ContentFilter | Trouble::Empty)) => self.costs[1],
            Fate::Done(_) if !self.fate.is_error() => self.costs[0],
            _ => 0,
        }
    }
}

impl Fate {
    /// Whether the result is an error and not an answer, odd as that may be.
    pub(super) fn is_error(self) -> bool {
        match self {
            Fate::Waiting | Fate::Missing | Fate::Done(None) => false,
            Fate::Invalid => true,
            Fate::Done(Some(kind)) => !kind.is_paid(),
        }
    }
}

/// An error of the whole batch.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) line: Option<u64>,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// A batch as it was requested.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) dialect: Dialect,
    /// What its id begins with.
    pub(super) prefix: &'static str,
    /// The batch's, where the requests do not name one each; otherwise that of the first.
    pub(super) model: String,
    /// Data of the client: metadata, or a name.
    pub(super) label: Value,
    /// The id of the input file.
    pub(super) input: Option<String>,
    pub(super) items: Vec<Item>,
    /// Why validation fails; empty if it does not.
    pub(super) failures: Vec<Failure>,
    /// The tokens of all prompts.
    pub(super) tokens: u64,
}

/// The phase of a batch, independent of any API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Phase {
    Validating,
    Failed,
    Running,
    Finalizing,
    Expired,
    Cancelling,
    Cancelled,
    Ended,
}

impl Phase {
    pub(super) fn is_over(self) -> bool {
        !matches!(
            self,
            Phase::Validating | Phase::Running | Phase::Finalizing | Phase::Cancelling
        )
    }

    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) id: String,
    /// Since the simulator's start, like all times here.
    pub(super) created: Duration,
    pub(super) plan: Plan,
    /// How many of the items, from the first on, have been finished and paid.
    pub(super) booked: usize,
    /// The share of its items that is finished when it expires, if it does.
    pub(super) expires: Option<f64>,
    pub(super) cancelled: Option<Duration>,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) missing: u64,
    pub(super) deleted: bool,
    /// Result files that have been deleted.
    pub(super) deleted_files: Vec<String>,
}

impl Batch {
    pub(super) fn is_of(&self, dialect: Dialect) -> bool {
        self.plan.dialect == dialect
    }

    pub(super) fn total(&self) -> u64 {
        self.plan.items.len() as u64
    }

    /// How many items are neither finished nor lost.
    pub(super) fn waiting(&self) -> u64 {
        self.total() - self.done - self.failed - self.missing
    }

    /// The outcome of an item by now: an item that was not reached is waiting, even if its outcome is decided already.
    pub(super) fn fate(&self, place: usize) -> Fate {
        match self.plan.items[place].fate {
            Fate::Missing => Fate::Missing,
            _ if place >= self.booked => Fate::Waiting,
            fate => fate,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.plan.failures.is_empty()
    }

    pub(super) fn began(&self, config: &BatchConfig) -> Duration {
        self.created + config.validation
    }

    /// When it ends of itself.
    fn due(&self, config: &BatchConfig) -> Duration {
        self.created + config.duration_of()
    }

    pub(super) fn phase(&self, now: Duration, config: &BatchConfig) -> Phase {
        let began = self.began(config);
        if let Some(at) = self.cancelled {
            if now < at + config.duration_of() / 10 {
                Phase::Cancelling
            } else {
                Phase::Cancelled
            }
        } else if now < began {
            Phase::Validating
        } else if self.has_failed() {
            Phase::Failed
        } else if now >= self.due(config) {
            match self.expires {
                Some(_) => Phase::Expired,
                None => Phase::Ended,
            }
        } else if self.waiting() == 0 {
            Phase::Finalizing
        } else {
            Phase::Running
        }
    }

    /// When it ended, if it has.
    pub(super) fn ended(&self, now: Duration, config: &BatchConfig) -> Option<Duration> {
        match self.phase(now, config) {
            Phase::Failed => Some(self.began(config)),
            Phase::Cancelled => self.cancelled.map(|at| at + config.duration_of() / 10),
            Phase::Expired | Phase::Ended => Some(self.due(config)),
            _ => None,
        }
    }

    /// How many items have been finished by `now`, counted from the first.
    pub(super) fn finished(&self, now: Duration, config: &BatchConfig) -> usize {
        let now = self.cancelled.map_or(now, |at| at.min(now));
        let start = self.began(config);
        if self.has_failed() || now < start {
            return 0;
        }
        let all = self.total() as f64;
        let time = (config.duration_of() - config.validation).as_secs_f64() * 0.9;
        let progress = if time > 0.0 {
            ((now - start).as_secs_f64() / time).min(1.0)
        } else {
            1.0
        };
        let most = match self.expires {
            Some(_) if self.is_of(Dialect::Gemini) => 0.0,
            Some(share) => (all * share).round(),
            None => all,
        };
        (all * progress).floor().min(most) as usize
    }

    /// Whether it ends, or has ended, before all of its items are finished.
    pub(super) fn has_expired(&self) -> bool {
        self.expires.is_some() && self.cancelled.is_none()
    }

    /// Whether there are results of both kinds, answers and errors, after its end.
    pub(super) fn has_results(&self) -> [bool; 2] {
        let left_over = self.has_expired() && self.waiting() > 0;
        let any = self.done + self.failed > 0;
        [self.done > 0, self.failed > 0 || any && left_over]
    }
}
