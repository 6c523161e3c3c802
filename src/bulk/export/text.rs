//! Tables as text: fields separated by a delimiter and quoted as in RFC 4180, or one JSON object per row.

use std::borrow::Cow;
use std::io::{self, Write};

use super::cell::Cell;
use super::columns::Column;
use super::sink::Sink;
use crate::base::Error;

/// Programs on Windows recognise UTF-8 by this mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The format of fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub delimiter: u8,
    /// Whether cells that a spreadsheet would read as formulas stay unchanged.
    pub raw: bool,
    pub bom: bool,
}

/// A table of delimited fields.
pub(super) struct Delimited<W: Write> {
    out: W,
    style: Style,
}

impl<W: Write> Delimited<W> {
    pub(super) fn new(mut out: W, style: Style, columns: &[Column]) -> io::Result<Self> {
        if style.bom {
            out.write_all(BYTE_ORDER_MARK)?;
        }
        let mut table = Self { out, style };
        let names = columns
            .iter()
            .map(|column| Some(Cow::Borrowed(column.name.as_str())));
        table.write(names)?;
        Ok(table)
    }

    fn write<'c>(&mut self, fields: impl Iterator<Item = Option<Cow<'c, str>>>) -> io::Result<()> {
        for (i, field) in fields.enumerate() {
            if i > 0 {
                self.out.write_all(&[self.style.delimiter])?;
            }
            if let Some(text) = field {
                let harmless = if self.style.raw {
                    text
                } else {
                    neutralized(text)
                };
                self.field(&harmless)?;
            }
        }
        self.out.write_all(b"\n")
    }

    fn field(&mut self, text: &str) -> io::Result<()> {
        let special = |byte: &u8| [self.style.delimiter, b'"', b'\r', b'\n'].contains(byte);
        // An empty text is quoted, to distinguish it from a missing value.
        if !text.is_empty() && !text.as_bytes().iter().any(special) {
            return self.out.write_all(text.as_bytes());
        }
        self.out.write_all(b"\"")?;
        for (i, part) in text.split('"').enumerate() {
            if i > 0 {
                self.out.write_all(b"\"\"")?;
            }
            self.out.write_all(part.as_bytes())?;
        }
        self.out.write_all(b"\"")
    }
}

impl<W: Write> Sink for Delimited<W> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let fields = cells.iter().map(Cell::to_text);
        self.write(fields)
            .map_err(|error| super::sink::unwritable(&error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let flushed = self.out.flush();
        flushed.map_err(|error| super::sink::unwritable(&error))
    }
}

/// A text that a spreadsheet shows instead of evaluating: the beginning of a formula gets a leading apostrophe.
/// Numbers stay numbers.
fn neutralized(text: Cow<'_, str>) -> Cow<'_, str> {
    let dangerous = |c| {
        matches!(
            c,
            '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠'
        )
    };
    if text.starts_with(dangerous) && !is_number(&text) {
        Cow::Owned(format!("'{text}"))
    } else {
        text
    }
}

/// Digits with an optional sign, decimal point and exponent: `-5`, `+0.25`, `-1e-7`.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = |c: char| c.is_ascii_digit() || ".eE+-".contains(c);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(plain)
        && digits.parse::<f64>().is_ok()
}

/// One JSON object per row.
pub(super) struct Lines<W: Write> {
    out: W,
    /// The names as JSON.
    names: Vec<String>,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W, columns: &[Column]) -> Self {
        let names = columns.iter().map(|column| json(&column.name)).collect();
        Self { out, names }
    }

    fn write(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (i, (name, cell)) in self.names.iter().zip(cells).enumerate() {
            let before = if i == 0 { "{" } else { "," };
            let value = match cell {
                Cell::Text(text) => Some(Cow::Owned(json(text))),
                other => other.to_text(),
            };
            write!(
                self.out,
                "{before}{name}:{}",
                value.as_deref().unwrap_or("null")
            )?;
        }
        self.out.write_all(b"}\n")
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl<W: Write> Sink for Lines<W> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        self.write(cells)
            .map_err(|error| super::sink::unwritable(&error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let flushed = self.out.flush();
        flushed.map_err(|error| super::sink::unwritable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        delimiter: b',',
        raw: false,
        bom: false,
    };

    fn written(style: Style, cells: &[Cell<'_>]) -> String {
        let mut table = Delimited::new(Vec::new(), style, &[]).unwrap();
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
        assert_eq!(written(STYLE, &cells), expected);
        let tabs = Style {
            delimiter: b'\t',
            ..STYLE
        };
        assert_eq!(
            written(tabs, &[text("x,y"), text("a\tb")]),
            "x,y\t\"a\tb\"\n"
        );
    }

    #[test]
    fn formulas_become_texts_and_numbers_stay() {
        for formula in [
            "=cmd()", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "-e5", "+.",
            "-1e", "--5", "-nan", "+inf", "-1;=1",
        ] {
            let found = neutralized(Cow::Borrowed(formula));
            assert_eq!(found, format!("'{formula}"));
            let raw = Style { raw: true, ..STYLE };
            assert!(!written(raw, &[text(formula)]).contains('\''));
        }
        for harmless in ["-5", "+0.25", "-1e-7", "-.5", "a=b", "", "'=1", " x"] {
            assert_eq!(neutralized(Cow::Borrowed(harmless)), harmless);
        }
        assert_eq!(
            written(STYLE, &[Cell::Int(-5), Cell::Float(-0.5, "-0.5")]),
            "-5,-0.5\n"
        );
    }

    #[test]
    fn names_of_columns_are_cells_too() {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: super::super::cell::ColumnType::Text,
            source: super::super::row::CellSource::Id,
            likely: 0,
        };
        let columns = [column("=cmd()"), column("a,b")];
        let style = Style { bom: true, ..STYLE };
        let table = Delimited::new(Vec::new(), style, &columns).unwrap();
        assert_eq!(table.out, b"\xef\xbb\xbf'=cmd(),\"a,b\"\n");
        let mut lines = Lines::new(Vec::new(), &columns);
        lines
            .row(&[text("\u{1b}[2J"), Cell::Json("[1]".into())])
            .unwrap();
        lines.row(&[Cell::Null, Cell::Int(7)]).unwrap();
        lines
            .row(&[Cell::Digits("1e400"), Cell::Float(1.5, "1.50")])
            .unwrap();
        let expected = "{\"=cmd()\":\"\\u001b[2J\",\"a,b\":[1]}\n{\"=cmd()\":null,\"a,b\":7}\n\
                        {\"=cmd()\":1e400,\"a,b\":1.50}\n";
        assert_eq!(String::from_utf8(lines.out).unwrap(), expected);
    }
}
