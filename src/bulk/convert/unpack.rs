//! Unpacks text that is compressed with gzip or Zstandard, which its first bytes show, and converts other encodings to
//! UTF-8.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use encoding_rs::{Decoder, DecoderResult, Encoding};
use flate2::bufread::MultiGzDecoder;
use memchr::memchr_iter;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub(super) enum Packing {
    #[strum(serialize = "gzip")]
    Gzip,
    #[strum(serialize = "Zstandard")]
    Zstd,
}

impl Packing {
    /// The name of the file inside of a file with this name.
    pub(super) fn named(path: &Path) -> Option<PathBuf> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let is_packed = ["gz", "zst"].contains(&extension.as_str());
        is_packed.then(|| path.with_extension(""))
    }

    /// The format of data with these first bytes.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // A frame of data, or a frame to skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Number of bytes that show the format.
const MAGIC_BYTES: u64 = 4;

/// A reader that unpacks the data of another reader if it is compressed.
pub(super) fn unpacked<'r>(mut reader: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut start = Vec::new();
    reader.by_ref().take(MAGIC_BYTES).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let whole = BufReader::with_capacity(1 << 16, Cursor::new(start).chain(reader));
    Ok(match packing {
        None => Box::new(whole),
        Some(Packing::Gzip) => Box::new(Unpacked(Packing::Gzip, MultiGzDecoder::new(whole))),
        Some(Packing::Zstd) => {
            let frames = Frames {
                source: whole,
                decoder: FrameDecoder::new(),
                within: false,
            };
            Box::new(Unpacked(Packing::Zstd, frames))
        }
    })
}

/// Names the format in errors.
struct Unpacked<R>(Packing, R);

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.read(buffer).map_err(|error| broken(self.0, error))
    }
}

/// The frames of Zstandard data, one after the other.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    /// Starts the next frame with data; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            // A reused decoder accepts only smaller windows.
            self.decoder = FrameDecoder::new();
            let skipped = match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(invalid(error)),
            };
            if io::copy(&mut (&mut self.source).take(skipped), &mut io::sink())? < skipped {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(false)
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
                decoded.map_err(invalid)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() || !self.decoder.is_finished() {
                return Ok(read);
            }
            let told = self.decoder.get_checksum_from_data();
            if told.is_some() && told != self.decoder.get_calculated_checksum() {
                return Err(invalid("its checksum differs"));
            }
            self.within = false;
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Distinguishes damaged data from a failure to read it.
fn broken(packing: Packing, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            io::Error::new(
                error.kind(),
                format!("the {packing} data is damaged or cut off ({error})"),
            )
        }
        _ => error,
    }
}

/// Number of bytes that are read at once.
const PIECE_BYTES: usize = 1 << 15;

/// A reader that converts the bytes of another reader to UTF-8.
pub(super) struct Decoded<R> {
    reader: R,
    encoding: &'static Encoding,
    decoder: Decoder,
    piece: Vec<u8>,
    ended: bool,
    text: Vec<u8>,
    /// The part of the text that was returned.
    given: usize,
    line: u64,
}

impl<R: Read> Decoded<R> {
    pub(super) fn new(reader: R, encoding: &'static Encoding) -> Self {
        Self {
            reader,
            encoding,
            decoder: encoding.new_decoder(),
            piece: vec![0; PIECE_BYTES],
            ended: false,
            text: Vec::new(),
            given: 0,
            line: 1,
        }
    }

