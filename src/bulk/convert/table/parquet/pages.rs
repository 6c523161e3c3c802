//! The pages of a Parquet file: their headers are checked before the reader allocates memory. Only headers are read,
//! and pages whose compression does not limit their unpacked size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;
use parquet::basic::{Compression, Type};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::thrift::{Compact, I32, STRUCT, damaged};
use crate::base::{Context, Error};

/// Memory for the pages that are open at once: one of each column, and its dictionary. A large file may have many
/// columns with large pages, so its limit is higher. A text as long as its page is in memory 3 times.
const MOST_OPEN: u64 = 128 << 20;
const MOST_OPEN_PER_BYTE: u64 = 16;
/// Memory of one value of a dictionary.
const DICTIONARY_VALUE: u64 = 32;

/// Why the pages of a file are rejected.
#[derive(derive_more::From)]
pub(super) enum Refused {
    Cancelled(Error),
    Damaged(io::Error),
}

/// Checks the headers of all pages.
pub(super) fn check(file: &File, metadata: &ParquetMetaData, ctx: &Context) -> Result<(), Refused> {
    let len = file.metadata()?.len();
    let most = MOST_OPEN.saturating_add(len.saturating_mul(MOST_OPEN_PER_BYTE));
    let mut places = Vec::new();
    for group in metadata.row_groups() {
        for column in group.columns() {
            places.push(place(column, len)?);
        }
    }
    let mut sorted: Vec<_> = places.iter().filter(|(start, end)| start < end).collect();
    sorted.sort_unstable();
    // Otherwise a small file could have any number of columns that share their pages.
    if sorted.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(damaged("its columns overlap").into());
    }
    let mut places = places.iter();
    for group in metadata.row_groups() {
        let mut open = 0_u64;
        for (column, place) in group.columns().iter().zip(places.by_ref()) {
            let (bytes, values) = Chunk {
                file,
                column,
                most,
                ctx,
            }
            .check(*place)?;
            if values < group.num_rows() {
                return Err(damaged("a column has fewer values than the table has rows").into());
            }
            open = open.saturating_add(bytes);
        }
        if open > most {
            return Err(damaged(format!(
                "one page of each column takes {} MiB of memory; expected at most {}",
                open >> 20,
                most >> 20
            ))
            .into());
        }
    }
    Ok(())
}

/// Position of a column's pages in the file.
fn place(column: &ColumnChunkMetaData, len: u64) -> io::Result<(u64, u64)> {
    let start = column
        .dictionary_page_offset()
        .unwrap_or(column.data_page_offset());
    let start = u64::try_from(start).ok();
    let size = u64::try_from(column.compressed_size()).ok();
    let place = start
        .zip(size)
        .and_then(|(start, size)| Some((start, start.checked_add(size)?)));
    place
        .filter(|(_, end)| *end <= len)
        .ok_or_else(|| damaged("it has a column outside of the file"))
}

/// The pages of a column in a row group.
struct Chunk<'c> {
    file: &'c File,
    column: &'c ColumnChunkMetaData,
    /// Maximum number of bytes of a page, packed and unpacked.
    most: u64,
    ctx: &'c Context,
}

/// The contents of a page header.
#[derive(Default)]
struct Header {
    kind: i32,
    unpacked: u64,
    packed: u64,
    values: u64,
}

const DICTIONARY: i32 = 2;

