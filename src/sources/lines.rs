//! Where the lines of a text begin.

use std::num::NonZeroU32;
use std::ops::Range;

use memchr::memchr2_iter;

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
