//! How items are sent: what runs of lists and of files have in common.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::clock::Clock;
use crate::engine::dispatch::{Dispatcher, ErrorPolicy};
use crate::engine::run::{CallsAtOnce, bad_concurrency};
use crate::engine::work::Work;
use crate::llm::route::Route;
use crate::observe::drive::Drive;
use crate::observe::progress::ProgressNotifier;

pub(super) struct RunOptions<'a> {
    pub calls: CallsAtOnce,
    pub on_error: ErrorPolicy,
    pub ctx: Context,
    pub notifier: Option<Arc<dyn ProgressNotifier + 'a>>,
}

impl RunOptions<'_> {
    /// Goes on after errors, is never cancelled and notifies nobody.
    pub(super) fn new(calls: CallsAtOnce) -> Self {
        Self {
            calls,
            on_error: ErrorPolicy::default(),
            ctx: Context::new(),
            notifier: None,
        }
    }

    /// Why no run is possible with these options.
    pub(super) fn misuse(&self) -> Option<String> {
        bad_concurrency(self.calls.most)
    }

    pub(super) fn dispatcher<W: Work>(&self, route: &Route<'_>, work: W) -> Dispatcher<W> {
        let options = route.options(&self.ctx, self.calls.most, self.on_error);
        Dispatcher::new(work, route.limiter(), options)
    }

    pub(super) fn drive<'d>(&'d self, clock: &'d dyn Clock) -> Drive<'d> {
        Drive {
            ctx: &self.ctx,
            clock,
            calls: self.calls,
            notifier: self.notifier.as_deref().map(|notifier| notifier as _),
        }
    }
}
