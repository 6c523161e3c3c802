//! The body of a reply, read into memory when there is memory for it.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::base::Context;

use super::memory::{FREE, ReplyShare};

/// Reads a body.
pub(super) struct BodyReader<'a> {
    /// The length in the header of the reply. The server may send less.
    pub announced: Option<u64>,
    /// The maximum number of bytes to read.
    pub most: u64,
    pub share: &'a ReplyShare,
    pub ctx: &'a Context,
    /// Gets the time in which the body was not read, because other calls held the memory.
    pub paused: &'a dyn Fn(Duration),
}

impl BodyReader<'_> {
    pub fn read(&self, reader: impl Read) -> io::Result<Vec<u8>> {
        let mut reader = reader.take(self.most);
        let expected = self.announced.unwrap_or(2048).min(FREE);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        reader.by_ref().take(FREE).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < FREE {
            return Ok(bytes);
        }
        let announced = self.announced.unwrap_or(self.most);
        let needed = announced.min(self.most);
        let began = Instant::now();
        let taken = self.share.take(needed, self.ctx);
        taken.map_err(io::Error::other)?;
        (self.paused)(began.elapsed());
        if self.announced.is_some() {
            // Reserved at once, because a buffer that grows exists twice for a moment. If this fails, the body may still
            // be smaller.
            let left = (needed as usize).saturating_sub(bytes.len());
            let _ = bytes.try_reserve_exact(left.saturating_add(1));
        }
        reader.read_to_end(&mut bytes)?;
        self.share.keep(bytes.len() as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
