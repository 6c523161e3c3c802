//! Signals to stop, such as Ctrl-C: the first one ends the command gracefully, the second one aborts its calls, the
//! third one ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use batchwright::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::args::shared::ShowArgs;
use super::display::{self, Display};
use super::exit::{Exit, Refusal};
use super::stdout;

/// After a second signal, threads that cannot be woken (for example during a connect) get this time. It begins again
/// whenever a part of the output is written.
const AFTER_ABORT: Duration = Duration::from_millis(600);

/// The same at the end of the grace period, when no user waits.
const AFTER_GRACE: Duration = Duration::from_secs(2);

/// The signals seen by a run.
#[derive(Clone, Default)]
pub struct Signals {
    first: Arc<AtomicU8>,
}

impl Signals {
    /// Connects the process's signals to the context from now on. After the first signal, `line` is printed.
    pub fn watch(ctx: &Context, line: String) -> Result<Self, Refusal> {
        let signals = Self::default();
        let (first, ctx) = (signals.first.clone(), ctx.clone());
        each_signal(move |count, signal| {
            if count == 1 {
                first.store(signal, Ordering::SeqCst);
                ctx.cancel();
                end_when_idle(&ctx, ctx.grace(), AFTER_GRACE, signal);
                display::note(&line);
            } else if count == 2 {
                // Also if no thread can be started.
                ctx.abort();
                end_when_idle(&ctx, Duration::ZERO, AFTER_ABORT, signal);
            } else {
                exit(signal);
            }
        })
        .map_err(|e| Refusal::could_not_run(format!("cannot watch for signals: {e}")))?;
        Ok(signals)
    }

    /// The exit code of the received signal, if any.
    pub fn exit(&self) -> Option<Exit> {
        match self.first.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(Exit::Signal(signal)),
        }
    }
}

/// The message after the first signal while calls are made. `besides` precedes it.
pub fn stopping_line(ctx: &Context, besides: &str) -> String {
    let grace = ctx.grace().as_secs();
    format!(
        "stopping: {besides}calls in flight have up to {grace} s to finish; press Ctrl-C again to stop now"
    )
}

/// Aborts the calls of a run after its grace period, and then ends the program as soon as it has written nothing for
/// some time: it may be blocked.
fn end_when_idle(ctx: &Context, grace: Duration, idle: Duration, signal: u8) {
    let ctx = ctx.clone();
    let watch = move || {
        thread::sleep(grace);
        ctx.abort();
        let mut written = stdout::written();
        loop {
            thread::sleep(idle);
            let now = stdout::written();
            if now == written {
                exit(signal);
            }
            written = now;
        }
    };
    // Without it a third signal still ends the run.
    let _ = thread::Builder::new()
        .name("batchwright-grace".to_owned())
        .spawn(watch);
}

fn exit(signal: u8) -> ! {
    std::process::exit(i32::from(Exit::Signal(signal).code()))
}

/// A file that may not grow any further (`ulimit -f`) is an error like a full disk, not the end of the
/// program: with a handler, whatever it does, the write fails instead.
pub fn outlive_size_limits() {
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        log::warn!("a limit on the size of files would end the program: {error}");
    }
}

/// Blocks until a signal to stop arrives.
pub fn wait_for_stop() {
    let (tx, rx) = crossbeam_channel::bounded(1);
    let watching = each_signal(move |_, _| {
        let _ = tx.try_send(());
    });
    if watching.is_ok() {
        let _ = rx.recv();
    }
}

fn each_signal(mut seen: impl FnMut(usize, u8) + Send + 'static) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    thread::Builder::new()
        .name("batchwright-signals".to_owned())
        .spawn(move || {
            for (i, signal) in signals.forever().enumerate() {
                seen(i + 1, u8::try_from(signal).unwrap_or(15));
            }
        })
        .map(drop)
}

/// Whether the program was started with that signal ignored, as with nohup.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Time that calls in flight have to finish after the first signal.
pub const GRACE: Duration = Duration::from_secs(30);

/// Parts of a command that takes time: a context that signals cancel, and a display for people.
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
    pub fn interrupted(&self) -> Refusal {
        Refusal::ended(self.signals.exit().unwrap_or(Exit::CouldNotRun))
    }
}
