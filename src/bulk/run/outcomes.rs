//! Runs in the background, whose outcomes are iterated.

use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::thread::{Background, spawn};
use crate::engine::dispatch::StopReason;
use crate::engine::run::{MOST_THREADS, Waker};
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::observe::tally::Summary;

use super::{Bulk, BulkError, SOURCE_THREAD, exact, misused};

impl Bulk<'static> {
    /// Streams in the background: an iterator over outcomes in order of completion. [`finish`](Outcomes::finish) ends
    /// the run early and keeps billed answers. Dropping the iterator aborts the calls in flight and joins the threads.
    /// In both cases a thread that is blocked in `items.next()` may be abandoned.
    ///
    /// ```
    /// use batchwright::{Bulk, Extract, Request};
    /// let mut answers = vec![None; 100];
    /// let requests = (0..100).map(|n| Request::new(format!("text {n}")));
    /// for outcome in Bulk::new(Extract).spawn(requests) {
    ///     answers[outcome.index.unwrap()] = outcome.result.ok().map(|answer| answer.text);
    /// }
    /// assert_eq!(answers[42].as_deref(), Some("text 42"));
    /// ```
    pub fn spawn(mut self, items: impl Iterator<Item = Request> + Send + 'static) -> Outcomes {
        // Dropping the iterator must end only this run.
        self.options.ctx = self.options.ctx.child();
        let (ctx, stopping) = (self.options.ctx.clone(), self.stopping.clone());
        let ends = stopping.clone();
        let ahead = self.options.calls.clamp(1, MOST_THREADS);
        let run = Background::start("batchwright-bulk", ctx, ahead, move |tx| {
            let total = exact(items.size_hint());
            let (waker, woken) = Waker::new();
            let (feeder, source, _) = self.feed(&waker);
            spawn(SOURCE_THREAD, move || feeder.feed(items.map(Ok))).map_err(misused)?;
            let sink = move |outcome| match tx.send(outcome) {
                Ok(()) if !ends.load(Ordering::SeqCst) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            };
            let (summary, early) = self.stream(source, total, waker, woken, sink)?;
            early.map_or(Ok(summary), Err)
        });
        Outcomes { stopping, run }
    }
}

/// Outcomes of a run in the background, see [`Bulk::spawn`].
pub struct Outcomes {
    stopping: Arc<AtomicBool>,
    run: Background<Outcome, Result<Summary, BulkError>>,
}

impl Outcomes {
    /// Ends the run: reads no further item, starts no further call, and waits for the calls in flight, however long
    /// they take. To wait for all items instead, call [`next`](Iterator::next) until it returns `None`; then this
    /// returns the summary.
    ///
    /// When the run ended early, or outcomes were left that [`next`](Iterator::next) had not returned: then the reason
    /// is [`StopReason::SinkClosed`]. [`BulkError::outcomes`] contains all of them, and items that were read and not
    /// sent as [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub fn finish(mut self) -> Result<Summary, BulkError> {
        self.stopping.store(true, Ordering::SeqCst);
        let mut left: Vec<Outcome> = self.by_ref().collect();
        let end = self
            .run
            .join()
            .unwrap_or_else(|| Err(misused("the run's thread could not be started")));
        let reason = match end {
            Ok(summary) if left.is_empty() => return Ok(summary),
            Ok(_) => StopReason::SinkClosed,
            Err(mut error) => {
                left.append(&mut error.outcomes);
                error.reason
            }
        };
        Err(BulkError {
            reason,
            outcomes: left,
        })
    }
}

impl Iterator for Outcomes {
    type Item = Outcome;

    fn next(&mut self) -> Option<Outcome> {
        self.run.next()
    }
}

impl FusedIterator for Outcomes {}
