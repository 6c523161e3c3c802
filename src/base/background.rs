//! A run in the background, whose results another thread takes.

use std::any::Any;
use std::panic::resume_unwind;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::cancel::Context;
use super::thread::spawn;

/// Results of a run on a thread of its own, and its end. Dropping it aborts the run and waits for its thread.
pub(crate) struct Background<T, E> {
    ctx: Context,
    results: Option<Receiver<T>>,
    /// `None` if it was joined, or could not be started.
    runner: Option<JoinHandle<E>>,
}

impl<T: Send + 'static, E: Send + 'static> Background<T, E> {
    /// Starts the run in this context, which must be its own. At most `ahead` results wait to be taken.
    pub(crate) fn start(
        name: &str,
        ctx: Context,
        ahead: usize,
        run: impl FnOnce(Sender<T>) -> E + Send + 'static,
    ) -> Self {
        let (results, taken) = bounded(ahead);
        Self {
            ctx,
            results: Some(taken),
            runner: spawn(name, move || run(results)).ok(),
        }
    }
}

impl<T, E> Background<T, E> {
    /// Waits for the next result; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<T> {
        self.results.as_ref()?.recv().ok()
    }

    /// Waits for the end of the run; `None` if its thread could not be started.
    ///
    /// # Panics
    /// If the run panicked.
    pub(crate) fn join(&mut self) -> Option<E> {
        let end = self.runner.take()?.join();
        Some(end.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<T, E> Drop for Background<T, E> {
    fn drop(&mut self) {
        if let Some(runner) = self.runner.take() {
            self.ctx.abort();
            self.results = None;
            // The run's panic was printed when it happened; a destructor must not panic again.
            let _: Result<_, Box<dyn Any + Send>> = runner.join();
        }
    }
}
