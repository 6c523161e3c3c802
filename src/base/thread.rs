//! Threads that may fail to start, and results that are computed on one while they are read.

use std::any::Any;
use std::io;
use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::cancel::Context;
use super::error::{Error, ErrorKind};

/// Starts a thread with this name.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the system cannot start another thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let started = Builder::new().name(name.into()).spawn(work);
    started.map_err(|error| refused(&error))
}

/// Starts a thread within a scope, see [`spawn`].
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Error> {
    let started = Builder::new().name(name.into()).spawn_scoped(scope, work);
    started.map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> Error {
    let why = format!("cannot start a thread: {error}");
    Error::new(ErrorKind::Invalid, why)
}

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
