//! What the machine is told: what is known from elsewhere, and every answer of the outside.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::config::choices::OnUnknown;
use crate::llm::batch::{BatchStage, BatchStatus, ListedBatches};

use super::super::settings::BatchSettings;

/// What is known at the moment of a decision from elsewhere than the batch itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub now: Timestamp,
    /// Its process was cancelled, or is gone: what comes back is not sent again.
    pub is_stopped: bool,
    /// When that was last.
    pub stopped_at: Option<Timestamp>,
    /// The input of its provider's batches travels as a file.
    pub uploads: bool,
    pub settings: BatchSettings,
    /// By how much waits are lengthened, from 0 to 1.
    pub jitter: f64,
    /// This worker ends.
    pub is_ending: bool,
    /// Another batch of its account is at the provider.
    pub others_there: bool,
    /// Bad lines that were found one after the other among batches like this one, none of which was
    /// accepted since.
    pub poison_lines: u32,
}

impl Facts {
    /// What is done about a batch that cannot be found. One that was cancelled, and can no longer come
    /// into being, is given up; else it may still run, and be paid for.
    pub(crate) fn policy(&self) -> OnUnknown {
        if self.is_stopped && self.uploads {
            OnUnknown::Resubmit
        } else {
            self.settings.policy(self.uploads)
        }
    }
}

/// What has happened to a batch.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// This worker has it from now on.
    TakenOver,
    /// Its process was cancelled, or the settings have changed: what waits is looked at again.
    Hurried,
    /// Nothing can be done before this time has passed.
    Postponed(Duration),
    /// The client panicked during a step.
    Panicked,
    /// The key that it was made with is not here.
    NoKey,
    /// New batches go to another account.
    AccountChanged,
    /// Its lines were written.
    InputWritten(Result<Written, Error>),
    /// The file of its lines is gone from the disk.
    InputRemoved,
    /// The next step of its submission is about to be sent, which has to be written down.
    Sending,
    /// It was not sent after all; it may be after this time.
    NotSent(Option<Duration>),
    /// What came of sending it.
    Submitted(Result<BatchStage, Error>),
    /// What the provider's list shows.
    Listed(Result<ListedBatches, Error>),
    /// What came of deleting its input file at the provider.
    FileDeleted(Result<(), Error>),
    /// It is not there, or not wanted any more.
    GivenUp,
    /// What came of cancelling one that was created beside it.
    SpareCancelled(Result<(), Error>),
    /// What came of cancelling it.
    CancelAnswered(Result<(), Error>),
    /// Where the provider says it stands.
    StatusAnswered(Result<BatchStatus, Error>),
    /// What came of fetching its results.
    Collected(Result<Collected, Error>),
    /// Jobs of it were given their ends.
    ItemsSettled(Result<ItemsSettled, Error>),
    /// It could not be divided: for an error, or because it no longer has enough jobs.
    NotDivided(Option<Error>),
    /// The batch with the other half was accepted: the bad line is in this one.
    HalfAccepted,
    /// The batch with the other half was refused, or is gone: nothing is known of this one.
    HalfGone,
}

impl Event {
    /// For log lines, and for the diagram.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::TakenOver => "TakenOver",
            Self::Hurried => "Hurried",
            Self::Postponed(_) => "Postponed",
            Self::Panicked => "Panicked",
            Self::NoKey => "NoKey",
            Self::AccountChanged => "AccountChanged",
            Self::InputWritten(_) => "InputWritten",
            Self::InputRemoved => "InputRemoved",
            Self::Sending => "Sending",
            Self::NotSent(_) => "NotSent",
            Self::Submitted(_) => "Submitted",
            Self::Listed(_) => "Listed",
            Self::FileDeleted(_) => "FileDeleted",
            Self::GivenUp => "GivenUp",
            Self::SpareCancelled(_) => "SpareCancelled",
            Self::CancelAnswered(_) => "CancelAnswered",
            Self::StatusAnswered(_) => "StatusAnswered",
            Self::Collected(_) => "Collected",
            Self::ItemsSettled(_) => "ItemsSettled",
            Self::NotDivided(_) => "NotDivided",
            Self::HalfAccepted => "HalfAccepted",
            Self::HalfGone => "HalfGone",
        }
    }
}

/// The input of a batch, as it was written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub items: u64,
    pub bytes: u64,
    /// Where its requests go, if not where all go as a rule.
    pub endpoint: Option<&'static str>,
}

/// What was found in the results of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected {
    /// Lines that belong to a request of this batch, each counted once.
    pub requests: u64,
    /// Of these, those that were worked on.
    pub answered: u64,
    /// Further lines of requests that had one.
    pub duplicates: u64,
    /// Lines of requests that are not of this batch.
    pub strangers: u64,
    /// Lines that cannot be read.
    pub broken: u64,
    /// Requests without a line.
    pub missing: u64,
    /// Why results that were paid for are not among them, for people: they are to be fetched again.
    pub withheld: Option<String>,
    /// When the provider wants to be asked again then, if it says so.
    pub asked: Option<Duration>,
    /// These are somebody else's results.
    pub foreign: bool,
}

/// What came of giving jobs of a batch their ends.
#[derive(Debug, Clone)]
pub(crate) enum ItemsSettled {
    /// So many were.
    Jobs(u64),
    /// The lines that it was refused for are none of its.
    NoSuchLine(Error),
}
