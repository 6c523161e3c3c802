//! The next step of a batch.

use crate::config::choices::OnUnknown;

use super::super::settings::LISTINGS;
use super::event::Facts;
use super::state::{Ended, Fence, Input, Owner, Reconciling, Results, Running, State, Submitting};

/// The next step of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Move jobs into it if necessary, and write their lines.
    WriteInput,
    /// Upload its input, which creates nothing.
    Upload,
    /// Create it.
    Create,
    /// Search for it in the provider's list.
    ReadList(Input),
    /// Delete this input file at the provider, so that the batch can no longer be created.
    DeleteFile(String),
    /// It does not exist: return its jobs.
    GiveUp,
    /// Cancel this duplicate.
    CancelDuplicate(String),
    /// Cancel it at the provider.
    Cancel(String),
    /// Poll it.
    AskStatus(String),
    /// Fetch and store its results.
    Collect(String, Results),
}

/// Decides the next step.
pub(crate) fn next(state: &State, facts: &Facts) -> Step {
    match state {
        State::Forming | State::Formed(_) if facts.is_stopped => Step::GiveUp,
        State::Forming | State::Formed(_) => Step::WriteInput,
        State::Submitting(submitting) => submit(submitting, facts),
        State::Reconciling(reconciling) | State::Held(reconciling) => reconcile(reconciling, facts),
        State::Running(running) => watch(running, facts),
        State::Ended(Ended { remote, results }) => {
            Step::Collect(remote.id.clone(), results.clone())
        }
    }
}

fn submit(submitting: &Submitting, facts: &Facts) -> Step {
    match submitting.creates(facts.uploads) {
        // It may exist: the outcome of its creation is unknown.
        true if submitting.sent => Step::ReadList(submitting.input.clone()),
        _ if facts.is_stopped => Step::GiveUp,
        true => Step::Create,
        false => Step::Upload,
    }
}

/// A delayed list shows it later. A batch that did not appear in all that time is sent again only after the file that
/// a delayed creation needs is deleted, and the list was read again.
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
    match (running.duplicates.first(), &remote.owner) {
        (Some(duplicate), _) => Step::CancelDuplicate(duplicate.clone()),
        // A batch that may belong to another program is not cancelled.
        (
            None,
            Owner::Ours {
                cancel_asked: false,
            },
        ) if facts.is_stopped => Step::Cancel(remote.id.clone()),
        (None, _) => Step::AskStatus(remote.id.clone()),
    }
}
