//! Where the body of a reply ends (RFC 9112, sections 6 and 7).

use std::io::{self, Read};

use super::fault::Fault;
use super::input::Input;

/// Maximum length in bytes of a line with the size of a chunk. Only extensions make it longer, and no server is
/// known to use them.
const MOST_OF_SIZE: usize = 4 * 1024;
/// The most bytes of the fields behind the last chunk.
const MOST_OF_TRAILERS: usize = 64 * 1024;

/// How the rest of a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// The number of bytes that are left.
    Known(u64),
    Chunked(Chunked),
    /// The connection ends with it.
    UntilClose,
}

/// What comes next of a body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunked {
    Size,
    /// The number of bytes that are left of a chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    LineEnd,
    /// The fields behind the last chunk, with the number of their bytes that were read.
    Trailers(usize),
    End,
}

/// What to do next.
enum Next {
    /// Read bytes of the body, at most this number.
    Data(u64),
    /// Receive more.
    Receive,
    End,
}

impl BodyLength {
    pub fn of(status: u16, fields: &[httparse::Header<'_>]) -> Result<Self, Fault> {
        if (100..200).contains(&status) || matches!(status, 204 | 304) {
            return Ok(Self::Known(0));
        }
        let all = |name: &'static str| {
            let fields = fields.iter();
            fields.filter(move |field| field.name.eq_ignore_ascii_case(name))
        };
        let codings = all("transfer-encoding").flat_map(|field| field.value.split(|b| *b == b','));
        let last = codings
            .last()
            .map(|coding| coding.trim_ascii().to_ascii_lowercase());
        match last.as_deref() {
            Some(b"chunked") => return Ok(Self::Chunked(Chunked::Size)),
            None | Some(b"identity") => {}
            Some(_) => return Ok(Self::UntilClose),
        }
        let mut length = None;
        for field in all("content-length") {
            for value in field.value.split(|byte| *byte == b',') {
                let value = number(value.trim_ascii(), 10);
                let value = value.ok_or(Fault::BadReply("its content-length is not a number"))?;
                if length.is_some_and(|known| known != value) {
                    return Err(Fault::BadReply("it has two different lengths"));
                }
                length = Some(value);
            }
        }
        Ok(length.map_or(Self::UntilClose, Self::Known))
    }

    /// The length in the head, as long as nothing has been read.
    pub fn announced(&self) -> Option<u64> {
        match self {
            Self::Known(length) => Some(*length),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Whether all of it has been read, and the connection can be used again.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Known(0) | Self::Chunked(Chunked::End))
    }

    /// Reads a part of the body; nothing at its end.
    ///
    /// # Errors
    /// Also when the connection ends before the body.
    pub fn read(
        &mut self,
        input: &mut Input,
        from: &mut impl Read,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let most = loop {
            match self.next(input)? {
                Next::Data(most) => break most,
                Next::End => return Ok(0),
                Next::Receive if input.fill(from)? > 0 => {}
                Next::Receive => return Err(Fault::cut().into()),
            }
        };
        let most = buffer
            .len()
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = input.read(from, &mut buffer[..most])?;
        if read == 0 && *self != Self::UntilClose {
            return Err(Fault::cut().into());
        }
        self.took(read);
        Ok(read)
    }

    /// Reads the framing between the parts of the body.
    fn next(&mut self, input: &mut Input) -> Result<Next, Fault> {
        let chunked = match self {
            Self::Known(0) => return Ok(Next::End),
            Self::Known(left) => return Ok(Next::Data(*left)),
            Self::UntilClose => return Ok(Next::Data(u64::MAX)),
            Self::Chunked(chunked) => chunked,
        };
        loop {
            let most = match chunked {
                Chunked::Data(left) => return Ok(Next::Data(*left)),
                Chunked::End => return Ok(Next::End),
                Chunked::Size | Chunked::LineEnd => MOST_OF_SIZE,
                Chunked::Trailers(read) => MOST_OF_TRAILERS.saturating_sub(*read),
            };
            let unread = input.unread();
            let Some(end) = memchr::memchr(b'\n', unread) else {
                if unread.len() >= most {
                    return Err(Fault::BadReply("a line between its chunks does not end"));
                }
                return Ok(Next::Receive);
            };
            let line = unread[..end].trim_ascii();
            *chunked = match chunked {
                Chunked::Size => {
                    let size = line.split(|byte| *byte == b';').next();
                    let size = size.and_then(|size| number(size.trim_ascii_end(), 16));
                    match size.ok_or(Fault::BadReply("the size of a chunk is not a number"))? {
                        0 => Chunked::Trailers(0),
                        size => Chunked::Data(size),
                    }
                }
                Chunked::LineEnd if line.is_empty() => Chunked::Size,
                Chunked::Trailers(_) if line.is_empty() => Chunked::End,
                Chunked::Trailers(read) if end < most => Chunked::Trailers(*read + end + 1),
                _ => return Err(Fault::BadReply("a chunk does not end where it should")),
            };
            input.consume(end + 1);
        }
    }

    /// Counts bytes of the body that were read.
    fn took(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        match self {
            Self::Known(left) => *left -= bytes,
            Self::Chunked(Chunked::Data(left)) if *left > bytes => *left -= bytes,
            Self::Chunked(chunked) => *chunked = Chunked::LineEnd,
            Self::UntilClose => {}
        }
    }
}

/// A number that consists only of digits.
fn number(digits: &[u8], base: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    let is_digits = digits.chars().all(|digit| digit.is_digit(base));
    u64::from_str_radix(digits, base).ok().filter(|_| is_digits)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
