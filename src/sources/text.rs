//! The text of a file: reading it, its encoding, and the check that it is a text. A Python file may declare an
//! encoding (PEP 263); all other files are UTF-8.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use encoding_rs::{Decoder, DecoderResult, Encoding};
use memchr::{memchr, memchr_iter, memchr2};

use super::info::SkipReason;

/// Number of bytes that are read at a time.
const PIECE_BYTES: usize = 64 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The encoding of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Charset {
    Utf8,
    /// If a file declares this, Python accepts only ASCII.
    Ascii,
    /// Each byte is the character with that number; the web's `latin1` is another encoding.
    Latin1,
    Other(&'static Encoding),
}

impl Charset {
    fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Ascii => "ASCII",
            Self::Latin1 => "ISO-8859-1",
            Self::Other(encoding) => encoding.name(),
        }
    }

    /// The text of valid bytes in this encoding.
    fn text(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Latin1 => encoding_rs::mem::decode_latin1(bytes),
            Self::Other(encoding) => encoding.decode_without_bom_handling(bytes).0,
            Self::Utf8 | Self::Ascii => String::from_utf8_lossy(bytes),
        }
    }

    /// The encoding with this name in Python.
    fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        Some(match name.as_str() {
            "utf8" | "utf-8" | "u8" | "utf-8-sig" | "cp65001" => Self::Utf8,
            "ascii" | "us-ascii" | "646" => Self::Ascii,
            "latin-1" | "latin1" | "latin" | "l1" | "8859" | "cp819" => Self::Latin1,
            "iso-8859-1" | "iso8859-1" | "iso-latin-1" => Self::Latin1,
            // Python rejects encodings that do not include ASCII.
            name if name.starts_with("utf-16") || name.starts_with("utf-32") => return None,
            name => {
                let label = match name.strip_prefix("cp") {
                    Some("932") => "windows-31j".to_owned(),
                    Some("936") => "gbk".to_owned(),
                    Some("949") => "windows-949".to_owned(),
                    Some("950") => "big5".to_owned(),
                    _ => name.to_owned(),
                };
                let found = |label: &str| Encoding::for_label_no_replacement(label.as_bytes());
                Self::Other(found(&label).or_else(|| found(&label.replace('-', "_")))?)
            }
        })
    }

    /// The encoding of a file whose text, after its byte order mark, begins like this.
    fn of(path: &Path, start: &[u8], marked: bool) -> Result<Self, SkipReason> {
        let extension = path.extension().unwrap_or_default();
        if !["py", "pyi", "pyw"]
            .iter()
            .any(|python| extension.eq_ignore_ascii_case(python))
        {
            return Ok(Self::Utf8);
        }
        let Some(name) = declared(start) else {
            return Ok(Self::Utf8);
        };
        match Self::named(&name) {
            Some(charset) if charset != Self::Utf8 && marked => Err(SkipReason::Encoding(format!(
                "it declares the encoding {name} and has the byte order mark of UTF-8"
            ))),
            Some(charset) => Ok(charset),
            None => Err(SkipReason::Encoding(format!(
                "it declares the encoding {name}, which is unknown"
            ))),
        }
    }
}

