//! Threads of the HTTP server.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Enough for nested JSON; hundreds of threads should not reserve eight megabytes each.
const STACK_SIZE: usize = 1 << 20;

/// Starts one.
pub(super) fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE)
        .spawn(run)
}
