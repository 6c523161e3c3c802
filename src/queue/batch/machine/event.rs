//! Inputs of the machine: facts from elsewhere, and every reply from outside.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind, Timestamp};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{
    BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches, RequestName,
};

use super::super::settings::{BatchSettings, LISTINGS};
use super::state::{Fence, Refusals, Sending, State, Unknown};

/// What a decision needs to know apart from the batch itself.
#[derive(Debug, Clone)]
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
    /// This worker is ending.
    pub is_ending: bool,
    /// Another batch of its account is at the provider.
    pub others_there: bool,
    /// The server of its account has replied, with any status.
    pub is_reached: bool,
    /// Refusals of similar batches in a row, without an accepted batch in between.
    pub refusals: Refusals,
    /// How many more requests may be called one by one because their batch was refused.
    pub callable: u64,
}

impl Facts {
    /// The wait after this many consecutive failures. See [`BatchSettings::after_failures`].
    pub(crate) fn after_failures(&self, failures: u32, asked: Option<Duration>) -> Duration {
        self.settings.after_failures(failures, asked)
    }

    /// What to do with a batch that cannot be found. A cancelled batch that can no longer be created is abandoned.
    /// Others may still run and be billed.
    pub(crate) fn policy(&self) -> OnUnknown {
        match self.settings.on_unknown {
            _ if self.is_stopped && self.uploads => OnUnknown::Resubmit,
            Some(policy) => policy,
            None if self.uploads => OnUnknown::Resubmit,
            None => OnUnknown::Hold,
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
    Submitted(Result<BatchStage, BatchRefusal>),
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

    /// Whether requests may have to be called because of it.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Submitted(answer) => answer.is_err(),
            Self::Status(Ok(status)) => matches!(status.state, BatchState::Refused(_)),
            Self::Settled(settled) => matches!(settled, Ok(ItemsSettled::NoSuchRequest(_))),
            _ => false,
        }
    }

    /// Whether the server of its account has replied, with any status.
    pub(crate) fn is_reply(&self) -> bool {
        let error = match self {
            Self::Submitted(answer) => answer.as_ref().err().map(|refusal| &refusal.error),
            Self::Status(answer) => answer.as_ref().err(),
            Self::Listed(answer) => answer.as_ref().err(),
            _ => return false,
        };
        error.is_none_or(|error| error.kind() != ErrorKind::Cancelled && !is_cut_off(error))
    }
}

/// The provider is unreachable, so the other batches of its account would fail too.
pub(crate) fn is_cut_off(error: &Error) -> bool {
    error.is_unreachable() && error.status().is_none()
}

/// The written input of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub items: u64,
    pub bytes: u64,
}

/// Where the results of an ended batch are, and what they must contain.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    /// Files to download.
    pub files: Vec<String>,
    /// Number of requests that the files must contain.
    pub expected: Option<u64>,
    /// Why requests have no result.
    pub why: Error,
    /// The provider reports that it has answered everything it could.
    pub completed: bool,
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

// What follows from an event apart from the record, as data. The code that executes it decides nothing.

/// Effects in their order. Those after a failed close are skipped: the batch is unchanged, and its next step leads here
/// again.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub list: Vec<Effect>,
    /// The time of its next step has changed.
    pub reschedules: bool,
    /// The event is invalid in this state; nothing has changed.
    pub refused: bool,
}

/// A thing to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    Log(Level, String),
    /// Store the record, and notify threads that wait for a change.
    Save,
    /// Return its jobs to the queue: it is certain that nothing was billed for them.
    GiveBack,
    /// Return its remaining jobs to the queue, and delete its row.
    Close,
    /// Settle jobs of it.
    SettleItems(ItemEnds),
    /// Fetch and store its results.
    Collect(Results),
    /// Cancel this superfluous batch. If that fails, it goes on.
    CancelDuplicate(String),
    /// Delete this input file at the provider. If that fails, the file stays.
    DeleteFile(String),
    /// Delete the local input.
    DropInput,
    /// Pause its account, because all its batches would fail in the same way.
    PauseAccount(Error),
    /// End the pause of its account.
    ResumeAccount,
    /// Report a failure that ends the worker if its error policy says so.
    ReportCritical(Error),
    /// Report that its account has no room now. This ends a worker that only submits.
    ReportHeld(Error),
    /// The number of refusals of batches of its jobs in its record is the present one.
    CountRefusals,
    /// Try others of its account that were not sent for now: the first one was accepted.
    Release,
    CountCreated,
    CountPossiblyPaidTwice(u64),
}

/// Which jobs to settle, and how.
#[derive(Debug)]
pub(crate) enum ItemEnds {
    /// The only job fails.
    All(Error),
    /// The jobs of these requests.
    Named(Vec<(RequestName, Error)>),
    /// All jobs return to the queue, to be called one by one, because their batch was refused with this error.
    Called(Error),
}

/// The next step of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Move jobs into it if necessary, and write their lines.
    WriteInput,
    /// Upload its input, which creates nothing, or create it.
    Submit,
    /// Search for it in the provider's list.
    ReadList(BatchStage),
    /// Delete this input file at the provider, so that the batch can no longer be created.
    DeleteFile(String),
    /// It does not exist: return its jobs.
    GiveUp,
    /// Cancel it at the provider, and poll it.
    Cancel(String),
    /// Poll it.
    AskStatus(String),
}

/// Decides the next step.
pub(crate) fn next(state: &State, facts: &Facts) -> Step {
    match state {
        State::Forming if facts.is_stopped || facts.is_elsewhere => Step::GiveUp,
        State::Forming => Step::WriteInput,
        State::Sending(sending) => send(sending, facts),
        State::Unknown(unknown) => search(unknown, facts),
        // A batch that may belong to another program is not cancelled.
        State::Running(remote) if facts.is_stopped && !remote.presumed && !remote.cancel_asked => {
            Step::Cancel(remote.id.clone())
        }
        State::Running(remote) => Step::AskStatus(remote.id.clone()),
    }
}

fn send(sending: &Sending, facts: &Facts) -> Step {
    let is_local = sending.input == BatchStage::Ready;
    if sending.sent && sending.creates(facts.uploads) {
        // It may exist: the outcome of its creation is unknown.
        Step::ReadList(sending.input.clone())
    } else if facts.is_stopped || facts.is_elsewhere && is_local && !sending.sent {
        Step::GiveUp
    } else if is_local && !facts.has_input {
        Step::WriteInput
    } else {
        Step::Submit
    }
}

/// A delayed list shows it later. A batch that did not appear in all that time is sent again only after the file that
/// a delayed creation needs is deleted, and the list was read again.
fn search(unknown: &Unknown, facts: &Facts) -> Step {
    let read = || Step::ReadList(unknown.input.clone());
    if unknown.listings < LISTINGS || facts.policy() == OnUnknown::Hold {
        return read();
    }
    let file = unknown.input.input_file().filter(|_| facts.uploads);
    match (unknown.fence, file) {
        (Fence::Open { .. }, Some(file)) => Step::DeleteFile(file.to_owned()),
        (Fence::Closed { confirmed: false }, Some(_)) => read(),
        (Fence::Closed { confirmed: true }, Some(_)) | (_, None) => Step::GiveUp,
    }
}
