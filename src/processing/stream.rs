//! Results of a run in the background, as they arrive.

use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::Context;
use crate::base::thread::Background;
use crate::engine::dispatch::StopReason;

use super::recovery::ErrorRecovery;
use super::result::{BatchResult, ProcessResult, ProcessingEnd, Sink};
use super::stats::ProcessingStats;

/// Results of files, see [`process_files_streaming`](super::BatchProcessor::process_files_streaming). Dropping it
/// cancels the run and waits for its threads, which finish the files in progress. Only a thread that is blocked in
/// the `next()` of the files may be left behind.
pub struct ProcessStream<R> {
    run: Background<ProcessResult<R>, ProcessingEnd>,
    /// Dropped after the run.
    notes: Option<Notes>,
    /// The result that was returned last. When the next one is requested, it has been dealt with.
    last: Option<ProcessResult<()>>,
}

pub(super) struct Notes {
    /// Records the results that were taken.
    pub recovery: ErrorRecovery,
    /// Number of files that were skipped because they are done.
    pub passed: Arc<AtomicU64>,
}

impl<R: Send + 'static> ProcessStream<R> {
    pub(super) fn spawn(
        ctx: Context,
        notes: Option<Notes>,
        run: impl FnOnce(Sink<'_, R>) -> ProcessingEnd + Send + 'static,
    ) -> Self {
        let run = Background::start("batchwright-files", ctx, 1, move |tx| {
            run(&mut |result| match tx.send(result) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        Self {
            run,
            notes,
            last: None,
        }
    }

    /// Waits for the end and returns the results that were not taken yet.
    pub fn finish(mut self) -> BatchResult<R> {
        let results = self.by_ref().collect();
        let mut end = self.run.join().unwrap_or_else(|| {
            let why = "the run's thread could not be started".to_owned();
            (ProcessingStats::default(), Some(StopReason::Misuse(why)))
        });
        if let Some(notes) = &self.notes {
            end.0.skipped = notes.passed.load(Ordering::Relaxed);
            if let Err(error) = notes.recovery.save_checkpoint() {
                log::warn!("{error}");
            }
        }
        BatchResult::new(results, end)
    }
}

impl<R> Iterator for ProcessStream<R> {
    type Item = ProcessResult<R>;

    fn next(&mut self) -> Option<ProcessResult<R>> {
        if let (Some(notes), Some(last)) = (&self.notes, self.last.take()) {
            notes.recovery.note(&last);
        }
        let result = self.run.next()?;
        if self.notes.is_some() {
            self.last = Some(result.outline());
        }
        Some(result)
    }
}

impl<R> FusedIterator for ProcessStream<R> {}
