//! A worksheet. Texts stay texts, whatever they begin with: nothing becomes a formula or a link.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rust_xlsxwriter::{Workbook, XlsxError};

use super::cell::Cell;
use super::columns::Column;
use super::sink::{Sink, failed, unwritable};
use crate::base::{Error, ErrorKind};

/// Maximum number of rows in a worksheet.
const MOST_ROWS: u64 = 1_048_576;
const MOST_COLUMNS: usize = 16_384;
/// Maximum length of a cell in UTF-16 units.
const MOST_UNITS: usize = 32_767;
/// A cell shows 15 digits; further digits of a longer number would become zeros.
const LARGEST: u64 = 999_999_999_999_999;

/// A workbook with one worksheet, whose rows are buffered in a file.
pub(super) struct Sheet {
    workbook: Workbook,
    out: File,
    row: u32,
    cut: u64,
    /// The note about where to find the complete text of a cut cell.
    whole: String,
}

impl Sheet {
    /// Creates a worksheet for this number of rows. `whole` names the file with the complete texts of cut cells;
    /// buffered rows are written to `folder`.
    pub(super) fn new(
        out: File,
        folder: &Path,
        rows: u64,
        columns: &[Column],
        whole: String,
    ) -> Result<Self, Error> {
        let refused = |what: String| {
            let why = format!("{what}; .parquet and .csv have room");
            Err(Error::new(ErrorKind::Invalid, why))
        };
        if rows >= MOST_ROWS {
            let most = MOST_ROWS - 1;
            return refused(format!(
                "{rows} items do not fit a worksheet, which has room for {most} below its header"
            ));
        }
        if columns.len() > MOST_COLUMNS {
            let n = columns.len();
            return refused(format!(
                "{n} columns do not fit a worksheet; the limit is {MOST_COLUMNS}"
            ));
        }
        let mut workbook = Workbook::new();
        let begun = workbook.set_tempdir(folder).and_then(|workbook| {
            // Larger archives need a format that old programs cannot read.
            workbook.use_zip_large_file(rows > 100_000);
            let sheet = workbook.add_worksheet_with_constant_memory()?;
            sheet.set_name("results")?.set_freeze_panes(1, 0).map(drop)
        });
        begun.map_err(|error| failed(&error))?;
        let mut sheet = Self {
            workbook,
            out,
            row: 0,
            cut: 0,
            whole,
        };
        let names: Vec<Cell<'_>> = columns
            .iter()
            .map(|column| Cell::Text(column.name.as_str().into()))
            .collect();
        sheet.row(&names)?;
        Ok(sheet)
    }

    fn write(&mut self, cells: &[Cell<'_>]) -> Result<(), XlsxError> {
        let sheet = self.workbook.worksheet_from_index(0)?;
        for (column, cell) in cells.iter().enumerate() {
            let column = u16::try_from(column).unwrap_or(u16::MAX);
            match cell {
                Cell::Null => {}
                Cell::Bool(yes) => drop(sheet.write_boolean(self.row, column, *yes)?),
                Cell::Int(n) if n.unsigned_abs() <= LARGEST => {
                    sheet.write_number(self.row, column, *n as f64)?;
                }
                Cell::Float(x, _) => drop(sheet.write_number(self.row, column, *x)?),
                other => {
                    let text = other.to_text().unwrap_or_default();
                    match cut(&text, &self.whole) {
                        None => sheet.write_string(self.row, column, &*text)?,
                        Some(cut) => {
                            self.cut += 1;
                            sheet.write_string(self.row, column, cut)?
                        }
                    };
                }
            }
        }
        self.row += 1;
        Ok(())
    }
}

impl Sink for Sheet {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        unless_it_panics(|| self.write(cells).map_err(|error| failed(&error)))
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let mut out = BufWriter::new(&self.out);
        unless_it_panics(|| {
            let saved = self.workbook.save_to_writer(&mut out);
            saved.map_err(|error| failed(&error))
        })?;
        out.flush().map_err(|error| unwritable(&error))
    }

    fn cut_cells(&self) -> u64 {
        self.cut
    }
}

/// The library panics if it cannot write its temporary data.
fn unless_it_panics<T>(write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
        let why = "check the free space on its disk and in the folder for temporary files";
        Err(unwritable(&io::Error::other(why)))
    })
}

/// The beginning of a text that fits into a cell, with a note about the rest; `None` if the complete text fits.
fn cut(text: &str, whole: &str) -> Option<String> {
    if text.len() <= MOST_UNITS || text.encode_utf16().count() <= MOST_UNITS {
        return None;
    }
    let note = format!(
        "… [cut here: {} characters, the whole is in {whole}]",
        text.chars().count()
    );
    let room = MOST_UNITS.saturating_sub(note.encode_utf16().count());
    let mut units = 0;
    let end = text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > room
    });
    let end = end.map_or(text.len(), |(at, _)| at);
    Some(format!("{}{note}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_cell_is_full_and_names_the_file_with_the_rest() {
        assert_eq!(cut(&"a".repeat(MOST_UNITS), "r.jsonl"), None);
        // 16,384 characters of two units each, and four bytes.
        let text = "😀".repeat(16_384);
        let found = cut(&text, "r.jsonl").unwrap();
        assert!(found.ends_with("😀… [cut here: 16384 characters, the whole is in r.jsonl]"));
        let units = found.encode_utf16().count();
        assert!((MOST_UNITS - 1..=MOST_UNITS).contains(&units), "{units}");
        assert_eq!(cut(&"é".repeat(MOST_UNITS), "r.jsonl"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let sheet = Sheet::new(full, folder.path(), 0, &[], String::new());
        let error = Box::new(sheet.unwrap()).finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        let panicked = unless_it_panics(|| -> Result<(), Error> { panic!("cannot be written") });
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Transient);
    }

    #[test]
    fn tables_too_large_for_a_worksheet_are_rejected_before_writing() {
        let folder = tempfile::tempdir().unwrap();
        let sheet = |rows, columns: &[Column]| {
            let out = tempfile::tempfile().unwrap();
            Sheet::new(out, folder.path(), rows, columns, String::new()).err()
        };
        assert!(sheet(1_048_575, &[]).is_none());
        let error = sheet(1_048_576, &[]).unwrap();
        assert!(
            error.message().starts_with("1048576 items do not fit"),
            "{error}"
        );
    }
}
