//! A time limit for steps that may hang, far longer than any of them takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Runs `f` on a separate thread and returns its result or its panic.
#[track_caller]
pub fn caught<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::Result<T> {
    let (tx, rx) = channel();
    thread::spawn(move || {
        let _ = tx.send(catch_unwind(AssertUnwindSafe(f)));
    });
    rx.recv_timeout(Duration::from_secs(180))
        .expect("it has not ended within 180 s")
}

/// The same for functions that must not panic.
#[track_caller]
pub fn ends<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    caught(f).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The text of a panic.
pub fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default()
}
