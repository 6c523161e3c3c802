//! Standard output for programs; it may be full, closed, or blocked.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use batchwright::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};

use super::display;
use super::exit::Exit;
use super::sanitize;

/// Writes to standard output and returns `exit`; if the text could not be written, an error exit, because a script must
/// not continue without it. A reader that closed the pipe is not an error.
pub fn print(text: &str, exit: Exit) -> Exit {
    match write(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            display::error(&format!("cannot write to standard output: {error}"));
            Exit::CouldNotRun
        }
        _ => exit,
    }
}

/// Writes a value as one line of JSON, see [`print`].
pub fn json(value: &impl std::fmt::Display, exit: Exit) -> Exit {
    print(&(sanitize::json(value) + "\n"), exit)
}

/// Counts what is written, also elsewhere in place of standard output.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A number that changes while output is written. As long as it does, a stopped run is not ended by force.
pub fn written() -> u64 {
    WRITTEN.load(Ordering::Relaxed)
}

/// Records that a part of the output was written.
pub fn note_written() {
    WRITTEN.fetch_add(1, Ordering::Relaxed);
}

/// Standard output for results. A reader may be slow or stop reading. After an abort, writing fails if the reader does
/// not read for a moment, because the results have to be shown elsewhere before the program ends.
pub struct ResultsOut {
    ctx: Context,
    /// Since when the reader has not read, after an abort.
    stuck_since: Option<Instant>,
    /// The largest piece that never blocks once the reader has read.
    piece: usize,
}

/// A pipe that can be written takes so much at once (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;
/// Interval of checks for an abort while the reader does not read.
const LOOK: Duration = Duration::from_millis(50);
/// A reader that does not read for this long after an abort gets nothing more.
const GIVE_UP: Duration = Duration::from_millis(250);

impl ResultsOut {
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            stuck_since: None,
            piece: if is_file() { usize::MAX } else { PIECE },
        }
    }

    fn wait_for_reader(&mut self) -> io::Result<()> {
        let stdout = io::stdout();
        let look = Timespec::try_from(LOOK).ok();
        loop {
            let mut events = [PollFd::new(&stdout, PollFlags::OUT)];
            match poll(&mut events, look.as_ref()) {
                Ok(0) => {}
                Ok(_) => {
                    self.stuck_since = None;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            if self.ctx.is_aborted()
                && self.stuck_since.get_or_insert_with(Instant::now).elapsed() >= GIVE_UP
            {
                note_written();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its reader does not read",
                ));
            }
        }
    }
}

impl Write for ResultsOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for_reader()?;
        let piece = &bytes[..bytes.len().min(self.piece)];
        let mut stdout = io::stdout().lock();
        stdout.write_all(piece)?;
        stdout.flush()?;
        note_written();
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard output is a regular file, which has no reader.
pub fn is_file() -> bool {
    let stat = fstat(io::stdout());
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// Writes the whole text to standard output immediately.
pub fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// True if standard output was closed (`>&-`): Rust then opens `/dev/null` there before `main`, also for reading,
/// unlike a shell's `>/dev/null`. Python's `DEVNULL`, Node's `ignore` and systemd's `null` do the same.
pub fn is_closed() -> bool {
    let stdout = io::stdout();
    let (Ok(ours), Ok(null)) = (fstat(&stdout), stat("/dev/null")) else {
        return true;
    };
    let is_null = FileType::from_raw_mode(ours.st_mode) == FileType::CharacterDevice
        && ours.st_rdev == null.st_rdev;
    is_null && fcntl_getfl(&stdout).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
}

/// True if the output is standard output, under any of its names.
pub fn is_named(output: Option<&Path>) -> bool {
    let names = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    output.is_none_or(|path| names.iter().any(|name| path == Path::new(name)))
}

/// The output, if it is a file that can be resumed, under the name to which links lead.
pub fn regular(output: Option<&Path>) -> Option<PathBuf> {
    let output = output.filter(|path| *path != Path::new("-"))?;
    let output = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
    let is_stream = fs::metadata(&output).is_ok_and(|found| !found.is_file());
    (!is_stream && output.file_name().is_some()).then_some(output)
}

/// The error if results would be lost.
pub const CLOSED: &str = "standard output is /dev/null or closed, so the results would be paid for and lost; name a \
    file with --output (or /dev/null to discard them)";
