//! Reads the numbers in Parquet's pages that show how many values a row has and how long texts are.

use std::io;

use parquet::errors::ParquetError;

use super::thrift::{Compact, damaged};

/// Repetition levels: 0 at the start of a row.
pub(super) struct Levels<'l> {
    bytes: &'l [u8],
    width: usize,
    /// Number of remaining levels.
    left: u64,
    /// Whether each level is stored separately, without runs.
    is_packed: bool,
}

impl<'l> Levels<'l> {
    /// Runs of one level and runs of packed levels, up to level `most`.
    pub(super) fn mixed(bytes: &'l [u8], most: i16, count: u64) -> Self {
        Self {
            bytes,
            width: width(most),
            left: count,
            is_packed: false,
        }
    }

    /// Packed levels in the old form; `take` reads their bytes.
    pub(super) fn packed(
        most: i16,
        count: u64,
        take: &mut dyn FnMut(usize) -> Result<&'l [u8], ParquetError>,
    ) -> Result<Self, ParquetError> {
        let width = width(most);
        let length = count.saturating_mul(width as u64).div_ceil(8);
        Ok(Self {
            bytes: take(usize::try_from(length).unwrap_or(usize::MAX))?,
            width,
            left: count,
            is_packed: true,
        })
    }

    /// Reports all levels in runs: the number of levels, and whether each of them begins a row.
    pub(super) fn runs(&mut self, show: &mut dyn FnMut(u64, bool)) {
        if self.is_packed {
            self.show_packed(self.left, show);
        }
        while self.left > 0 {
            let mut head = Compact::new(self.bytes);
            let Ok(run) = head.varint() else { return };
            self.bytes = &self.bytes[head.read as usize..];
            match run {
                // Padding, which some programs write.
                0 => return,
                run if run & 1 == 1 => self.show_packed((run >> 1).saturating_mul(8), show),
                run => {
                    let Some((level, rest)) = self.bytes.split_at_checked(self.width.div_ceil(8))
                    else {
                        return;
                    };
                    let count = (run >> 1).min(self.left);
                    show(count, level.iter().all(|byte| *byte == 0));
                    self.left -= count;
                    self.bytes = rest;
                }
            }
        }
    }

    fn show_packed(&mut self, count: u64, show: &mut dyn FnMut(u64, bool)) {
        let room = (self.bytes.len() * 8 / self.width) as u64;
        let in_run = count.min(room);
        let shown = in_run.min(self.left);
        for i in 0..shown as usize {
            show(1, bits(self.bytes, i * self.width, self.width) == 0);
        }
        self.left = if in_run < count { 0 } else { self.left - shown };
        let used = (in_run as usize * self.width).div_ceil(8);
        self.bytes = &self.bytes[used..];
    }
}

/// Number of bits of numbers up to this one.
fn width(most: i16) -> usize {
    (i16::BITS - most.max(1).leading_zeros()) as usize
}

/// A number of up to 32 bits, lowest bit first.
fn bits(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut eight = [0; 8];
    let from = &bytes[at / 8..];
    let length = from.len().min(8);
    eight[..length].copy_from_slice(&from[..length]);
    u64::from_le_bytes(eight) >> (at % 8) & ((1 << width) - 1)
}

/// The largest of at most `most` lengths that are packed as differences, and where they end.
pub(super) fn delta(bytes: &[u8], most: u64) -> Result<(u64, usize), String> {
    lengths(bytes, most).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "a page is too short for the lengths of its texts".to_owned()
        }
        _ => error.to_string(),
    })
}

fn lengths(bytes: &[u8], most: u64) -> io::Result<(u64, usize)> {
    let bad = || damaged("a page has a wrong number of lengths");
    let number = |n: i64| i32::try_from(n).map_err(|_| bad());
    let mut head = Compact::new(bytes);
    let (block, blocks, count) = (head.varint()?, head.varint()?, head.varint()?);
    let first = number(head.zigzag()?)?;
    if count > most {
        return Err(bad());
    }
    let in_run = block.checked_div(blocks).unwrap_or(0);
    if in_run == 0 || block % blocks != 0 || in_run % 32 != 0 {
        return Err(bad());
    }
    let (mut at, mut last, mut largest) = (head.read as usize, first, first);
    let mut left = count.saturating_sub(1);
    let blocks = usize::try_from(blocks).map_err(|_| bad())?;
    while left > 0 {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = Compact::new(bytes.get(at..).ok_or_else(short)?);
        let least = number(head.zigzag()?)?;
        at += head.read as usize;
        let end = at.checked_add(blocks).ok_or_else(short)?;
        let widths = bytes.get(at..end).ok_or_else(short)?;
        at = end;
        for &width in widths {
            if left == 0 {
                break;
            }
            if width > 32 {
                return Err(bad());
            }
            let size = u64::from(width).checked_mul(in_run / 8).ok_or_else(bad)?;
            let end = usize::try_from(size)
                .ok()
                .and_then(|size| at.checked_add(size));
            let end = end.ok_or_else(bad)?;
            let here = in_run.min(left);
            // The last run may have fewer bytes than its width requires.
            let packed = bytes.get(at.min(bytes.len())..).unwrap_or_default();
            if here * u64::from(width) > packed.len() as u64 * 8 {
                return Err(short());
            }
            for i in 0..here as usize {
                let width = usize::from(width);
                let more = bits(packed, i * width, width) as u32 as i32;
                last = last.wrapping_add(least).wrapping_add(more);
                largest = largest.max(last);
            }
            left -= here;
            at = end;
        }
    }
    Ok((u64::try_from(largest).unwrap_or(0), at))
}
