//! Lines on standard error, written by a thread of their own: a terminal that stands still, or a pipe
//! that nobody reads, must hold up neither the run nor a signal. Lines that find the queue full are
//! dropped.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// Lines that wait to be written; the log at its loudest writes fewer before they are.
const WAITING: usize = 8192;
/// The end of the program waits this long for the last of them.
const LAST_LINES: Duration = Duration::from_millis(500);

struct Writer {
    queue: Sender<Vec<u8>>,
    unwritten: Arc<Unwritten>,
}

#[derive(Default)]
struct Unwritten {
    lines: Mutex<usize>,
    changed: Condvar,
}

impl Unwritten {
    fn change(&self, by: isize) {
        if let Ok(mut lines) = self.lines.lock() {
            *lines = lines.saturating_add_signed(by);
            self.changed.notify_all();
        }
    }
}

/// Where no thread can be started, lines are written by whoever says them.
fn writer() -> Option<&'static Writer> {
    static WRITER: OnceLock<Option<Writer>> = OnceLock::new();
    let start = || {
        let (queue, lines) = bounded::<Vec<u8>>(WAITING);
        let unwritten = Arc::<Unwritten>::default();
        let written = unwritten.clone();
        let write = move || {
            for line in lines {
                // A closed standard error is nobody's problem.
                let _ = io::stderr().write_all(&line);
                written.change(-1);
            }
        };
        let thread = thread::Builder::new().name("batchwright-lines".to_owned());
        thread.spawn(write).ok()?;
        Some(Writer { queue, unwritten })
    };
    WRITER.get_or_init(start).as_ref()
}

/// Writes these bytes, which are whole lines, soon.
pub fn write(lines: Vec<u8>) {
    let Some(writer) = writer() else {
        let _ = io::stderr().write_all(&lines);
        return;
    };
    writer.unwritten.change(1);
    if writer.queue.try_send(lines).is_err() {
        writer.unwritten.change(-1);
    }
}

/// Waits a moment until all is written, as before something else writes there, and at the end.
pub fn flush() {
    let Some(writer) = writer() else { return };
    if let Ok(lines) = writer.unwritten.lines.lock() {
        let left = |lines: &mut usize| *lines > 0;
        let _ = writer
            .unwritten
            .changed
            .wait_timeout_while(lines, LAST_LINES, left);
    }
}

/// The log's way there.
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
