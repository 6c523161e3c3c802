//! The part of Thrift's compact protocol that contains sizes, which are checked before the Parquet reader allocates
//! memory. It is stricter than that reader: data that the two could interpret differently is rejected.

use std::io::{self, Read};

pub(super) const I32: u8 = 5;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Maximum nesting of values. Parquet's own structures have less than 10 levels.
const MOST_DEPTH: u32 = 32;

pub(super) fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Reads values from bytes, and counts the bytes.
pub(super) struct Compact<R> {
    reader: R,
    pub(super) read: u64,
}

impl<R: Read> Compact<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, read: 0 }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    pub(super) fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("it has a number of more than 64 bits"))
    }

    pub(super) fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn i32(&mut self) -> io::Result<i32> {
        i32::try_from(self.zigzag()?).map_err(|_| damaged("it has a number of more than 32 bits"))
    }

    /// Skips the bytes of a text; returns their number.
    pub(super) fn binary(&mut self) -> io::Result<u64> {
        let length = self.varint()?;
        self.skip_bytes(length)?;
        Ok(length)
    }

    fn skip_bytes(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.reader.by_ref().take(count), &mut io::sink())?;
        self.read += skipped;
        if skipped == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The number and the type of a struct's next field; `last` is the number of the previous one. `None` at the end.
    pub(super) fn field(&mut self, last: i16) -> io::Result<Option<(i16, u8)>> {
        let head = self.byte()?;
        if head & 0xf == 0 {
            return Ok(None);
        }
        let id = match i64::from(head >> 4) {
            0 => self.zigzag()?,
            delta => i64::from(last) + delta,
        };
        let id =
            i16::try_from(id).map_err(|_| damaged("it has a field with a number too large"))?;
        Ok(Some((id, head & 0xf)))
    }

    /// The type and the number of a list's elements.
    pub(super) fn list(&mut self) -> io::Result<(u8, u64)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => count.into(),
        };
        Ok((head & 0xf, count))
    }

    /// Reads a struct; `take` reads the value of a field and returns true, or returns false to skip the field.
    pub(super) fn fields(
        &mut self,
        take: &mut dyn FnMut(&mut Self, i16, u8) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut last = 0;
        while let Some((id, kind)) = self.field(last)? {
            last = id;
            if !take(self, id, kind)? {
                self.skip(kind, MOST_DEPTH)?;
            }
        }
        Ok(())
    }

    pub(super) fn skip_element(&mut self, kind: u8) -> io::Result<()> {
        match kind {
            // In a list a boolean has a byte; in a struct it is part of the field's header.
            1 | 2 => self.skip_bytes(1),
            _ => self.skip(kind, MOST_DEPTH),
        }
    }

    fn skip(&mut self, kind: u8, depth: u32) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(damaged(format!(
                "its values are nested more than {MOST_DEPTH} levels deep"
            )));
        };
        let in_list = |walk: &mut Self, kind: u8| match kind {
            1 | 2 => walk.skip_bytes(1),
            _ => walk.skip(kind, depth),
        };
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            BINARY => self.binary().map(drop),
            LIST | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| in_list(self, kind))
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    in_list(self, kinds >> 4)?;
                    in_list(self, kinds & 0xf)
                })
            }
            STRUCT => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    last = id;
                    self.skip(kind, depth)?;
                }
                Ok(())
            }
            13 => self.skip_bytes(16),
            _ => Err(damaged("it has a value of an unknown type")),
        }
    }
}
