//! Replies that are compressed (RFC 9110, section 8.4), although no request accepts that.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use brotli_decompressor::Decompressor;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

use crate::base::zstd::Frames;

use super::headers::HttpHeaders;

/// Maximum number of compression layers; a reply with more of them is an attack.
const MOST_LAYERS: usize = 3;
/// The largest window of Zstandard data that a server may use (RFC 9659).
const MOST_WINDOW: u64 = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        })
    }
}

/// The layers of compression of a body, in the order in which they were applied.
pub(super) struct Encoding(Vec<Coding>);

impl Encoding {
    /// The encoding of a reply with these headers. `None` for a plain body, and for an encoding that is not
    /// known: then the body is used as it is.
    pub fn of(headers: &HttpHeaders) -> Option<Self> {
        let mut layers = Vec::new();
        for value in headers.all("content-encoding") {
            for name in std::str::from_utf8(value).ok()?.split(',') {
                layers.push(match name.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "deflate" => Coding::Deflate,
                    "br" => Coding::Brotli,
                    "zstd" => Coding::Zstd,
                    _ => return None,
                });
            }
        }
        (1..=MOST_LAYERS)
            .contains(&layers.len())
            .then_some(Self(layers))
    }

    /// Decompresses the data of `reader`. Damaged data is an error of [`io::ErrorKind::InvalidData`]; errors of
    /// `reader` are passed on.
    pub fn decoder<'r>(&self, reader: impl Read + 'r) -> Box<dyn Read + 'r> {
        let reader: Box<dyn Read + 'r> = Box::new(reader);
        self.0.iter().rev().fold(reader, |reader, coding| {
            let state = State::New(Some(BufReader::new(reader)));
            Box::new(Layer {
                coding: *coding,
                state,
            })
        })
    }

    /// The decompressed `body` up to the first damage and up to `most` bytes; true if it is complete.
    pub fn decoded(&self, body: &[u8], most: u64) -> (Vec<u8>, bool) {
        let mut decoded = Vec::new();
        let mut reader = self.decoder(body).take(most.saturating_add(1));
        let whole = reader.read_to_end(&mut decoded).is_ok() && decoded.len() as u64 <= most;
        decoded.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        (decoded, whole)
    }
}

/// One layer of compression.
struct Layer<'r> {
    coding: Coding,
    state: State<'r>,
}

type Source<'r> = BufReader<Box<dyn Read + 'r>>;

enum State<'r> {
    /// Nothing has been read yet.
    New(Option<Source<'r>>),
    Reading(Box<dyn Read + 'r>),
}

impl<'r> Layer<'r> {
    fn begin(coding: Coding, mut source: Source<'r>) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match (coding, source.fill_buf()?.first().copied()) {
            // An empty body has no encoding.
            (_, None) => Box::new(source),
            // A proxy that decompresses may leave the header. No compressed JSON begins with a brace: in Brotli it
            // would be an empty stream with wrong padding, in bare deflate data its text would begin with a byte above
            // 0xdf.
            (_, Some(b'{')) => Box::new(source),
            (Coding::Gzip, Some(first)) if first != 0x1f => Box::new(source),
            (Coding::Zstd, Some(first)) if !matches!(first, 0x28 | 0x50..=0x5f) => Box::new(source),
            (Coding::Gzip, _) => Box::new(Members(Some(GzDecoder::new(source)))),
            // The name means zlib data, but some servers send only the deflate data inside.
            (Coding::Deflate, Some(first)) if first & 0x8f == 8 => {
                Box::new(ZlibDecoder::new(source))
            }
            (Coding::Deflate, _) => Box::new(DeflateDecoder::new(source)),
            (Coding::Brotli, _) => Box::new(Decompressor::new(source, 4096)),
            (Coding::Zstd, _) => Box::new(Frames::new(source, MOST_WINDOW)),
        })
    }
}

/// Gzip data, member by member. Bytes after the last member, such as a line end or zeros, are ignored.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            // The second byte may not be there yet.
            let next = member.get_mut().fill_buf()?;
            let begins = next.first() == Some(&0x1f) && next.get(1).is_none_or(|id| *id == 0x8b);
            let ended = self.0.take().filter(|_| begins);
            self.0 = ended.map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

impl Read for Layer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let State::New(source) = &mut self.state
            && let Some(source) = source.take()
        {
            self.state = State::Reading(Self::begin(self.coding, source)?);
        }
        let State::Reading(reader) = &mut self.state else {
            return Ok(0);
        };
        reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported => {
                let why = format!("its {} data is damaged: {error}", self.coding);
                io::Error::new(io::ErrorKind::InvalidData, why)
            }
            _ => error,
        })
    }
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
