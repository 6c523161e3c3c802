//! Errors of a run under way: those that pass, and those that end it.

use crate::base::{Error, ErrorKind};
use crate::bulk::checkpoint::Unsaved;
use crate::engine::dispatch::StopReason;

/// Why a step of a run failed.
pub(super) enum Trouble {
    /// The step is repeated.
    Passing(Error),
    /// The run ends.
    Lasting(StopReason),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Transient => Self::Passing(error),
            _ => Self::Lasting(StopReason::Fatal(error)),
        }
    }
}

impl From<Unsaved> for Trouble {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Now(error) => Self::Passing(error),
            Unsaved::Ever(error) => Self::Lasting(StopReason::Fatal(error)),
            Unsaved::ReaderGone => Self::Lasting(StopReason::SinkClosed),
        }
    }
}

pub(super) fn waiting(error: &Error) -> String {
    format!("results wait in the queue: {error}")
}