    /// Decodes the next piece; an empty text means the end.
    fn next(&mut self) -> io::Result<()> {
        self.line += memchr_iter(b'\n', &self.text).count() as u64;
        self.given = 0;
        self.text.clear();
        while self.text.is_empty() && !self.ended {
            let n = self.reader.read(&mut self.piece)?;
            self.ended = n == 0;
            // Each byte becomes at most three.
            self.text.resize(4 * PIECE_BYTES, 0);
            let (piece, text) = (&self.piece[..n], &mut self.text);
            let decoder = &mut self.decoder;
            let (result, _, written) =
                decoder.decode_to_utf8_without_replacement(piece, text, self.ended);
            self.text.truncate(written);
            if let DecoderResult::Malformed(..) = result {
                let line = self.line + memchr_iter(b'\n', &self.text).count() as u64;
                let name = self.encoding.name();
                let found = format!("found bytes on line {line} that are not {name}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, found));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.text.len() {
            self.next()?;
        }
        let n = (&self.text[self.given..]).read(buffer)?;
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// A frame that readers must skip.
    const SKIPPED: &[u8] = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";

    /// Returns its bytes in pieces of this size.
    struct Pieces<'b>(&'b [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    fn unpacked(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        super::unpacked(Pieces(bytes, piece))?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn consecutive_members_and_frames_are_read() {
        let text: Vec<u8> = (0..300_000_u32)
            .flat_map(|i| (i % 977).to_le_bytes())
            .collect();
        for whole in [
            [gzip(&text), gzip(b""), gzip(b"end")].concat(),
            [zstd(&text), zstd(b""), SKIPPED.to_vec(), zstd(b"end")].concat(),
            [SKIPPED, &zstd(&text), &zstd(b"end"), SKIPPED].concat(),
        ] {
            for piece in [1 << 20, 4096] {
                let found = unpacked(&whole, piece).unwrap();
                assert!(found.len() == text.len() + 3 && found.starts_with(&text));
            }
        }
    }

    #[test]
    fn other_data_after_gzip_data_is_an_error() {
        let whole = [&gzip(b"a")[..], b"garbage"].concat();
        let error = unpacked(&whole, 7).unwrap_err().to_string();
        assert!(error.contains("damaged or cut off"), "{error}");
    }

    #[test]
    fn truncated_and_damaged_data_is_rejected() {
        let text = b"some text, some text, some more text";
        for whole in [
            gzip(text),
            zstd(text),
            [zstd(text), SKIPPED.to_vec()].concat(),
        ] {
            for end in 4..whole.len() {
                // Complete frames are complete data.
                if end == zstd(text).len() && Packing::of(&whole) == Some(Packing::Zstd) {
                    continue;
                }
                let error = unpacked(&whole[..end], 7).unwrap_err().to_string();
                assert!(error.contains("damaged or cut off"), "{end}: {error}");
            }
        }
        for (mut damaged, from_end) in [(gzip(text), 6), (zstd(text), 1)] {
            let at = damaged.len() - from_end;
            damaged[at] ^= 1;
            let error = unpacked(&damaged, 1024).unwrap_err().to_string();
            assert!(error.contains("damaged or cut off"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_not_unpacked(
            start in prop::sample::select(vec![&b""[..], b"(", b"P*M", b"\x1f\x8b", b"\x28\xb5"]),
            rest: Vec<u8>,
            piece in 1..9_usize,
        ) {
            let bytes = [start, &rest].concat();
            prop_assume!(Packing::of(&bytes).is_none());
            prop_assert_eq!(unpacked(&bytes, piece).unwrap(), bytes);
        }
    }
}

#[cfg(test)]
mod decode_tests {
    use super::*;

    fn decoded(label: &str, bytes: &[u8]) -> Result<String, String> {
        let mut text = String::new();
        let encoding = Encoding::for_label(label.as_bytes());
        match Decoded::new(bytes, encoding.expect(label)).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn encodings_of_other_programs_are_read() {
        let units = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        let utf16: Vec<u8> = units("\u{feff}Größe\n😀")
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        let big: Vec<u8> = units("\u{feff}ü")
            .into_iter()
            .flat_map(u16::to_be_bytes)
            .collect();
        for (label, bytes, text) in [
            ("cp1252", &b"\x80 Gr\xf6\xdfe \x93q\x94"[..], "€ Größe “q”"),
            ("latin1", b"\xe9t\xe9\n", "été\n"),
            ("shift_jis", b"\x93\xfa\x96{", "日本"),
            ("utf-16", &utf16, "Größe\n😀"),
            ("utf-16le", &utf16, "Größe\n😀"),
            ("utf-16", &big, "ü"),
            ("windows-1252", "\u{feff}ü".as_bytes(), "ü"),
            ("windows-1252", b"", ""),
        ] {
            assert_eq!(decoded(label, bytes).as_deref(), Ok(text), "{label}");
        }
        let long = b"\xfc\n".repeat(3 * PIECE_BYTES);
        assert_eq!(
            decoded("latin1", &long).unwrap(),
            "ü\n".repeat(3 * PIECE_BYTES)
        );
    }

    #[test]
    fn invalid_bytes_are_rejected_with_their_line() {
        for bytes in [&b"a\nb\n\xff"[..], b"a\nb\n\x93"] {
            let error = decoded("shift_jis", bytes).unwrap_err();
            assert_eq!(error, "found bytes on line 3 that are not Shift_JIS");
        }
        let odd = decoded("utf-16le", b"a\0b").unwrap_err();
        assert_eq!(odd, "found bytes on line 1 that are not UTF-16LE");
    }
}
