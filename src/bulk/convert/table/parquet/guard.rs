//! Checks the pages of a Parquet file after they are unpacked and before they are decoded, because the row reader holds
//! all values of a row, or of several rows, of each column in memory, whatever their number.

use parquet::basic::{Encoding, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type as SchemaType;

use super::levels::{Levels, delta};

/// Maximum number of values in the lists of a row, of all columns together, and maximum number of bytes of their texts.
/// Each value counts with the longest text of its dictionary, so a row with a few long texts and many short ones counts
/// more than it has.
const MOST_VALUES: u64 = 2 << 20;
const MOST_BYTES: u64 = 512 << 20;
/// The minimum of that limit for each column.
const LEAST_VALUES: u64 = 1 << 10;
const LEAST_BYTES: u64 = 1 << 20;
/// Maximum number of text lengths in a page, of all columns together, and the minimum of that limit for each column.
const MOST_LENGTHS: u64 = 16 << 20;
const LEAST_LENGTHS: u64 = 64 << 10;
/// Maximum number of values that are read at once, of all columns together, and of one column.
const MOST_BATCH: usize = 1 << 20;
const BATCH: usize = 1 << 10;

fn refused(why: String) -> ParquetError {
    ParquetError::General(why)
}

/// A file whose pages are checked.
pub(super) struct Guarded<F>(pub(super) F);

impl<F: FileReader> Guarded<F> {
    /// Number of values of a column to read at once: only one row if a row may have many values, or long ones in few
    /// bytes.
    pub(super) fn batch_size(&self) -> usize {
        let schema = self.metadata().file_metadata().schema_descr();
        let mut chunks = self
            .metadata()
            .row_groups()
            .iter()
            .flat_map(|group| group.columns());
        let may_be_large = schema
            .columns()
            .iter()
            .any(|column| column.max_rep_level() > 0)
            || chunks.any(|chunk| chunk.encodings().any(|of| of == Encoding::DELTA_BYTE_ARRAY));
        if may_be_large {
            1
        } else {
            (MOST_BATCH / schema.num_columns().max(1)).clamp(1, BATCH)
        }
    }
}

impl<F: FileReader> FileReader for Guarded<F> {
    fn metadata(&self) -> &ParquetMetaData {
        self.0.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.0.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(Group(self.0.get_row_group(i)?)))
    }

    fn get_row_iter(&self, projection: Option<SchemaType>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct Group<'g>(Box<dyn RowGroupReader + 'g>);

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let columns = self.metadata().columns();
        let lists = columns
            .iter()
            .filter(|column| column.column_descr().max_rep_level() > 0);
        let pages = self.0.get_column_page_reader(i)?;
        Ok(Box::new(Pages {
            pages,
            column: columns[i].clone(),
            lists: (lists.count() as u64).max(1),
            columns: columns.len() as u64,
            longest: 0,
            in_row: 0,
        }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<SchemaType>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// The pages of a column, each checked when it is read.
struct Pages {
    pages: Box<dyn PageReader>,
    column: ColumnChunkMetaData,
    /// The number of columns with lists, and of all columns.
    lists: u64,
    columns: u64,
    /// The bytes of the longest text in the dictionary.
    longest: u64,
    /// The values of the last row so far.
    in_row: u64,
}

/// The parts of a data page.
struct Parts<'p> {
    repetition: Option<Levels<'p>>,
    values: &'p [u8],
    encoding: Encoding,
    count: u64,
}

impl Pages {
    fn check(&mut self, page: &Page) -> Result<()> {
        let parts = match page {
            Page::DictionaryPage { buf, .. } => {
                self.longest = self.longest.max(self.longest_of(buf));
                return Ok(());
            }
            _ => self.parts(page)?,
        };
        let longest = match parts.encoding {
            Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY => self.longest,
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                delta(parts.values, self.most_lengths(&parts)).map_err(refused)?;
                0
            }
            Encoding::DELTA_BYTE_ARRAY => {
                // The number of rows that are read at once depends on the encoding.
                if !self.column.encodings().any(|of| of == parts.encoding) {
                    return Err(refused(
                        "a page has an encoding that is not declared".to_owned(),
                    ));
                }
                let most = self.most_lengths(&parts);
                let (prefix, end) = delta(parts.values, most).map_err(refused)?;
                let rest = parts.values.get(end..).unwrap_or_default();
                let (suffix, _) = delta(rest, most).map_err(refused)?;
                prefix + suffix
            }
            _ => 0,
        };
        match parts.repetition {
            Some(levels) => self.check_rows(levels, longest),
            None => Ok(()),
        }
    }

    fn most_lengths(&self, parts: &Parts<'_>) -> u64 {
        let most = (MOST_LENGTHS / self.columns.max(1)).max(LEAST_LENGTHS);
        parts.count.min(most)
    }

    /// Checks how many values each row has. Each may have `longest` bytes.
    fn check_rows(&mut self, mut levels: Levels<'_>, longest: u64) -> Result<()> {
        let most = (MOST_VALUES / self.lists).max(LEAST_VALUES);
        let most_bytes = (MOST_BYTES / self.lists).max(LEAST_BYTES);
        let mut largest = self.in_row;
        levels.runs(&mut |count, begins_row| {
            self.in_row = if begins_row {
                1
            } else {
                self.in_row.saturating_add(count)
            };
            largest = largest.max(self.in_row);
        });
        if largest > most {
            let why =
                format!("a row has lists of more than {most} values; expected at most {most}");
            return Err(refused(why));
        }
        if largest > 1 && largest.saturating_mul(longest) > most_bytes {
            return Err(refused(format!(
                "the lists of a row may have more than {} MiB of text; expected at most {0} MiB",
                most_bytes >> 20
            )));
        }
        Ok(())
    }

    /// The bytes of the longest value in a dictionary.
    fn longest_of(&self, mut dictionary: &[u8]) -> u64 {
        if self.column.column_type() != Type::BYTE_ARRAY {
            return u64::try_from(self.column.column_descr().type_length()).unwrap_or(0);
        }
        let mut longest = 0;
        while let Some((length, rest)) = dictionary.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            longest = longest.max(length);
            dictionary = rest.get(length as usize..).unwrap_or_default();
        }
        longest.into()
    }

    fn parts<'p>(&self, page: &'p Page) -> Result<Parts<'p>> {
        let of = self.column.column_descr();
        let (repetitions, definitions) = (of.max_rep_level(), of.max_def_level());
        let count = u64::from(page.num_values());
        let mut rest: &[u8] = page.buffer();
        let mut repetition = None;
        let short = || refused("a page is too short for its levels".to_owned());
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length).ok_or_else(short)?;
            rest = left;
            Ok::<_, ParquetError>(taken)
        };
        match page {
            Page::DataPageV2 {
                rep_levels_byte_len,
                def_levels_byte_len,
                ..
            } => {
                let bytes = take(*rep_levels_byte_len as usize)?;
                if repetitions > 0 {
                    repetition = Some(Levels::mixed(bytes, repetitions, count));
                }
                take(*def_levels_byte_len as usize)?;
            }
            Page::DataPage {
                rep_level_encoding,
                def_level_encoding,
                ..
            } => {
                for (most, encoding, is_repetition) in [
                    (repetitions, rep_level_encoding, true),
                    (definitions, def_level_encoding, false),
                ] {
                    if most == 0 {
                        continue;
                    }
                    let levels = if *encoding == Encoding::RLE {
                        let length = take(4)?.try_into().map(u32::from_le_bytes);
                        let bytes = take(length.unwrap_or_default() as usize)?;
                        Levels::mixed(bytes, most, count)
                    } else {
                        Levels::packed(most, count, &mut take)?
                    };
                    if is_repetition {
                        repetition = Some(levels);
                    }
                }
            }
            Page::DictionaryPage { .. } => {}
        }
        Ok(Parts {
            repetition,
            values: rest,
            encoding: page.encoding(),
            count,
        })
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
