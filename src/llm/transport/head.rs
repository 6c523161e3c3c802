//! Heads of replies that are larger than ureq reads: it takes at most 128 lines, and what its buffer holds.
//!
//! Such a head is collected here, and ureq gets a short one in its place, with the headers that say where
//! the body ends. The reply's headers are those that were collected.

use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use ureq::unversioned::transport::Buffers;

/// The most bytes and lines that the head of a reply may have. The headers of a larger one are read up to
/// these limits.
pub(super) const MOST_BYTES: usize = 64 * 1024;
pub(super) const MOST_LINES: usize = 256;
/// A head that does not end within these bytes ends its call.
const ENDLESS: usize = 1024 * 1024;
/// Lines that ureq reads.
const UREQ_LINES: usize = 128;
/// Longer lines say nothing of where a body ends.
const FRAMING_BYTES: usize = 128;

/// The headers of a reply whose head ureq cannot read.
pub(super) struct LargeHead {
    pub headers: HeaderMap,
    /// The head is within the limits.
    pub whole: bool,
}

/// Watches what comes on a connection until the head of a call's reply has come.
#[derive(Default)]
pub(super) struct HeadWatch {
    state: State,
    /// What came behind a large head and is not in the buffer yet.
    pending: Vec<u8>,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Collecting(Vec<u8>),
    Done,
}

impl HeadWatch {
    /// Whether bytes are left that ureq does not know of.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Gives ureq what came behind a large head; false if there is nothing of it.
    pub fn refill(&mut self, buffers: &mut dyn Buffers) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let room = buffers.input_append_buf();
        let piece = room.len().min(self.pending.len());
        room[..piece].copy_from_slice(&self.pending[..piece]);
        buffers.input_appended(piece);
        self.pending.drain(..piece);
        piece > 0
    }

    /// Looks at what has come. Returns the headers of a large head once it is complete.
    ///
    /// # Errors
    /// When the head does not end.
    pub fn look(&mut self, buffers: &mut dyn Buffers) -> Result<Option<LargeHead>, ureq::Error> {
        if let State::Waiting = self.state {
            self.state = Self::wait(buffers);
        }
        let State::Collecting(head) = &mut self.state else {
            return Ok(None);
        };
        let seen = head.len().saturating_sub(3);
        let input = buffers.input();
        let read = input.len();
        head.extend_from_slice(input);
        buffers.input_consume(read);
        let Some(end) = end_of_head(&head[seen..]) else {
            return if head.len() > ENDLESS {
                Err(ureq::Error::LargeResponseHeader(head.len(), MOST_BYTES))
            } else {
                Ok(None)
            };
        };
        self.pending = head.split_off(seen + end);
        let head = std::mem::take(head);
        if is_interim(&head) {
            self.state = State::Waiting;
            // All of it fits: it came in one read, and the buffer is empty.
            self.refill(buffers);
            return self.look(buffers);
        }
        self.state = State::Done;
        let (large, short) = shortened(&head);
        let room = buffers.input_append_buf();
        room[..short.len()].copy_from_slice(&short);
        buffers.input_appended(short.len());
        Ok(Some(large))
    }

    fn wait(buffers: &mut dyn Buffers) -> State {
        loop {
            let has_room = !buffers.input_append_buf().is_empty();
            let input = buffers.input();
            // Within a tunnel this is not HTTP.
            if !input.starts_with(&b"HTTP/1."[..input.len().min(7)]) {
                return State::Done;
            }
            let end = end_of_head(input);
            let head = &input[..end.unwrap_or(input.len())];
            // ureq counts the lines of a head that is not complete, too.
            let is_small = lines(head).count() <= UREQ_LINES;
            match end {
                Some(end) if is_interim(head) => buffers.input_consume(end),
                Some(_) if is_small => return State::Done,
                None if is_small && has_room => return State::Waiting,
                _ => return State::Collecting(Vec::new()),
            }
        }
    }
}

/// Where the empty line behind a head ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// The lines of headers, without the status and the empty line.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

/// Whether another head follows (status 1xx).
fn is_interim(head: &[u8]) -> bool {
    head.get(9) == Some(&b'1')
}

/// The headers of a head, and the head that ureq reads in its place.
fn shortened(head: &[u8]) -> (LargeHead, Vec<u8>) {
    let mut large = LargeHead {
        headers: HeaderMap::new(),
        whole: head.len() <= MOST_BYTES,
    };
    // HTTP fixes the places of the version and the status.
    let mut short = head[..head.len().min(12)].to_vec();
    short.extend_from_slice(b" \r\n");
    let mut read = 0;
    for (number, line) in lines(head).enumerate() {
        read += line.len();
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let framing = [&b"content-length"[..], b"transfer-encoding", b"connection"];
        let is_framing = framing.iter().any(|own| own.eq_ignore_ascii_case(name));
        if is_framing && line.len() <= FRAMING_BYTES && short.len() < 32 * FRAMING_BYTES {
            short.extend_from_slice(line);
            short.extend_from_slice(b"\r\n");
        }
        large.whole &= number < MOST_LINES;
        let header = HeaderName::from_bytes(name)
            .ok()
            .zip(HeaderValue::from_bytes(value).ok());
        if let Some((name, value)) = header
            && number < MOST_LINES
            && read <= MOST_BYTES
        {
            large.headers.append(name, value);
        }
    }
    short.extend_from_slice(b"\r\n");
    (large, short)
}
