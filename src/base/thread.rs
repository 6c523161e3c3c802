//! Named threads; a failed start is an [`Error`].

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

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
