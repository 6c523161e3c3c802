//! What passes between batchwright and a launcher, on a socket: values and signals.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::encoding::{decode, encode};
use super::place::Place;
use crate::refusal::Refusal;

/// A command. Its standard output and standard error are passed with it, and its standard input if it has one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub folder: Place,
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

/// What became of a command.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    NotStarted(Refusal),
    Ended {
        /// As the kernel reports it; `None` if a debugger holds the process.
        status: Option<i32>,
        pid: i32,
        /// It left nothing behind, so the launcher can start another command. After any other reply, it is replaced.
        clean: bool,
    },
}

/// What a launcher receives.
#[derive(Debug)]
pub enum Message {
    /// For the running command.
    Signal(i32),
    Value(Vec<u8>, Vec<OwnedFd>),
}

/// Marks a signal; other messages begin with their length.
const SIGNAL: u32 = 1 << 31;

impl Message {
    /// The value and its files, if it is a complete one of this type.
    pub fn value<T: DeserializeOwned>(self) -> Option<(T, Vec<OwnedFd>)> {
        match self {
            Self::Value(bytes, files) => Some((decode(&bytes)?, files)),
            Self::Signal(_) => None,
        }
    }
}

/// Sends a value, and opened files with it.
pub fn send(
    mut socket: &UnixStream,
    value: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = encode(value);
    let length = u32::try_from(text.len()).ok();
    let length = length.filter(|length| length & SIGNAL == 0);
    let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
    let bytes = [&length.to_le_bytes(), text.as_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    socket.write_all(&bytes[sent..])
}

/// Sends a signal for the running command.
pub fn send_signal(mut socket: &UnixStream, signal: i32) -> io::Result<()> {
    socket.write_all(&(SIGNAL | signal.cast_unsigned()).to_le_bytes())
}

/// The next message; `None` at the end.
pub fn receive(mut socket: &UnixStream) -> io::Result<Option<Message>> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut head)];
        recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            files.extend(passed);
        }
    }
    socket.read_exact(&mut head[received.bytes..])?;
    let head = u32::from_le_bytes(head);
    if head & SIGNAL != 0 {
        return Ok(Some(Message::Signal((head & !SIGNAL).cast_signed())));
    }
    let mut bytes = vec![0; head as usize];
    socket.read_exact(&mut bytes)?;
    Ok(Some(Message::Value(bytes, files)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn any_order_arrives_with_its_files_and_signals_stay_apart() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let odd = OsString::from_vec(b"a b\n:\xff".to_vec());
        // More than the socket holds at once.
        let long = OsString::from("a".repeat(1_000_000));
        let order = || Order {
            folder: Place::default(),
            program: odd.clone(),
            arguments: vec![odd.clone(), long.clone(), OsString::new()],
        };
        let (read, write) = io::pipe().unwrap();
        let received = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let next = || receive(&theirs).unwrap();
                [next(), next(), next(), next()]
            });
            send_signal(&ours, 9).unwrap();
            send(&ours, &order(), &[write.as_fd(), write.as_fd()]).unwrap();
            send_signal(&ours, 15).unwrap();
            drop((ours, write));
            receiver.join().unwrap()
        });
        let [first, second, third, end] = received;
        assert!(matches!(first, Some(Message::Signal(9))));
        assert!(matches!(third, Some(Message::Signal(15))));
        assert!(end.is_none());
        let (arrived, files) = second.unwrap().value::<Order>().unwrap();
        assert_eq!(arrived, order());
        assert_eq!(files.len(), 2);
        for file in files {
            std::fs::File::from(file).write_all(b"x").unwrap();
        }
        assert_eq!(io::read_to_string(read).unwrap(), "xx");
    }
}
