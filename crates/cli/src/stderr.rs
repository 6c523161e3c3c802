//! Lines on standard error and the line of progress below them, written by a separate thread: a stopped terminal, or a
//! pipe that is not read, must not block the run or the handling of signals. If the queue is full, lines are dropped.
//! The log goes there too.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use console::Term;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;

use super::args::shared::SayArgs;
use super::sanitize::one_line;

/// Maximum number of waiting lines; more than the log can produce at its most verbose level.
const MAX_WAITING: usize = 8192;
/// At the end, the program waits this long for the last lines.
const FLUSH_TIME: Duration = Duration::from_millis(500);

enum Output {
    Lines(Vec<u8>),
    /// The line of progress, which replaces the former one. An empty text removes it.
    Bar(String),
    /// Everything before it is written.
    Flush(Sender<()>),
}

/// `None` if no thread can be started: then the thread that prints a line also writes it, and there is no progress.
fn writer() -> Option<&'static Sender<Output>> {
    static WRITER: OnceLock<Option<Sender<Output>>> = OnceLock::new();
    let start = || {
        let (queue, writes) = bounded(MAX_WAITING);
        let thread = thread::Builder::new().name("batchwright-lines".to_owned());
        thread.spawn(move || write_all(&writes)).ok()?;
        Some(queue)
    };
    WRITER.get_or_init(start).as_ref()
}

/// A closed standard error is not an error.
fn write_all(writes: &Receiver<Output>) {
    let mut bar = String::new();
    let erase = |bar: &str| {
        if !bar.is_empty() {
            let _ = Term::stderr().clear_line();
        }
    };
    for write in writes {
        match write {
            Output::Lines(lines) => {
                erase(&bar);
                let _ = io::stderr().write_all(&lines);
            }
            Output::Bar(next) => {
                erase(&bar);
                bar = next;
            }
            Output::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        }
        let _ = io::stderr().write_all(bar.as_bytes());
    }
}

/// Queues these bytes, which must be complete lines; they are written above the progress, if there is one.
pub fn write(lines: Vec<u8>) {
    match writer() {
        Some(writer) => drop(writer.try_send(Output::Lines(lines))),
        None => drop(io::stderr().write_all(&lines)),
    }
}

/// Replaces the line of progress; an empty one removes it.
pub fn draw(bar: String) {
    if let Some(writer) = writer() {
        let _ = writer.try_send(Output::Bar(bar));
    }
}

/// Waits a moment until everything is written, before other code writes there, and at the end.
pub fn flush() {
    let (done, written) = bounded(1);
    let sent = |writer: &Sender<Output>| {
        let sent = writer.send_timeout(Output::Flush(done), FLUSH_TIME);
        sent.is_ok()
    };
    if writer().is_some_and(sent) {
        let _ = written.recv_timeout(FLUSH_TIME);
    }
}

/// Where the log is written.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Columns at the end of the line of progress. A terminal shows Ctrl-C there as `^C`; in a full line it would go on in
/// the next one, and the progress could no longer be erased.
const FOR_KEYS: u16 = 4;

/// The columns of the line of progress.
pub fn bar_width() -> usize {
    let (_, columns) = Term::stderr().size();
    columns.saturating_sub(FOR_KEYS).into()
}

static QUIET: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(false);

/// Whether only errors are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether the result, or the error, is printed as JSON.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

impl SayArgs {
    /// Starts the log at the requested level. `RUST_LOG` overrides `-q`, and `--log-level` overrides both.
    pub fn start_log(&self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        JSON.store(self.json, Ordering::Relaxed);
        let level = if self.quiet { "error" } else { "warn" };
        let mut builder = env_logger::Builder::new();
        match self.log_level {
            Some(filter) => builder.parse_filters(filter),
            None => builder.parse_env(env_logger::Env::default().default_filter_or(level)),
        };
        // A second start (in tests) fails and does no harm.
        let _ = builder
            .target(env_logger::Target::Pipe(Box::new(Log)))
            .format(|out, record| {
                let level = record.level().as_str().to_lowercase();
                let text = one_line(&record.args().to_string());
                let now = humantime::format_rfc3339_millis(SystemTime::now());
                writeln!(out, "batchwright: {now} {level}: {text}")
            })
            // It prints all transferred bytes, including keys, so RUST_LOG cannot enable it.
            .filter_module("ureq_proto::util", LevelFilter::Off)
            .try_init();
    }
}
