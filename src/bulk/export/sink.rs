//! Tables while they are written. Text has fields separated by a delimiter and quoted as in RFC 4180, or one JSON object
//! per row.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use super::ExportReport;
use super::cell::Cell;
use super::columns::Column;
use crate::base::{Error, ErrorKind};

/// A table that is being written.
pub(super) trait Sink {
    /// Writes the next row, with one cell per column.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error>;

    /// Writes buffered data, so that the table is complete, and reports how many cells were changed.
    fn finish(self: Box<Self>, report: &mut ExportReport) -> Result<(), Error>;
}

/// An error that does not depend on the request: a full disk, or a closed reader.
pub(super) fn unwritable(error: impl fmt::Display) -> Error {
    let why = format!("cannot write the table: {error}");
    Error::new(ErrorKind::Transient, why)
}

/// A table as text.
pub(super) struct TextTable<W: Write> {
    out: W,
    /// What separates fields; `None` for one JSON object per row.
    delimiter: Option<u8>,
    /// Whether cells that a spreadsheet would read as formulas stay unchanged.
    raw: bool,
    /// Number of cells that got an apostrophe.
    guarded: u64,
    /// The names of the columns as JSON, for objects.
    names: Vec<String>,
}

impl<W: Write> TextTable<W> {
    pub(super) fn new(
        out: W,
        delimiter: Option<u8>,
        raw: bool,
        columns: &[Column],
    ) -> io::Result<Self> {
        let names = columns.iter().map(|column| json(&column.name)).collect();
        let mut table = Self {
            out,
            delimiter,
            raw,
            guarded: 0,
            names,
        };
        if let Some(by) = delimiter {
            let names = columns.iter().map(|column| Cow::from(&column.name));
            let names: Vec<_> = names.map(Cell::Text).collect();
            table.fields(&names, by)?;
        }
        Ok(table)
    }

    fn fields(&mut self, cells: &[Cell<'_>], by: u8) -> io::Result<()> {
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                self.out.write_all(&[by])?;
            }
            match cell.to_text() {
                Some(text) if !self.raw && is_formula(&text) => {
                    self.guarded += 1;
                    self.field(&format!("'{text}"), by)?;
                }
                Some(text) => self.field(&text, by)?,
                None => {}
            }
        }
        self.out.write_all(b"\n")
    }

    fn field(&mut self, text: &str, by: u8) -> io::Result<()> {
        let special = |byte: &u8| [by, b'"', b'\r', b'\n'].contains(byte);
        // An empty text is quoted, to distinguish it from a missing value.
        if !text.is_empty() && !text.as_bytes().iter().any(special) {
            return self.out.write_all(text.as_bytes());
        }
        write!(self.out, "\"{}\"", text.replace('"', "\"\""))
    }

    fn line(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (i, (name, cell)) in self.names.iter().zip(cells).enumerate() {
            let before = if i == 0 { "{" } else { "," };
            let value = match cell {
                Cell::Text(text) => Some(Cow::Owned(json(text))),
                other => other.to_text(),
            };
            let value = value.as_deref().unwrap_or("null");
            write!(self.out, "{before}{name}:{value}")?;
        }
        self.out.write_all(b"}\n")
    }
}

impl<W: Write> Sink for TextTable<W> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let written = match self.delimiter {
            Some(by) => self.fields(cells, by),
            None => self.line(cells),
        };
        written.map_err(unwritable)
    }

    fn finish(mut self: Box<Self>, report: &mut ExportReport) -> Result<(), Error> {
        report.guarded_cells = self.guarded;
        self.out.flush().map_err(unwritable)
    }
}

/// Whether a spreadsheet may evaluate a text. Some skip the blanks, tabs and line ends before it.
fn is_formula(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']) && !is_number(text)
}

/// Digits with an optional sign, decimal point and exponent: `-5`, `+0.25`, `-1e-7`.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = |c: char| c.is_ascii_digit() || ".eE+-".contains(c);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(plain)
        && digits.parse::<f64>().is_ok()
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAS: (u8, bool) = (b',', false);

    fn written((by, raw): (u8, bool), cells: &[Cell<'_>]) -> String {
        let mut table = TextTable::new(Vec::new(), Some(by), raw, &[]).unwrap();
        table.out.clear();
        table.row(cells).unwrap();
        String::from_utf8(table.out).unwrap()
    }

    fn text(text: &str) -> Cell<'_> {
        Cell::Text(text.into())
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let cells = [
            text("a"),
            text(""),
            Cell::Null,
            text("say \"hi\""),
            text("x,y"),
            text("one\r\ntwo"),
            Cell::Bool(true),
            Cell::Float(0.5, "0.50"),
            Cell::Json("{\"a\":[1]}".into()),
        ];
        let expected =
            "a,\"\",,\"say \"\"hi\"\"\",\"x,y\",\"one\r\ntwo\",true,0.50,\"{\"\"a\"\":[1]}\"\n";
        assert_eq!(written(COMMAS, &cells), expected);
        let tabs = (b'\t', false);
        assert_eq!(
            written(tabs, &[text("x,y"), text("a\tb")]),
            "x,y\t\"a\tb\"\n"
        );
    }

    #[test]
    fn formulas_become_texts_and_numbers_stay() {
        for formula in [
            "=cmd()", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " \r\n =1", "＝1",
            "\n- a", "-", "-e5", "+.", "-1e", "--5", "-nan", "+inf", "-1;=1",
        ] {
            let shown = written((b'|', false), &[text(formula)]);
            assert!(
                shown
                    .trim_start_matches('"')
                    .starts_with(&format!("'{formula}"))
            );
            let raw = (b',', true);
            assert!(!written(raw, &[text(formula)]).contains('\''));
        }
        for harmless in [
            "-5",
            "+0.25",
            "-1e-7",
            "\n-.5\n",
            "a=b",
            "",
            "'=1",
            " x",
            "\n\nWrite",
        ] {
            assert!(!is_formula(harmless), "{harmless}");
        }
        assert_eq!(
            written(COMMAS, &[Cell::Int(-5), Cell::Float(-0.5, "-0.5")]),
            "-5,-0.5\n"
        );
    }

    #[test]
    fn names_of_columns_are_cells_too() {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: super::super::cell::ColumnType::Text,
            source: super::super::cell::CellSource::Id,
        };
        let columns = [column("=cmd()"), column("a,b")];
        let table = TextTable::new(Vec::new(), Some(b','), false, &columns).unwrap();
        assert_eq!(table.out, b"'=cmd(),\"a,b\"\n");
        let mut lines = TextTable::new(Vec::new(), None, false, &columns).unwrap();
        lines
            .row(&[text("\u{1b}[2J"), Cell::Json("[1]".into())])
            .unwrap();
        lines.row(&[Cell::Null, Cell::Int(7)]).unwrap();
        lines
            .row(&[Cell::Json("1e400".into()), Cell::Float(1.5, "1.50")])
            .unwrap();
        let expected = "{\"=cmd()\":\"\\u001b[2J\",\"a,b\":[1]}\n{\"=cmd()\":null,\"a,b\":7}\n\
                        {\"=cmd()\":1e400,\"a,b\":1.50}\n";
        assert_eq!(String::from_utf8(lines.out).unwrap(), expected);
    }
}
