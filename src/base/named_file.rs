//! The one way to open a file that a user names: a regular file or a pipe, never waiting for what may not come.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// How long the other side of a pipe may take to open it: it may be about to, as in `mkfifo p; cat p & program -o p`,
const OTHER_SIDE: Duration = Duration::from_secs(2);
/// and how long a program that writes a small file to it may take between two pieces.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// Opens without waiting for the other side of a pipe.
fn open(options: &mut OpenOptions, path: &Path, follow: bool) -> io::Result<File> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    flags.set(OFlags::NOFOLLOW, !follow);
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Opens a pipe whose other side is open or will be soon.
fn pipe(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let (sender, opened) = mpsc::channel();
    let (options, of) = (options.clone(), path.to_owned());
    thread::Builder::new().spawn(move || sender.send(options.open(of)))?;
    match opened.recv_timeout(OTHER_SIDE) {
        Ok(Ok(file)) if file.metadata()?.file_type().is_fifo() => Ok(file),
        Ok(file) => other_type(&file?),
        Err(_) => {
            // The thread waits for this; its side is closed here, so that no one takes it for a program that reads.
            let _both = open(File::options().read(true).write(true), path, true);
            drop(opened.recv_timeout(OTHER_SIDE));
            let why = "it is a pipe whose other side nobody has opened";
            Err(io::Error::new(ErrorKind::NotConnected, why))
        }
    }
}

fn other_type(file: &File) -> io::Result<File> {
    if file.metadata()?.is_dir() {
        let why = "it is a folder, not a regular file";
        return Err(io::Error::new(ErrorKind::IsADirectory, why));
    }
    Err(not_regular())
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}

/// Opens a regular file to read; the last part of the path is no link unless `follow`.
///
/// # Errors
/// Those of [`File::open`]; [`ErrorKind::InvalidInput`] for a pipe, a socket or a device.
pub fn regular(path: &Path, follow: bool) -> io::Result<File> {
    let file = match open(File::options().read(true), path, follow) {
        // A socket.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Err(not_regular()),
        opened => opened,
    }?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    other_type(&file)
}

/// Opens a regular file, or a pipe that somebody writes to, to read.
///
/// # Errors
/// As [`regular`]; [`ErrorKind::NotConnected`] if nobody has opened the pipe to write within 2 seconds.
pub fn input(path: &Path) -> io::Result<File> {
    if is_pipe(path) {
        return pipe(File::options().read(true), path);
    }
    regular(path, true)
}

/// Opens an output with these options: a regular file, or if `streams` a terminal, a device such as `/dev/null`, or a pipe
/// that somebody reads. The last part of the path is no link unless `follow`.
///
/// # Errors
/// Those of [`OpenOptions::open`]; [`ErrorKind::InvalidInput`] for other types; [`ErrorKind::NotConnected`] if nobody has
/// opened the pipe to read within 2 seconds.
pub fn output(
    options: &mut OpenOptions,
    path: &Path,
    follow: bool,
    streams: bool,
) -> io::Result<File> {
    if streams && is_pipe(path) {
        return pipe(options, path);
    }
    let file = open(options, path, follow)?;
    let found = file.metadata()?.file_type();
    let is_stream = streams && found.is_char_device();
    if !found.is_file() && !is_stream {
        return other_type(&file);
    }
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// All bytes of a small regular file, or of a pipe.
///
/// # Errors
/// As [`input`]; [`ErrorKind::FileTooLarge`] if there are more than `most` bytes, whole KiB; [`ErrorKind::TimedOut`] if
/// nothing has come out of a pipe for 20 seconds. No message contains any of the bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = input(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        (&file).take(most + 1).read_to_end(&mut bytes)?;
    } else {
        read_pipe(&file, most, &mut bytes)?;
    }
    if bytes.len() as u64 > most {
        let why = format!("it has more than {} KiB", most >> 10);
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// As [`read`], as text without the byte order mark that some editors write.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] if it is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, most)?);
    let mut text = text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is no UTF-8"))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn read_pipe(mut pipe: &File, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    while bytes.len() as u64 <= most {
        let mut wait = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        match poll(&mut wait, Some(&PATIENCE)) {
            Ok(0) => {
                let why = "it is a pipe, and nothing comes out of it";
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match pipe.read(&mut piece)? {
            0 => break,
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
    Ok(())
}

/// Why a file is not what it should be, without any of its text, which may be a secret: it may be the wrong file.
pub fn no_such_json(error: &serde_json::Error) -> String {
    if error.is_data() {
        // Its message quotes what it found.
        let (line, column) = (error.line(), error.column());
        return format!("line {line} column {column} has not the documented form");
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn nothing_is_waited_for_that_may_not_come_and_pipes_that_are_used_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let kind = |read: io::Result<Vec<u8>>| read.unwrap_err().kind();
        assert_eq!(kind(read(&path, 9)), ErrorKind::NotConnected);
        let written = output(File::options().append(true), &path, true, true);
        assert_eq!(written.unwrap_err().kind(), ErrorKind::NotConnected);
        let other = regular(&path, true).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::InvalidInput);
        let device = Path::new("/dev/zero");
        assert_eq!(kind(read(device, 9)), ErrorKind::InvalidInput);
        assert_eq!(kind(read(folder.path(), 9)), ErrorKind::IsADirectory);
        for (text, expected) in [
            ("123456789", Some("123456789")),
            ("1234567890", None),
            ("", Some("")),
        ] {
            let shell = format!("printf '{text}' > {}", path.display());
            let mut writer = Command::new("sh").args(["-c", &shell]).spawn().unwrap();
            let found = read_text(&path, 9);
            assert_eq!(found.as_deref().ok(), expected);
            writer.wait().unwrap();
        }
    }
}