/// The encoding that a comment on one of the first two lines declares: `# -*- coding: latin-1 -*-`.
fn declared(start: &[u8]) -> Option<String> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\x0c');
    let mut rest = start;
    for _ in 0..2 {
        let line = memchr2(b'\n', b'\r', rest).map_or(rest, |end| &rest[..end]);
        rest = &rest[line.len()..];
        rest = rest
            .strip_prefix(b"\r\n")
            .unwrap_or_else(|| rest.get(1..).unwrap_or_default());
        let begin = line
            .iter()
            .position(|byte| !blank(byte))
            .unwrap_or(line.len());
        let Some(comment) = line[begin..].strip_prefix(b"#") else {
            if begin == line.len() {
                continue;
            } else {
                return None;
            }
        };
        let found = memchr::memmem::find_iter(comment, b"coding").find_map(|at| {
            let rest = &comment[at + b"coding".len()..];
            let rest = rest
                .strip_prefix(b":")
                .or_else(|| rest.strip_prefix(b"="))?;
            let rest = rest.trim_ascii_start();
            let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            let end = rest
                .iter()
                .position(|byte| !letter(byte))
                .unwrap_or(rest.len());
            (end > 0).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

fn unreadable(error: &io::Error) -> SkipReason {
    SkipReason::Unreadable(error.to_string())
}

/// Opens a path that must be a regular file. Since the scan, it may have been replaced by a pipe, which would block
/// until somebody writes to it, or by a link to another file.
pub(crate) fn open_regular(path: &Path, follow: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;

        let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        flags.set(OFlags::NOFOLLOW, !follow);
        options.custom_flags(flags.bits() as i32);
    }
    #[cfg(not(unix))]
    if !follow && path.is_symlink() {
        return Err(io::Error::other(SkipReason::SymbolicLink.to_string()));
    }
    let file = options.open(path)?;
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok(file),
        false if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        false => Err(io::Error::other(SkipReason::NotAFile.to_string())),
    }
}

fn opened(path: &Path, follow: bool) -> Result<File, SkipReason> {
    open_regular(path, follow).map_err(|error| match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() && !follow => SkipReason::SymbolicLink,
        Ok(found) if !(found.is_file() || found.is_dir() || found.is_symlink()) => {
            SkipReason::NotAFile
        }
        _ => unreadable(&error),
    })
}

/// Checks whether a file is a text; reads it once, piece by piece.
pub(super) fn check(path: &Path, limit: u64, follow: bool) -> Result<(), SkipReason> {
    let file = opened(path, follow)?;
    read_through(path, &file, limit, PIECE_BYTES, |_| Ok(())).map(drop)
}

/// Passes on the text of a file without its byte order mark, piece by piece, up to the first piece that is not
/// text.
fn read_through(
    path: &Path,
    file: &File,
    limit: u64,
    piece: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), SkipReason>,
) -> Result<Charset, SkipReason> {
    let mut file = file.take(limit.saturating_add(1));
    let mut piece = vec![0; piece];
    let mut validator: Option<Validator> = None;
    let mut read = 0u64;
    loop {
        let n = fill(&mut file, &mut piece).map_err(|error| unreadable(&error))?;
        read += n as u64;
        // It may have grown since its size was read.
        if read > limit {
            return Err(SkipReason::TooLarge { limit });
        }
        let bytes = &piece[..n];
        if memchr(0, bytes).is_some() {
            return Err(SkipReason::Binary);
        }
        let last = n < piece.len();
        let (validator, bytes) = match &mut validator {
            Some(validator) => (validator, bytes),
            none => {
                let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
                let charset = Charset::of(path, text, text.len() < n)?;
                (none.insert(Validator::new(charset)), text)
            }
        };
        validator.check(bytes, last)?;
        take(bytes)?;
        if last {
            return Ok(validator.charset);
        }
    }
}

