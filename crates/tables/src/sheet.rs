//! A worksheet. Texts stay texts, whatever they begin with: nothing becomes a formula or a link.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rust_xlsxwriter::{Workbook, XlsxError};

use crate::panics::unless_it_panics;
use crate::{Cell, Column, Error};

/// Maximum number of rows in a worksheet.
const MOST_ROWS: u64 = 1_048_576;
const MOST_COLUMNS: usize = 16_384;
/// Maximum length of a cell in UTF-16 units.
const MOST_UNITS: usize = 32_767;
/// A cell shows 15 digits; further digits of a longer number would become zeros.
const LARGEST: u64 = 999_999_999_999_999;

/// A workbook with one worksheet, whose rows are buffered in a file.
pub struct Sheet {
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
    ///
    /// # Errors
    /// [`Error::Refused`] if a worksheet has too little room; [`Error::Failed`] if it cannot be written.
    pub fn new(
        out: File,
        folder: &Path,
        rows: u64,
        columns: &[Column],
        whole: String,
    ) -> Result<Self, Error> {
        let refused = |what: String| {
            let why = format!("{what}; .parquet and .csv have room");
            Err(Error::Refused(why))
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
        begun.map_err(Error::failed)?;
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

    /// Writes a row with one cell per column.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        written(|| self.write(cells).map_err(Error::failed))
    }

    /// Number of cells that were cut.
    pub fn cut_cells(&self) -> u64 {
        self.cut
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let mut out = BufWriter::new(&self.out);
        written(|| {
            let saved = self.workbook.save_to_writer(&mut out);
            saved.map_err(Error::failed)
        })?;
        out.flush().map_err(Error::failed)
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
                Cell::Float(x) => drop(sheet.write_number(self.row, column, *x)?),
                Cell::Int(n) => drop(sheet.write_string(self.row, column, n.to_string())?),
                Cell::Text(text) => {
                    let cut = cut(text, &self.whole);
                    self.cut += u64::from(cut.is_some());
                    sheet.write_string(self.row, column, cut.as_deref().unwrap_or(text))?;
                }
                Cell::Vector(numbers) => {
                    let text = serde_json::to_string(numbers).unwrap_or_default();
                    let cut = cut(&text, &self.whole);
                    self.cut += u64::from(cut.is_some());
                    sheet.write_string(self.row, column, cut.as_deref().unwrap_or(&text))?;
                }
            }
        }
        self.row += 1;
        Ok(())
    }
}

/// The library panics if it cannot write its temporary data.
fn written<T>(write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    unless_it_panics(write).unwrap_or_else(|| {
        let why = "check the free space on its disk and in the folder for temporary files";
        Err(Error::failed(why))
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
    let kept = text.chars().take_while(|c| {
        units += c.len_utf16();
        units <= room
    });
    Some(kept.collect::<String>() + &note)
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
        let error = sheet.unwrap().finish().unwrap_err();
        assert!(matches!(error, Error::Failed(_)));
        let panicked = written(|| -> Result<(), Error> { panic!("cannot be written") });
        assert!(matches!(panicked, Err(Error::Failed(_))));
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
            error.to_string().starts_with("1048576 items do not fit"),
            "{error}"
        );
    }
}
