//! Standard output for programs; it may be full, closed, or blocked.

use std::io::{self, Write};
use std::path::Path;

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

/// Writes the whole text to standard output immediately.
pub fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// True if standard output was closed (`>&-`): Rust then opens `/dev/null` there before `main`, also for reading,
/// unlike a shell's `>/dev/null`.
#[cfg(unix)]
pub fn is_closed() -> bool {
    use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};
    let stdout = io::stdout();
    let (Ok(ours), Ok(null)) = (fstat(&stdout), stat("/dev/null")) else {
        return true;
    };
    let is_null = FileType::from_raw_mode(ours.st_mode) == FileType::CharacterDevice
        && ours.st_rdev == null.st_rdev;
    is_null && fcntl_getfl(&stdout).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
}

/// Not known on other systems.
#[cfg(not(unix))]
pub fn is_closed() -> bool {
    false
}

/// True if the output is standard output, under any of its names.
pub fn is_named(output: Option<&Path>) -> bool {
    let names = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    output.is_none_or(|path| names.iter().any(|name| path == Path::new(name)))
}

/// The error if results would be lost.
pub const CLOSED: &str = "standard output is closed, so the results would be paid for and lost; name a \
    file with --output (or /dev/null to discard them)";
