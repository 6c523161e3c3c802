//! Bytes that were received and not read yet.

use std::io::{self, Read};

/// Number of bytes that are received at once, or sent at once of a request.
pub(super) const BUFFER: usize = 16 * 1024;

/// The size of a piece of a large body.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes that were received and not read yet.
#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Reads unread bytes, or receives new ones; returns 0 at the end of the connection.
    pub fn read(&mut self, from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread().is_empty() {
            if buffer.len() >= BUFFER {
                return from.read(buffer);
            }
            self.fill(from)?;
        }
        let unread = self.unread();
        let read = unread.len().min(buffer.len());
        buffer[..read].copy_from_slice(&unread[..read]);
        self.consume(read);
        Ok(read)
    }

    /// Receives into the buffer, which grows if it is full of unread bytes.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == 0 && self.buffer.len() > BUFFER {
            // It grew for one head.
            self.buffer = Vec::new();
        }
        if self.end == self.buffer.len() {
            let size = (2 * self.buffer.len()).max(BUFFER);
            self.buffer.resize(size, 0);
        }
        let read = from.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }
}
