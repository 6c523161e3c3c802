//! Zstandard data, frame by frame.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The frames of Zstandard data, one after the other.
pub(crate) struct Frames<R> {
    source: Ending<R>,
    most_window: u64,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    /// Reads the frames in `source` whose windows have at most `most_window` bytes.
    pub(crate) fn new(source: R, most_window: u64) -> Self {
        Self {
            most_window,
            source: Ending {
                reader: source,
                ended: false,
                trouble: None,
            },
            decoder: FrameDecoder::new(),
            within: false,
        }
    }

    /// Starts the next frame with data; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        while !self.source.reader.fill_buf()?.is_empty() {
            let header = match Header::read(&mut self.source.reader)? {
                Header::Data { bytes, window } if window <= self.most_window => bytes,
                Header::Data { window, .. } => return Err(too_large(window, self.most_window)),
                Header::Skipped(length) => {
                    let mut frame = (&mut self.source.reader).take(length);
                    if io::copy(&mut frame, &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    continue;
                }
            };
            // A reused decoder accepts only smaller windows.
            self.decoder = FrameDecoder::new();
            let begun = self.decoder.reset(&header[..]);
            begun.map_err(|error| self.source.cause(error))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn check_sum(&self) -> io::Result<()> {
        let (told, found) = (
            self.decoder.get_checksum_from_data(),
            self.decoder.get_calculated_checksum(),
        );
        if told.is_none() || told == found {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its checksum differs",
            ))
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within && !self.next()? {
                return Ok(0);
            }
            self.within = true;
            while !self.decoder.is_finished() && self.decoder.can_collect() < buffer.len() {
                let wanted = buffer.len() - self.decoder.can_collect();
                let strategy = BlockDecodingStrategy::UptoBytes(wanted);
                let decoded = self.decoder.decode_blocks(&mut self.source, strategy);
                decoded.map_err(|error| self.source.cause(error))?;
            }
            match self.decoder.read(buffer)? {
                0 if self.decoder.is_finished() && !buffer.is_empty() => {
                    self.check_sum()?;
                    self.within = false;
                }
                n => return Ok(n),
            }
        }
    }
}

/// The start of a frame (RFC 8878, section 3.1).
enum Header {
    /// A frame to skip, with its length in bytes.
    Skipped(u64),
    Data {
        bytes: Vec<u8>,
        window: u64,
    },
}

impl Header {
    fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut bytes = vec![0; 5];
        reader.read_exact(&mut bytes)?;
        let descriptor = match bytes[..] {
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, first] => {
                let mut length = [first, 0, 0, 0];
                reader.read_exact(&mut length[1..])?;
                return Ok(Self::Skipped(u32::from_le_bytes(length).into()));
            }
            [0x28, 0xb5, 0x2f, 0xfd, descriptor] => descriptor,
            _ => return Ok(Self::Data { bytes, window: 0 }),
        };
        let has_one_segment = descriptor & 0x20 != 0;
        let of_window = usize::from(!has_one_segment);
        let of_dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let of_content = match descriptor >> 6 {
            0 => usize::from(has_one_segment),
            n => 1 << n,
        };
        let rest = bytes.len();
        bytes.resize(rest + of_window + of_dictionary + of_content, 0);
        reader.read_exact(&mut bytes[rest..])?;
        let window = if has_one_segment {
            let mut content = [0; 8];
            content[..of_content].copy_from_slice(&bytes[rest + of_dictionary..]);
            u64::from_le_bytes(content)
        } else {
            let (exponent, mantissa) = (bytes[rest] >> 3, bytes[rest] & 7);
            let base = 1 << (10 + exponent);
            base + base / 8 * u64::from(mantissa)
        };
        Ok(Self::Data { bytes, window })
    }
}

fn too_large(window: u64, most: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "unpacking it takes a window of {} MiB, of at most {}: compress with --long=27 at most",
            window >> 20,
            most >> 20
        ),
    )
}

/// Stores the error with which its reader ended, because the decoder's errors do not distinguish that from damage.
struct Ending<R> {
    reader: R,
    ended: bool,
    trouble: Option<io::Error>,
}

impl<R> Ending<R> {
    fn cause(&mut self, error: FrameDecoderError) -> io::Error {
        match (self.trouble.take(), self.ended) {
            (Some(trouble), _) => trouble,
            (None, true) => io::ErrorKind::UnexpectedEof.into(),
            (None, false) => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        }
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        match &read {
            Ok(0) => self.ended |= !buffer.is_empty(),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.trouble = Some(io::Error::new(error.kind(), error.to_string()));
            }
            _ => {}
        }
        read
    }
}
