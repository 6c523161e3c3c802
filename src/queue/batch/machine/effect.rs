//! What follows from an event beyond the record itself, as data: whoever carries it out decides nothing.

use log::Level;

use crate::base::error::Error;

use super::next::Step;

/// What is to be done, in this order. What follows an end or a division that failed is left undone: the
/// batch is as it was, and its next step leads here again.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub list: Vec<Effect>,
    /// The time of its next step has changed.
    pub reschedules: bool,
    /// The event means nothing in this state; nothing has changed.
    pub refused: bool,
}

/// A thing to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    Log(Level, String),
    /// Write the record down.
    Save,
    /// Give back the jobs that are left in it; it is no more.
    Close,
    /// Make two batches of it, and go on with both.
    Divide(Division),
    /// Take this step at once.
    Take(Step),
    /// Give jobs of it their ends.
    SettleItems(ItemEnds),
    /// Delete this input file at the provider. When that fails it stays there.
    DeleteFile(String),
    /// Remove the input that lies here.
    DropInput,
    /// Leave its account alone for a while: the failure is one that all batches there share.
    PauseAccount(Error),
    /// The account answers.
    ResumeAccount,
    /// A failure that ends the worker, if it is to end for such.
    ReportCritical(Error),
    /// Batches like this one are smaller for a while.
    ReduceSize,
    /// The provider has taken a batch of this model: others may follow at once.
    AllowNext,
    /// A batch was refused for a line that was found.
    CountPoisonLine,
    /// A batch was accepted: what was refused before was refused for its lines.
    ForgetPoisonLines,
    /// The other half of what this one was divided from waits for this.
    TellOtherHalf(OtherHalf),
    /// Its results were asked for in vain.
    CountVainFetch,
    CountCreated,
    CountPossiblyPaidTwice(u64),
    /// Something has changed that others wait for.
    Wake,
}

/// How a batch becomes two.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Division {
    /// It is too large: both halves are sent.
    Halve,
    /// One of its lines is bad: the first half is sent, the second one waits for what is said of it.
    Bisect(super::state::Why),
}

/// Which jobs end, and how.
#[derive(Debug)]
pub(crate) enum ItemEnds {
    /// All.
    All(Error),
    /// Those of these lines of its input, counted from 1.
    Lines(Vec<(u64, Error)>),
}

/// What is known of the first half of a batch that is bisected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherHalf {
    Accepted,
    Refused,
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
