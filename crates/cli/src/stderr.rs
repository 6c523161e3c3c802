//! Lines on standard error and the progress bar below them, written by a separate thread: a stopped terminal, or a pipe
//! that is not read, must not block the run or the handling of signals. If the queue is full, lines are dropped; of the
//! bar only the newest frame is drawn.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use console::Term;
use crossbeam_channel::{Sender, bounded};
use indicatif::TermLike;

/// Maximum number of waiting lines; more than the log can produce at its most verbose level.
const MAX_WAITING: usize = 8192;
/// At the end, the program waits this long for the last lines.
const FLUSH_TIME: Duration = Duration::from_millis(500);

enum Output {
    Lines(Vec<u8>),
    /// The newest frame of the bar.
    Frame,
}

struct Writer {
    queue: Sender<Output>,
    unwritten: Arc<Unwritten>,
}

#[derive(Default)]
struct Unwritten {
    writes: Mutex<usize>,
    changed: Condvar,
    frame: Mutex<Option<String>>,
}

impl Unwritten {
    fn change(&self, by: isize) {
        if let Ok(mut writes) = self.writes.lock() {
            *writes = writes.saturating_add_signed(by);
            self.changed.notify_all();
        }
    }

    /// Replaces the waiting frame, and returns the old one.
    fn set_frame(&self, frame: Option<String>) -> Option<String> {
        let mut waiting = self.frame.lock().ok()?;
        std::mem::replace(&mut *waiting, frame)
    }
}

impl Writer {
    fn send(&self, write: Output) -> bool {
        self.unwritten.change(1);
        let sent = self.queue.try_send(write).is_ok();
        if !sent {
            self.unwritten.change(-1);
        }
        sent
    }
}

/// The content of the screen. A closed standard error is not an error.
#[derive(Default)]
struct Screen {
    /// The bar, in the last line.
    bar: String,
}

impl Screen {
    fn write(&self, lines: &[u8]) {
        self.erase();
        let _ = io::stderr().write_all(lines);
        let _ = io::stderr().write_all(self.bar.as_bytes());
    }

    fn draw(&mut self, frame: String) {
        self.erase();
        let _ = io::stderr().write_all(frame.as_bytes());
        self.bar = frame;
    }

    fn erase(&self) {
        if !self.bar.is_empty() {
            let _ = Term::stderr().clear_line();
        }
    }
}

/// `None` if no thread can be started: then the thread that prints a line also writes it, and no bar is drawn.
fn writer() -> Option<&'static Writer> {
    static WRITER: OnceLock<Option<Writer>> = OnceLock::new();
    let start = || {
        let (queue, writes) = bounded(MAX_WAITING);
        let unwritten = Arc::<Unwritten>::default();
        let written = unwritten.clone();
        let write = move || {
            let mut screen = Screen::default();
            for write in writes {
                match write {
                    Output::Lines(lines) => screen.write(&lines),
                    Output::Frame => screen.draw(written.set_frame(None).unwrap_or_default()),
                }
                written.change(-1);
            }
        };
        let thread = thread::Builder::new().name("batchwright-lines".to_owned());
        thread.spawn(write).ok()?;
        Some(Writer { queue, unwritten })
    };
    WRITER.get_or_init(start).as_ref()
}

/// Queues these bytes, which must be complete lines; they are written above the bar, if there is one.
pub fn write(lines: Vec<u8>) {
    match writer() {
        Some(writer) => {
            writer.send(Output::Lines(lines));
        }
        None => {
            let _ = io::stderr().write_all(&lines);
        }
    }
}

/// Schedules drawing of the bar instead of the former one; an empty one removes it.
fn draw(frame: String) {
    let Some(writer) = writer() else { return };
    let waits = writer.unwritten.set_frame(Some(frame)).is_some();
    if !waits && !writer.send(Output::Frame) {
        writer.unwritten.set_frame(None);
    }
}

/// Waits a moment until everything is written, before other code writes there, and at the end.
pub fn flush() {
    let Some(writer) = writer() else { return };
    if let Ok(writes) = writer.unwritten.writes.lock() {
        let left = |writes: &mut usize| *writes > 0;
        let _ = writer
            .unwritten
            .changed
            .wait_timeout_while(writes, FLUSH_TIME, left);
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

/// Columns at the end of the line of the bar. A terminal shows Ctrl-C there as `^C`; in a full line it would go on in the
/// next one, and the bar could no longer be erased.
const FOR_KEYS: u16 = 4;

/// The columns of the bar.
pub fn bar_width() -> u16 {
    Term::stderr().size().1.saturating_sub(FOR_KEYS)
}

/// The target of a progress bar of one line.
#[derive(Debug, Default)]
pub struct Canvas(Mutex<String>);

impl Canvas {
    fn frame(&self, change: impl FnOnce(&mut String)) -> io::Result<()> {
        if let Ok(mut frame) = self.0.lock() {
            change(&mut frame);
        }
        Ok(())
    }
}

impl TermLike for Canvas {
    fn width(&self) -> u16 {
        bar_width()
    }

    fn height(&self) -> u16 {
        Term::stderr().size().0
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.frame(|frame| frame.push_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.frame(String::clear)
    }

    fn flush(&self) -> io::Result<()> {
        self.frame(|frame| draw(std::mem::take(frame)))
    }
}
