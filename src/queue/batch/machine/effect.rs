//! What follows from an event apart from the record, as data. The code that executes it decides nothing.

use log::Level;

use crate::base::Error;
use crate::llm::batch::RequestName;

use super::event::Refusals;
use super::next::Step;

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
    /// Store the record.
    Save,
    /// Return its jobs to the queue: it is certain that nothing was billed for them.
    GiveBack,
    /// Return its remaining jobs to the queue, and delete its row.
    Close,
    /// Let the next two batches of its jobs have half of its size.
    Divide,
    /// Take this step at once.
    Take(Step),
    /// Settle jobs of it.
    SettleItems(ItemEnds),
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
    /// Form no batch of its account for a while, for this reason.
    HoldAccount(Error),
    /// The present number of alike refusals.
    CountRefusals(Refusals),
    /// A batch was accepted, so earlier refusals were because of their requests.
    ForgetRefusals,
    /// Count a request for results that did not return all of them.
    CountVainFetch,
    CountCreated,
    CountPossiblyPaidTwice(u64),
    /// Notify waiting threads of a change.
    Wake,
}

/// Which jobs to settle, and how.
#[derive(Debug)]
pub(crate) enum ItemEnds {
    /// All jobs.
    All(Error),
    /// The jobs of these requests.
    Named(Vec<(RequestName, Error)>),
    /// All jobs return to the queue, to be called one by one, because their batch was refused with this error.
    Called(Error),
}

impl Effects {
    pub(super) fn add(&mut self, effect: Effect) -> &mut Self {
        self.list.push(effect);
        self
    }

    pub(super) fn log(&mut self, level: Level, text: String) -> &mut Self {
        self.add(Effect::Log(level, text))
    }
}
