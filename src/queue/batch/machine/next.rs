//! What is to be done with a batch next.

use crate::config::choices::OnUnknown;

use super::super::settings::LISTINGS;
use super::event::Facts;
use super::state::{Ended, Fence, Input, Owner, Reconciling, Results, Running, State, Submitting};

/// What is to be done with a batch next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Move jobs into it, if it has not got them, and write their lines.
    WriteInput,
    /// Send its input, which creates nothing.
    Upload,
    /// Create it.
    Create,
    /// Look for it in the provider's list.
    ReadList(Input),
    /// Delete this input file at the provider, so that it can no longer come into being.
    DeleteFile(String),
    /// Nobody has it: give its jobs back.
    GiveUp,
    /// Cancel this one, which was created beside it.
    CancelSpare(String),
    /// Cancel it at the provider.
    Cancel(String),
    /// Ask where it stands.
    AskStatus(String),
    /// Fetch its results and store them.
    Collect(String, Results),
    /// Nothing by itself: another batch's fate decides.
    Wait,
}

/// Decides.
pub(crate) fn next(state: &State, facts: &Facts) -> Step {
    match state {
        State::Forming | State::Formed(_) | State::Bisecting(_) if facts.is_stopped => Step::GiveUp,
        State::Forming | State::Formed(_) => Step::WriteInput,
        State::Submitting(submitting) => submit(submitting, facts),
        State::Reconciling(reconciling) | State::Held(reconciling) => reconcile(reconciling, facts),
        State::Running(running) => watch(running, facts),
        State::Ended(Ended { remote, results }) => {
            Step::Collect(remote.id.clone(), results.clone())
        }
        State::Bisecting(_) => Step::Wait,
    }
}

fn submit(submitting: &Submitting, facts: &Facts) -> Step {
    match submitting.creates(facts.uploads) {
        // It may exist: whoever was about to create it did not say what came of it.
        true if submitting.sent => Step::ReadList(submitting.input.clone()),
        _ if facts.is_stopped => Step::GiveUp,
        true => Step::Create,
        false => Step::Upload,
    }
}

/// A list that lags shows it later. What was not shown in all that time is sent again only after the file
/// is gone that a late creation would need, and the list was read once more.
fn reconcile(reconciling: &Reconciling, facts: &Facts) -> Step {
    let read = || Step::ReadList(reconciling.input.clone());
    if reconciling.listings < LISTINGS || facts.policy() == OnUnknown::Hold {
        return read();
    }
    let file = reconciling.input.file().filter(|_| facts.uploads);
    match (reconciling.fence, file) {
        (Fence::Open { .. }, Some(file)) => Step::DeleteFile(file.to_owned()),
        (Fence::Closed { confirmed: false }, Some(_)) => read(),
        (Fence::Closed { confirmed: true }, Some(_)) | (_, None) => Step::GiveUp,
    }
}

fn watch(running: &Running, facts: &Facts) -> Step {
    let remote = &running.remote;
    match (running.spare.first(), &remote.owner) {
        (Some(spare), _) => Step::CancelSpare(spare.clone()),
        // What may be somebody else's is not ours to cancel.
        (
            None,
            Owner::Ours {
                cancel_asked: false,
            },
        ) if facts.is_stopped => Step::Cancel(remote.id.clone()),
        (None, _) => Step::AskStatus(remote.id.clone()),
    }
}
