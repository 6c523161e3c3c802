//! Inputs of the machine: facts from elsewhere, and every reply from outside.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::base::{Error, Timestamp};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{BatchStage, BatchStatus, ListedBatches};

use super::super::settings::BatchSettings;

/// What a decision needs to know apart from the batch itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub now: Timestamp,
    /// Its process was cancelled or deleted: unanswered jobs are not sent again.
    pub is_stopped: bool,
    /// Time of the last cancellation.
    pub stopped_at: Option<Timestamp>,
    /// New batches use another account.
    pub is_elsewhere: bool,
    /// The file with its lines is on the disk.
    pub has_input: bool,
    /// The provider's batches take their input as a file.
    pub uploads: bool,
    pub settings: BatchSettings,
    /// Part by which waits are lengthened, from 0 to 1.
    pub jitter: f64,
    /// This worker is ending.
    pub is_ending: bool,
    /// Another batch of its account is at the provider.
    pub others_there: bool,
    /// Refusals of similar batches in a row, without an accepted batch in between.
    pub refusals: Refusals,
}

/// Alike refusals in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// A hash of their words, without those that have digits, such as names of lines.
    words: u64,
    count: u32,
}

impl Refusals {
    /// Their number, if this one is alike.
    pub(super) fn alike(self, why: &Error) -> u32 {
        if self.words == words(why) {
            self.count
        } else {
            0
        }
    }

    /// With this one.
    pub(super) fn and(self, why: &Error) -> Self {
        Self {
            words: words(why),
            count: self.alike(why).saturating_add(1),
        }
    }
}

fn words(why: &Error) -> u64 {
    let mut hasher = DefaultHasher::new();
    let words = why.message().split_whitespace();
    let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.for_each(|word| word.hash(&mut hasher));
    hasher.finish()
}

impl Facts {
    /// The wait after this many consecutive failures. See [`BatchSettings::after_failures`].
    pub(crate) fn after_failures(&self, failures: u32, asked: Option<Duration>) -> Duration {
        self.settings.after_failures(failures, asked, self.jitter)
    }

    /// What to do with a batch that cannot be found. A cancelled batch that can no longer be created is abandoned.
    /// Others may still run and be billed.
    pub(crate) fn policy(&self) -> OnUnknown {
        if self.is_stopped && self.uploads {
            OnUnknown::Resubmit
        } else {
            self.settings.policy(self.uploads)
        }
    }
}

/// An event of a batch.
#[derive(Debug, Clone, strum::IntoStaticStr)]
pub(crate) enum Event {
    /// This worker has taken it over.
    TakenOver,
    /// Its process was cancelled, or the settings have changed: waiting batches are checked again.
    Recheck,
    /// Nothing can be done for this time, for this reason.
    Delayed(Duration, Option<&'static str>),
    /// Its lines were written, or that failed.
    Written(Result<Written, Error>),
    /// The next step of its submission is about to be sent, which must be recorded first.
    Sending,
    /// That step was not sent; it may be sent after this time.
    NotSent(Option<Duration>),
    /// Outcome of that step.
    Submitted(Result<BatchStage, Error>),
    /// Outcome of reading the provider's list.
    Listed(Result<ListedBatches, Error>),
    /// Outcome of deleting its input file at the provider.
    FileDeleted(Result<(), Error>),
    /// It was not created, or is not wanted any more.
    GivenUp,
    /// Outcome of cancelling it.
    Cancelled(Result<(), Error>),
    /// Its state at the provider.
    Status(Result<BatchStatus, Error>),
    /// Outcome of fetching its results.
    Collected(Result<Collected, Error>),
    /// Jobs of it were settled, or left it undivided.
    Settled(Result<ItemsSettled, Error>),
}

impl Event {
    /// The name for log lines and for the diagram.
    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }
}

/// The written input of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub items: u64,
    pub bytes: u64,
}

/// The contents of the results of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected {
    /// Requests of this batch with at least one line.
    pub requests: u64,
    /// Those that the provider processed.
    pub answered: u64,
    /// Additional lines of the same requests.
    pub duplicates: u64,
    /// Lines of requests that are not in this batch.
    pub foreign_lines: u64,
    /// Lines that cannot be read.
    pub broken: u64,
    /// Requests without a line.
    pub missing: u64,
    /// Why billed results are missing, as a message: they must be fetched again.
    pub withheld: Option<String>,
    /// The wait that the provider requests before that.
    pub asked: Option<Duration>,
    /// The results belong to another program.
    pub foreign: bool,
}

/// Outcome of settling jobs of a batch.
#[derive(Debug, Clone)]
pub(crate) enum ItemsSettled {
    /// The number of settled jobs.
    Jobs(u64),
    /// The requests that the provider named are not in the batch.
    NoSuchRequest(Error),
}
