//! Converts text in another encoding to UTF-8.

use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding};
use memchr::memchr_iter;

/// Number of bytes that are read at once.
const PIECE_BYTES: usize = 1 << 15;

/// A reader that converts the bytes of another reader to UTF-8.
pub(super) struct Decoded<R> {
    reader: R,
    encoding: &'static Encoding,
    decoder: Decoder,
    piece: Vec<u8>,
    /// The part of the piece that was not decoded yet.
    left: std::ops::Range<usize>,
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
            left: 0..0,
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
        while self.text.is_empty() && !(self.ended && self.left.is_empty()) {
            if self.left.is_empty() {
                let n = self.reader.read(&mut self.piece)?;
                self.left = 0..n;
                self.ended = n == 0;
            }
            self.text.resize(4 * PIECE_BYTES, 0);
            let piece = &self.piece[self.left.clone()];
            let (result, read, written) =
                self.decoder
                    .decode_to_utf8_without_replacement(piece, &mut self.text, self.ended);
            self.text.truncate(written);
            self.left.start += read;
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
