//! Lines of outdated requests: they are marked by a member at their end, so that readers can distinguish them from the
//! answers to current requests.

use super::ResultsFile;
use crate::base::Error;

/// The end of a marked line.
const MARK: &[u8] = b",\"superseded\":true}";

/// Which lines lose or get their mark: one bit per non-blank line, by number.
#[derive(Debug, Default)]
pub(crate) struct SupersededFlags {
    bits: Vec<u64>,
    lines: usize,
    wrong: u64,
}

impl SupersededFlags {
    /// Records the next line.
    pub(crate) fn next(&mut self, is_marked: bool, wanted: bool) {
        let (word, bit) = (self.lines / 64, self.lines % 64);
        if bit == 0 {
            self.bits.push(0);
        }
        if is_marked != wanted {
            self.bits[word] |= 1 << bit;
            self.wrong += 1;
        }
        self.lines += 1;
    }

    /// Whether every line has the right mark.
    pub(crate) fn all_right(&self) -> bool {
        self.wrong == 0
    }

    fn is_wrong(&self, line: usize) -> bool {
        let word = self.bits.get(line / 64);
        word.is_some_and(|word| word & 1 << (line % 64) != 0)
    }
}

impl ResultsFile {
    /// Marks superseded lines, and removes the mark from those that are current again. All other bytes are unchanged;
    /// without changes the whole file is.
    pub(crate) fn write_flags(&mut self, flags: &SupersededFlags) -> Result<(), Error> {
        if flags.wrong == 0 {
            return Ok(());
        }
        let what = "cannot mark the earlier answers that are superseded";
        let mut number = 0;
        self.rewrite(what, None, &mut |_, line| {
            if !line.trim_ascii().is_empty() {
                if flags.is_wrong(number) {
                    turn(line);
                }
                number += 1;
            }
            Ok(())
        })
    }
}

/// Adds the mark to a line, or removes it.
pub(crate) fn turn(line: &mut Vec<u8>) {
    line.truncate(line.trim_ascii_end().len());
    match line.strip_suffix(MARK).map(<[u8]>::len) {
        Some(rest) => {
            line.truncate(rest);
            line.push(b'}');
        }
        None if line.last() == Some(&b'}') => {
            line.pop();
            line.extend_from_slice(MARK);
        }
        None => {}
    }
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_lines_are_identified_by_number() {
        let mut flags = SupersededFlags::default();
        for line in 0..200 {
            flags.next(line % 3 == 0, line % 2 == 0);
        }
        let wrong = |line: &usize| flags.is_wrong(*line);
        let expected = (0..200).filter(|line| (line % 3 == 0) != (line % 2 == 0));
        assert!((0..1000).filter(wrong).eq(expected));
    }
}
