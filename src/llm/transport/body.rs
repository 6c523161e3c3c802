//! The body of a reply, read into memory when there is memory for it, and until then to the disk.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use crate::base::Context;

use super::input::CHUNK_BYTES;
use super::memory::{FREE, ReplyShare};

/// Reads a body.
pub(super) struct BodyReader<'a> {
    /// The length in the header of the reply. The server may send less.
    pub announced: Option<u64>,
    /// The maximum number of bytes to read.
    pub most: u64,
    pub share: &'a ReplyShare,
    pub ctx: &'a Context,
}

impl BodyReader<'_> {
    /// Appends the body to `bytes`, which then also have what arrived before a failure.
    pub fn read(&self, reader: impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut reader = reader.take(self.most);
        let expected = self.announced.unwrap_or(2048).min(FREE);
        bytes.reserve_exact(expected as usize + 1);
        reader.by_ref().take(FREE).read_to_end(bytes)?;
        if (bytes.len() as u64) < FREE {
            return Ok(());
        }
        let needed = self.announced.unwrap_or(self.most).min(self.most);
        if self.share.take_now(needed) {
            if self.announced.is_some() {
                // Reserved at once, because a buffer that grows exists twice for a moment. If this fails, the body may
                // still be smaller.
                let left = (needed as usize).saturating_sub(bytes.len());
                let _ = bytes.try_reserve_exact(left.saturating_add(1));
            }
            let read = reader.read_to_end(bytes);
            self.share.keep(bytes.len() as u64);
            return read.map(drop);
        }
        // A server does not wait for ever until its reply is read, and this one is paid for.
        let (mut rest, read) = SetAside::of(reader, tempfile::tempfile().ok());
        let needed = bytes.len() as u64 + rest.length();
        match self.share.take(needed, self.ctx) {
            Err(error) if self.ctx.is_aborted() => return Err(io::Error::other(error)),
            // After a deadline no call starts, but this one has its reply.
            _ => rest.read_into(bytes)?,
        }
        read
    }
}

/// The part of a reply that waits for memory.
struct SetAside {
    file: Option<File>,
    /// The number of bytes in the file.
    filed: u64,
    /// What comes after them, if the disk had no space.
    held: Vec<u8>,
}

impl SetAside {
    /// Reads all that comes, also before a failure. What a file does not take is kept in memory, although there is too
    /// little.
    fn of(mut reader: impl Read, file: Option<File>) -> (Self, io::Result<()>) {
        let mut aside = Self {
            file,
            filed: 0,
            held: Vec::new(),
        };
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => return (aside, Ok(())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return (aside, Err(error)),
                Ok(read) => read,
            };
            let piece = &piece[..read];
            let file = aside.file.as_mut().filter(|_| aside.held.is_empty());
            match file.map(|file| file.write_all(piece)) {
                Some(Ok(())) => aside.filed += read as u64,
                _ => aside.held.extend_from_slice(piece),
            }
        }
    }

    fn length(&self) -> u64 {
        self.filed + self.held.len() as u64
    }

    fn read_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.reserve_exact(self.length() as usize);
        if let Some(file) = &mut self.file {
            file.rewind()?;
            file.take(self.filed).read_to_end(bytes)?;
        }
        bytes.append(&mut self.held);
        Ok(())
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