fn fill(reader: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match reader.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Checks a text piece by piece.
struct Validator {
    charset: Charset,
    /// The first bytes of a character that continues in the next piece.
    begun: Vec<u8>,
    decoder: Option<Decoder>,
    line: u64,
}

impl Validator {
    fn new(charset: Charset) -> Self {
        let decoder = match charset {
            Charset::Other(encoding) => Some(encoding.new_decoder_without_bom_handling()),
            _ => None,
        };
        Self {
            charset,
            begun: Vec::new(),
            decoder,
            line: 1,
        }
    }

    fn check(&mut self, bytes: &[u8], last: bool) -> Result<(), SkipReason> {
        let bad = match (self.charset, &mut self.decoder) {
            (Charset::Latin1, _) => None,
            (Charset::Ascii, _) => bytes.iter().position(|byte| !byte.is_ascii()),
            (_, Some(decoder)) => malformed(decoder, bytes, last),
            (_, None) => self.not_utf8(bytes, last),
        };
        let lines = |bytes: &[u8]| memchr_iter(b'\n', bytes).count() as u64;
        match bad {
            Some(at) => Err(SkipReason::NotUtf8 {
                encoding: self.charset.name(),
                line: self.line + lines(&bytes[..at]),
            }),
            None => {
                self.line += lines(bytes);
                Ok(())
            }
        }
    }

    /// The first position that is not UTF-8, if it can be determined before the next piece.
    fn not_utf8(&mut self, bytes: &[u8], last: bool) -> Option<usize> {
        let mut from = 0;
        while !self.begun.is_empty() && from < bytes.len() {
            self.begun.push(bytes[from]);
            from += 1;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) if error.error_len().is_some() => return Some(0),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(&bytes[from..]) {
            Ok(_) => {}
            Err(error) if error.error_len().is_some() => return Some(from + error.valid_up_to()),
            Err(error) => self
                .begun
                .extend_from_slice(&bytes[from + error.valid_up_to()..]),
        }
        (last && !self.begun.is_empty()).then_some(bytes.len())
    }
}

/// The first position that is invalid in the encoding.
fn malformed(decoder: &mut Decoder, bytes: &[u8], last: bool) -> Option<usize> {
    let mut text = [0; 4096];
    let mut at = 0;
    loop {
        let (result, read, _) =
            decoder.decode_to_utf8_without_replacement(&bytes[at..], &mut text, last);
        at += read;
        match result {
            DecoderResult::InputEmpty => return None,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => return Some(at.saturating_sub(1)),
        }
    }
}

/// The text of a file, without a byte order mark.
pub(super) fn read(path: &Path, limit: u64, follow: bool) -> Result<String, SkipReason> {
    let file = opened(path, follow)?;
    let size = file.metadata().map_or(0, |found| found.len());
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let piece = size.saturating_add(1).clamp(4 << 10, PIECE_BYTES);
    let mut bytes = Vec::new();
    let charset = read_through(path, &file, limit, piece, |piece| {
        // The rest of the file in one read, because its beginning is a text.
        let left = size.saturating_sub(bytes.len()).max(piece.len());
        let room = bytes.try_reserve(left);
        room.map_err(|_| {
            SkipReason::Unreadable(format!("not enough memory for its {size} bytes"))
        })?;
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(match charset {
        Charset::Utf8 | Charset::Ascii => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        },
        _ => charset.text(&bytes).into_owned(),
    })
}

/// The text of these bytes of a file with this name.
pub(crate) fn decode<'b>(path: &Path, bytes: &'b [u8]) -> Result<Cow<'b, str>, SkipReason> {
    if memchr(0, bytes).is_some() {
        return Err(SkipReason::Binary);
    }
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let charset = Charset::of(path, text, text.len() < bytes.len())?;
    if let (Charset::Utf8, Ok(text)) = (charset, std::str::from_utf8(text)) {
        return Ok(Cow::Borrowed(text));
    }
    Validator::new(charset).check(text, true)?;
    Ok(charset.text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(name: &str, bytes: &[u8]) -> Result<String, SkipReason> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = read(&path, 1 << 20, false);
        assert_eq!(
            check(&path, 1 << 20, false).err(),
            text.as_ref().err().cloned(),
            "{name}"
        );
        text
    }

    #[test]
    fn python_files_are_read_in_the_encoding_that_they_declare() {
        for (bytes, text) in [
            (&b"# -*- coding: latin-1 -*-\n'\xe9\x80'"[..], "'é\u{80}'"),
            (
                b"#!/usr/bin/python\n# vim: set fileencoding=iso-8859-15 :\n'\xa4'",
                "'€'",
            ),
            (b"\n# coding: koi8-r\n'\xc1'", "'а'"),
            (b"\r\n# coding: cp1252\r\n'\x80'", "'€'"),
            (b"# coding: Shift_JIS\n'\x93\xfa'", "'日'"),
            (b"\xef\xbb\xbf# coding: utf8\n'\xc3\xa9'", "'é'"),
            (b"x = 1\n# coding: latin-1\n'\xc3\xa9'", "'é'"),
            (b"\n\n# coding: latin-1\n'\xc3\xa9'", "'é'"),
            (b"\x0c# coding: latin-1\n'\xe9'", "'é'"),
        ] {
            let read = read_as("a.py", bytes).unwrap();
            assert!(
                read.ends_with(text) && !read.starts_with('\u{feff}'),
                "{read:?}"
            );
        }
        let refused = |bytes: &[u8]| read_as("a.PYI", bytes).unwrap_err().to_string();
        assert_eq!(
            refused(b"# coding: uft-8\n"),
            "it declares the encoding uft-8, which is unknown"
        );
        assert!(refused(b"\xef\xbb\xbf# coding: latin-1\n").contains("byte order mark"));
        assert_eq!(refused(b"# coding: ascii\n\n'\xe9'"), "not ASCII (line 3)");
        assert_eq!(
            refused(b"1\n2\n# coding: latin-1\n'\xe9'"),
            "not UTF-8 (line 4)"
        );
        assert_eq!(refused(b"# coding: euc-jp\n\xff\n"), "not EUC-JP (line 2)");
        // Files in other languages cannot declare an encoding.
        assert!(read_as("a.rs", b"# coding: latin-1\n\xe9").is_err());
    }

    #[test]
    fn non_text_is_detected_at_any_piece_boundary() {
        let long = |end: &[u8]| [&b"a\n".repeat(PIECE_BYTES / 2 - 1)[..], end].concat();
        assert_eq!(
            read_as("a", &long("xé日😀".as_bytes())).map(|text| text.len()),
            Ok(PIECE_BYTES + 8)
        );
        let line = (PIECE_BYTES / 2) as u64;
        let not = |line| {
            Err(SkipReason::NotUtf8 {
                encoding: "UTF-8",
                line,
            })
        };
        assert_eq!(read_as("a", &long(b"x\xf0\x9f\x98\nx")), not(line));
        assert_eq!(read_as("a", &long(b"x\xf0\x9f\x98")), not(line));
        assert_eq!(read_as("a", &long(b"xyz\n\xff")), not(line + 1));
        assert_eq!(read_as("a", &long(b"xyz\n\0")), Err(SkipReason::Binary));
        assert_eq!(read_as("a", b""), Ok(String::new()));
        assert_eq!(read_as("a", b"\xef\xbb\xbf"), Ok(String::new()));
    }

    #[test]
    fn a_file_that_has_grown_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"abcd").unwrap();
        assert_eq!(
            check(&path, 3, false),
            Err(SkipReason::TooLarge { limit: 3 })
        );
        assert_eq!(
            read(&path, 3, false),
            Err(SkipReason::TooLarge { limit: 3 })
        );
        assert_eq!(read(&path, 4, false).as_deref(), Ok("abcd"));
    }

    #[cfg(unix)]
    #[test]
    fn a_huge_file_is_read_only_up_to_the_first_non_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = File::create(&path).unwrap();
        if file.set_len(1 << 40).is_err() {
            return; // Not every file system allows files of this size.
        }
        assert_eq!(read(&path, u64::MAX, false), Err(SkipReason::Binary));
        assert_eq!(check(&path, u64::MAX, false), Err(SkipReason::Binary));
        let text = vec![b'x'; PIECE_BYTES];
        std::os::unix::fs::FileExt::write_all_at(&file, &text, 0).unwrap();
        let reason = read(&path, u64::MAX, false).unwrap_err();
        assert!(
            matches!(reason, SkipReason::Unreadable(_) | SkipReason::Binary),
            "{reason}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_in_place_of_a_file_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::fs::write(at("a"), "x").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let both = |name: &str, follow| {
            let text = read(&at(name), 9, follow);
            assert_eq!(
                check(&at(name), 9, follow).err(),
                text.as_ref().err().cloned()
            );
            text
        };
        assert_eq!(both("pipe", true), Err(SkipReason::NotAFile));
        assert_eq!(both("link", false), Err(SkipReason::SymbolicLink));
        assert_eq!(both("link", true).as_deref(), Ok("x"));
        assert!(matches!(both("", true), Err(SkipReason::Unreadable(_))));
    }
}
