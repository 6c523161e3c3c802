//! The next step of a batch.

use crate::config::choices::OnUnknown;

use super::super::settings::LISTINGS;
use super::event::Facts;
use super::state::{Collecting, Fence, Input, Results, Sending, State, Unknown};

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
        State::Forming(_) if facts.is_stopped || facts.is_elsewhere => Step::GiveUp,
        State::Forming(_) => Step::WriteInput,
        State::Sending(sending) => send(sending, facts),
        State::Unknown(unknown) => search(unknown, facts),
        // A batch that may belong to another program is not cancelled.
        State::Running(remote)
            if facts.is_stopped && remote.presumed.is_none() && !remote.cancel_asked =>
        {
            Step::Cancel(remote.id.clone())
        }
        State::Running(remote) => Step::AskStatus(remote.id.clone()),
        State::Collecting(Collecting { remote, results }) => {
            Step::Collect(remote.id.clone(), results.clone())
        }
    }
}

fn send(sending: &Sending, facts: &Facts) -> Step {
    let (creates, is_local) = (
        sending.creates(facts.uploads),
        sending.input == Input::Local,
    );
    match creates {
        // It may exist: the outcome of its creation is unknown.
        true if sending.sent => Step::ReadList(sending.input.clone()),
        _ if facts.is_stopped => Step::GiveUp,
        _ if facts.is_elsewhere && is_local && !sending.sent => Step::GiveUp,
        _ if is_local && !facts.has_input => Step::WriteInput,
        true => Step::Create,
        false => Step::Upload,
    }
}

/// A delayed list shows it later. A batch that did not appear in all that time is sent again only after the file that
/// a delayed creation needs is deleted, and the list was read again.
fn search(unknown: &Unknown, facts: &Facts) -> Step {
    let read = || Step::ReadList(unknown.input.clone());
    if unknown.listings < LISTINGS || facts.policy() == OnUnknown::Hold {
        return read();
    }
    let file = unknown.input.file().filter(|_| facts.uploads);
    match (unknown.fence, file) {
        (Fence::Open { .. }, Some(file)) => Step::DeleteFile(file.to_owned()),
        (Fence::Closed { confirmed: false }, Some(_)) => read(),
        (Fence::Closed { confirmed: true }, Some(_)) | (_, None) => Step::GiveUp,
    }
}
