//! The text of a file: reading it, and the check that it is UTF-8.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;
use std::str::Utf8Error;

use memchr::{memchr, memchr_iter, memchr2_iter};

use crate::base::named_file;

use super::info::SkipReason;

/// Number of bytes that are read at a time.
const PIECE_BYTES: u64 = 64 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

fn unreadable(error: &io::Error) -> SkipReason {
    SkipReason::Unreadable(error.to_string())
}

/// Opens a path that must be a regular file. Since the scan, it may have been replaced by a pipe, which would block
/// until somebody writes to it, or by a link to another file.
pub(crate) fn open_regular(path: &Path, follow: bool) -> io::Result<File> {
    named_file::regular(path, follow)
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

/// The text of a file, without a byte order mark. It is read piece by piece, up to the first one that is not text.
pub(super) fn read(path: &Path, limit: u64, follow: bool) -> Result<String, SkipReason> {
    // It may have grown since its size was read.
    let mut file = opened(path, follow)?.take(limit.saturating_add(1));
    let mut bytes = Vec::new();
    loop {
        let begin = bytes.len();
        let piece = (&mut file).take(PIECE_BYTES).read_to_end(&mut bytes);
        piece.map_err(|error| unreadable(&error))?;
        if bytes.len() as u64 > limit {
            return Err(SkipReason::TooLarge { limit });
        }
        if memchr(0, &bytes[begin..]).is_some() {
            return Err(SkipReason::Binary);
        }
        if bytes.len() == begin {
            break;
        }
    }
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(error.as_bytes(), error.utf8_error()))
}

/// The text of the bytes of a file.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, SkipReason> {
    if memchr(0, bytes).is_some() {
        return Err(SkipReason::Binary);
    }
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    std::str::from_utf8(text).map_err(|error| not_utf8(text, error))
}

fn not_utf8(bytes: &[u8], error: Utf8Error) -> SkipReason {
    SkipReason::NotUtf8 {
        line: 1 + memchr_iter(b'\n', &bytes[..error.valid_up_to()]).count() as u64,
    }
}

/// The offsets at which lines begin: after `\n`, `\r\n`, and a single `\r`.
pub(super) struct Lines {
    starts: Vec<usize>,
    len: usize,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends = memchr2_iter(b'\n', b'\r', bytes)
            .filter(|at| bytes[*at] == b'\n' || bytes.get(at + 1) != Some(&b'\n'));
        let starts = std::iter::once(0).chain(ends.map(|at| at + 1));
        Self {
            starts: starts
                .filter(|start| *start == 0 || *start < bytes.len())
                .collect(),
            len: bytes.len(),
        }
    }

    /// The line of an offset, counted from 1.
    pub(super) fn line_of(&self, at: usize) -> u64 {
        self.starts.partition_point(|start| *start <= at).max(1) as u64
    }

    /// The range, extended to the beginning of the line if only blanks precede it.
    pub(super) fn whole_from(&self, text: &str, range: Range<usize>) -> Range<usize> {
        let line = self.starts[self.line_of(range.start) as usize - 1];
        if text[line..range.start].trim_end().is_empty() {
            line..range.end
        } else {
            range
        }
    }

    /// The ends of parts with this number of lines.
    pub(super) fn ends_every(&self, lines: NonZeroU32) -> Vec<usize> {
        let later = self.starts.iter().skip(1).copied();
        let ends: Vec<usize> = later.chain([self.len]).collect();
        ends.chunks(lines.get() as usize)
            .filter_map(|chunk| chunk.last().copied())
            .collect()
    }

    /// The ends of parts that consist of complete lines and have at most this many bytes; longer lines are cut.
    pub(super) fn ends_within(&self, text: &str, bytes: usize) -> Vec<usize> {
        let (mut ends, mut start) = (Vec::new(), 0);
        let later = self.starts.iter().skip(1).copied();
        let mut line = 0;
        for end in later.chain([self.len]) {
            if end - start > bytes && line > start {
                ends.push(line);
                start = line;
            }
            while end - start > bytes {
                let mut cut = start + bytes;
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                // A part has at least one character.
                if cut == start {
                    cut = start + text[start..].chars().next().map_or(1, char::len_utf8);
                }
                ends.push(cut);
                start = cut;
            }
            line = end;
        }
        if start < self.len {
            ends.push(self.len);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, limit: u64, follow: bool) -> Result<(), SkipReason> {
        read(path, limit, follow).map(drop)
    }

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
    fn non_text_is_detected_with_its_line() {
        let text = "xé日😀";
        assert_eq!(read_as("a", text.as_bytes()).as_deref(), Ok(text));
        let not = |line| Err(SkipReason::NotUtf8 { line });
        assert_eq!(read_as("a", b"a\nx\xf0\x9f\x98\nx"), not(2));
        assert_eq!(read_as("a", b"a\nx\xf0\x9f\x98"), not(2));
        let piece = b"a\n".repeat(PIECE_BYTES as usize / 2);
        assert_eq!(
            read_as("a", &[&piece[..], b"\0"].concat()),
            Err(SkipReason::Binary)
        );
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
        let text = vec![b'x'; PIECE_BYTES as usize];
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

#[cfg(test)]
mod lines_tests {
    use super::*;

    #[test]
    fn lines_end_as_any_system_ends_them() {
        let lines = Lines::of("a\r\nb\rc\n\nd");
        assert_eq!(lines.starts, [0, 3, 5, 7, 8]);
        assert_eq!([0, 2, 3, 8, 9].map(|at| lines.line_of(at)), [1, 1, 2, 5, 5]);
        assert_eq!(Lines::of("a\n").starts, [0]);
        assert_eq!(Lines::of("").ends_every(NonZeroU32::MIN), [0]);
    }

    #[test]
    fn parts_are_whole_lines_and_longer_ones_are_cut() {
        let within = |text: &str, bytes| Lines::of(text).ends_within(text, bytes);
        assert_eq!(within("ab\ncd\nef\n", 6), [6, 9]);
        assert_eq!(within("ab\ncdefghij\nk\n", 4), [3, 7, 11, 14]);
        assert_eq!(within("日本", 4), [3, 6]);
        assert_eq!(within("日", 1), [3]);
        let text = "x".repeat(10) + "\n" + &"y\n".repeat(20);
        for bytes in 1..40 {
            let ends = within(&text, bytes);
            assert_eq!(ends.last(), Some(&text.len()));
            let sizes = ends.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(sizes.clone().all(|size| (1..=bytes).contains(&size)));
        }
    }
}