impl Chunk<'_> {
    /// The bytes that the reader needs for a page and the dictionaries, and the number of values.
    fn check(&self, (start, end): (u64, u64)) -> Result<(u64, i64), Refused> {
        let (mut dictionaries, mut largest, mut values) = (0_u64, 0, 0_i64);
        let mut reader = BufReader::new(self.file);
        reader.seek(SeekFrom::Start(start))?;
        let mut at = start;
        while at < end {
            self.ctx.check().map_err(Refused::Cancelled)?;
            let (header, length) = header((&mut reader).take(end - at))?;
            at += length;
            if header.packed > end - at {
                return Err(damaged("a page is longer than its column").into());
            }
            for (size, is) in [(header.packed, ""), (header.unpacked, " when unpacked")] {
                if size > self.most {
                    return Err(damaged(format!(
                        "a page has {} MiB{is}; expected at most {}",
                        size >> 20,
                        self.most >> 20
                    ))
                    .into());
                }
            }
            let next = at + header.packed;
            if !self.is_bounded(&header) {
                self.unpack(&mut reader, &header)?;
                reader.seek(SeekFrom::Start(next))?;
            } else {
                let ahead = i64::try_from(header.packed).unwrap_or(i64::MAX);
                reader.seek_relative(ahead)?;
            }
            at = next;
            if header.kind == DICTIONARY {
                if header.values > header.unpacked / self.least_value() {
                    return Err(damaged("a dictionary is too short for its values").into());
                }
                dictionaries += header.unpacked + header.values * DICTIONARY_VALUE;
            } else {
                largest = largest.max(header.unpacked.max(header.packed));
                values = values.saturating_add_unsigned(header.values);
            }
        }
        Ok((dictionaries + largest, values))
    }

    /// Minimum number of bytes of a value in a dictionary.
    fn least_value(&self) -> u64 {
        match self.column.column_type() {
            Type::BOOLEAN => 1,
            Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            Type::FIXED_LEN_BYTE_ARRAY => {
                let length = self.column.column_descr().type_length();
                u64::try_from(length).unwrap_or(0).max(1)
            }
        }
    }

    /// Whether the reader stops at the declared size of the page, or could not exceed the size of the largest page.
    fn is_bounded(&self, header: &Header) -> bool {
        let most_ratio = match self.column.compression() {
            Compression::GZIP(_) => 1032,
            // The old form, which does not declare its size.
            Compression::LZ4 => 255,
            _ => return true,
        };
        header.packed <= self.most / most_ratio
    }

    /// Unpacks a page without storing it, to compare its size with the declared one.
    fn unpack(&self, reader: &mut BufReader<&File>, header: &Header) -> Result<(), Refused> {
        let mut page = reader.by_ref().take(header.packed);
        if self.column.compression() == Compression::LZ4 {
            let is_old = page.fill_buf()?.starts_with(&[0x04, 0x22, 0x4d, 0x18]);
            return if is_old {
                Err(damaged("a page of LZ4 frames is too large").into())
            } else {
                Ok(())
            };
        }
        let mut unpacked = MultiGzDecoder::new(page).take(header.unpacked + 1);
        let (mut size, mut piece) = (0, vec![0; 1 << 16]);
        loop {
            self.ctx.check().map_err(Refused::Cancelled)?;
            match unpacked.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => size += n as u64,
                // The reader stops at damaged data as well.
                Err(_) => break,
            }
        }
        if size > header.unpacked {
            Err(damaged("a page is larger than it declares").into())
        } else {
            Ok(())
        }
    }
}

/// The next header, and its length.
fn header(reader: impl Read) -> io::Result<(Header, u64)> {
    let size = |n: i32| u64::try_from(n).map_err(|_| damaged("a page has a negative size"));
    let mut header = Header::default();
    let mut walk = Compact::new(reader);
    walk.fields(&mut |walk, id, kind| {
        match (id, kind) {
            (1, I32) => header.kind = walk.i32()?,
            (2, I32) => header.unpacked = size(walk.i32()?)?,
            (3, I32) => header.packed = size(walk.i32()?)?,
            // The header of a data page, of a dictionary, of a data page of version 2.
            (5 | 7 | 8, STRUCT) => walk.fields(&mut |walk, id, kind| match (id, kind) {
                (1, I32) => {
                    header.values = size(walk.i32()?)?;
                    Ok(true)
                }
                (1, _) => Err(damaged("a page's header has a value of the wrong type")),
                _ => Ok(false),
            })?,
            (1..=3 | 5 | 7 | 8, _) => {
                return Err(damaged("a page's header has a value of the wrong type"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((header, walk.read))
}
