//! Parts of a command that takes time: a context that signals cancel, and a display for people.

use std::sync::Arc;
use std::time::Duration;

use batchwright::Context;

use super::args::shared::ShowArgs;
use super::display::Display;
use super::exit::{Early, Exit, Refusal};
use super::signals::Signals;

/// Time that calls in flight have to finish after the first signal.
pub const GRACE: Duration = Duration::from_secs(30);

pub struct Session {
    pub ctx: Context,
    pub signals: Signals,
    pub display: Arc<Display>,
}

impl Session {
    /// From now on signals cancel the context; `stopping` is the message after the first one.
    pub fn start(show: &ShowArgs, ctx: Context, stopping: String) -> Result<Self, Refusal> {
        Ok(Self {
            signals: Signals::watch(&ctx, stopping)?,
            ctx,
            display: Arc::new(Display::new(show)),
        })
    }

    /// The end of a command that was cancelled by a signal.
    pub fn interrupted(&self) -> Early {
        Early::Ended(self.signals.exit().unwrap_or(Exit::CouldNotRun))
    }
}
