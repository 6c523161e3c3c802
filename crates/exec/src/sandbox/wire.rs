//! The messages between batchwright and its keeper: values in JSON on a stream socket, each after its length, with the
//! files that belong to it.
//!
//! After the greeting, the socket carries the words of commands, each with a connection, its standard output and its
//! standard error. The connection carries the numbers of signals to the command and its group, and [`Reply`]s back; when
//! batchwright closes it, the group is killed.

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

use crate::record::{End, JobError};

/// What all commands of a run may do; the first message to a keeper.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the kernel confines commands at all.
    pub confine: bool,
    pub network: bool,
    /// The folder in which commands run.
    pub folder: OsString,
    /// Files and folders to which commands may write, in addition to their folder.
    pub writable: Vec<OsString>,
    /// The variables of commands.
    pub environment: Vec<(OsString, OsString)>,
    /// The folder in which the keeper makes one for temporary files, which it removes at its end.
    pub temporary: Option<OsString>,
    /// The most bytes of private memory of each process.
    pub memory: Option<u64>,
    /// The folder that commands do not read.
    pub hidden: Option<OsString>,
}

/// The answer to a policy.
#[derive(Debug, Serialize, Deserialize)]
pub enum Greeting {
    /// Commands can start, without these rules, which the kernel lacks.
    /// `temporary` is the folder for temporary files.
    Ready {
        missing: Vec<String>,
        temporary: Option<OsString>,
    },
    /// The process namespace cannot be made. Another answer follows, of the keeper without one.
    NoNamespace(String),
    /// Commands cannot be confined as the policy requires.
    Failed(String),
}

/// What a connection reports of its command: how it ended, or why it did not start.
pub type Reply = Result<End, JobError>;

/// Sends a value, and opened files with it.
pub fn send(
    mut socket: &UnixStream,
    value: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let bytes = [&length.to_le_bytes()[..], &text].concat();
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

/// The next value, with the files that were sent with it. The end is an error, too.
pub fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut head)];
        recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            files.extend(passed);
        }
    }
    socket.read_exact(&mut head[received.bytes..])?;
    let mut bytes = vec![0; u32::from_le_bytes(head) as usize];
    socket.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, files))
}
