//! A worksheet of a workbook.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use calamine::{Cell, DataRef, ExcelDateTime, Reader, Xlsx};
use serde_json::Value as Json;

use crate::panics::unless_it_panics;
use crate::time::{time, timestamp};
use crate::{Error, Rows, Value, give};

/// Up to this number, floating-point numbers represent all integers exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// This many empty cells of a worksheet are remembered, to say which of them have a formula.
const MOST_EMPTY: usize = 100_000;

/// Reads the rows below the header of a worksheet: the one of this name, or the first one. A column may have
/// no name. A cell with an error, or with a formula whose value is not stored, is null, which
/// the log says.
///
/// # Errors
/// [`Error::Refused`] for a file that is not a workbook, or has no such worksheet; the errors of `rows`.
pub fn read_sheet(path: &Path, sheet: Option<&str>, rows: &mut dyn Rows) -> Result<(), Error> {
    // The reader panics on some numbers that are out of range.
    let read = unless_it_panics(|| read(path, sheet, rows));
    read.unwrap_or_else(|| Err(Error::unreadable("it is damaged")))
}

fn read(path: &Path, sheet: Option<&str>, rows: &mut dyn Rows) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::unreadable)?;
    let mut book = Xlsx::new(BufReader::new(file)).map_err(Error::unreadable)?;
    let sheet = chosen(book.sheet_names(), sheet).map_err(Error::Refused)?;
    let reader = book.worksheet_cells_reader(&sheet);
    let mut reader = reader.map_err(Error::unreadable)?;
    let mut names = Vec::new();
    let mut header = None;
    // The row that is being read, from the first one below the header on.
    let (mut line, mut at) = (Vec::new(), 0);
    let (mut errors, mut empty) = (Nulls::default(), HashSet::new());
    while let Some(cell) = reader.next_cell().map_err(Error::unreadable)? {
        let (row, column) = cell.get_position();
        match cell.get_value() {
            DataRef::Error(error) => errors.note(|| format!("{} ({error})", place((row, column)))),
            DataRef::Empty if empty.len() < MOST_EMPTY => drop(empty.insert((row, column))),
            _ => {}
        }
        let value = Value::Json(json(&cell));
        // A blank text is a value, but makes no header and no column.
        let is_named =
            header.is_some_and(|header| row != header) && (column as usize) < names.len();
        if value.is_nothing() && !is_named {
            continue;
        }
        if row == *header.get_or_insert(row) {
            name(&mut names, column as usize, value);
            continue;
        }
        // Cells of earlier rows would be added to rows that are given already.
        if row < at {
            return Err(Error::unreadable("its cells are not in their order"));
        }
        if line.is_empty() {
            at = header.unwrap_or(row) + 1;
            rows.columns(&names, at.into())?;
            line.resize(names.len(), Value::Json(Json::Null));
        }
        while at < row {
            give(rows, &line)?;
            line.fill(Value::Json(Json::Null));
            at += 1;
        }
        let Some(place) = line.get_mut(column as usize) else {
            return Err(Error::Refused(format!(
                "found a value in {}, whose column has no name; expected a name in row {}",
                place((row, column)),
                header.unwrap_or(row) + 1
            )));
        };
        *place = value;
    }
    drop(reader);
    errors.warn(path, &sheet, "an error in place of a value");
    if !empty.is_empty() {
        let formulas = formulas(&mut book, &sheet, &empty)?;
        formulas.warn(path, &sheet, "a formula without a stored value");
    }
    match header {
        None => Err(Error::Refused(format!(
            "found no cells in the sheet \"{sheet}\"; expected a header row and rows below it"
        ))),
        Some(header) if line.is_empty() => rows.columns(&names, u64::from(header) + 1),
        Some(_) => give(rows, &line),
    }
}

/// The places of these empty cells that have a formula. Programs that do not calculate write one without its value.
fn formulas(
    book: &mut Xlsx<BufReader<File>>,
    sheet: &str,
    empty: &HashSet<(u32, u32)>,
) -> Result<Nulls, Error> {
    let reader = book.worksheet_cells_reader(sheet);
    let mut reader = reader.map_err(Error::unreadable)?;
    let mut found = Nulls::default();
    while let Some(cell) = reader.next_formula().map_err(Error::unreadable)? {
        if empty.contains(&cell.get_position()) && !cell.get_value().is_empty() {
            found.note(|| place(cell.get_position()));
        }
    }
    Ok(found)
}

/// Cells that count as null for one reason: their number, and the first one.
#[derive(Default)]
struct Nulls(usize, Option<String>);

impl Nulls {
    fn note(&mut self, place: impl FnOnce() -> String) {
        self.0 += 1;
        self.1.get_or_insert_with(place);
    }

    fn warn(&self, path: &Path, sheet: &str, what: &str) {
        let Self(count, Some(first)) = self else {
            return;
        };
        log::warn!(
            "{}: {count} cells of the sheet \"{sheet}\" have {what} and count as null, the first one is {first}; open the \
             workbook in a spreadsheet program, which calculates them, and save it",
            path.display()
        );
    }
}

/// Names a column. One before it may have no name.
fn name(names: &mut Vec<String>, column: usize, name: Value) {
    while names.len() <= column {
        names.push(String::new());
    }
    if let Value::Json(name) = name {
        names[column] = match name.as_str() {
            Some(name) => name.trim().to_owned(),
            None => name.to_string(),
        };
    }
}

fn chosen(sheets: Vec<String>, wanted: Option<&str>) -> Result<String, String> {
    let Some(wanted) = wanted else {
        let first = sheets.into_iter().next();
        return first.ok_or_else(|| "found no worksheet; expected one".to_owned());
    };
    match sheets.iter().find(|name| *name == wanted) {
        Some(name) => Ok(name.clone()),
        None => {
            let there: Vec<String> = sheets.iter().map(|name| format!("\"{name}\"")).collect();
            Err(format!(
                "found no sheet \"{wanted}\"; expected one of {}",
                there.join(", ")
            ))
        }
    }
}

fn json(cell: &Cell<DataRef<'_>>) -> Json {
    match cell.get_value() {
        DataRef::Empty => Json::Null,
        DataRef::Int(n) => (*n).into(),
        DataRef::Float(x) => number(*x),
        DataRef::String(text) => text.as_str().into(),
        DataRef::SharedString(text) => (*text).into(),
        DataRef::Bool(yes) => (*yes).into(),
        DataRef::DateTime(when) if !is_moment(when) => number(when.as_f64()),
        DataRef::DateTime(when) => moment(when).into(),
        DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.as_str().into(),
        DataRef::Error(_) => Json::Null,
    }
}

/// A number. Worksheets have no integers.
fn number(x: f64) -> Json {
    if x.fract() == 0.0 && x.abs() <= EXACT {
        (x as i64).into()
    } else {
        x.into()
    }
}

/// Whether Excel shows a date or a time for it, up to the year 9999; it shows `####` for any other number.
fn is_moment(when: &ExcelDateTime) -> bool {
    const DAYS: f64 = 2_958_466.0;
    if when.is_duration() {
        when.as_f64().abs() < DAYS
    } else {
        (0.0..DAYS).contains(&when.as_f64())
    }
}

/// Whether it is a time of day, or a duration.
fn is_time(when: &ExcelDateTime) -> bool {
    when.is_duration() || (0.0..1.0).contains(&when.as_f64())
}

/// A date, a time of day, both, or a duration.
fn moment(when: &ExcelDateTime) -> String {
    const MILLIS_OF_DAY: f64 = 86_400_000.0;
    let millis = (when.as_f64() * MILLIS_OF_DAY).round();
    let nanos = millis as i128 * 1_000_000;
    if is_time(when) {
        let sign = if nanos < 0 { "-" } else { "" };
        return format!("{sign}{}", time(nanos.abs()));
    }
    let (year, month, day, hour, minute, second, milli) = when.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    let of_day = [hour, minute, second].map(i128::from);
    let seconds = (of_day[0] * 60 + of_day[1]) * 60 + of_day[2];
    match seconds * 1_000_000_000 + i128::from(milli) * 1_000_000 {
        0 => date,
        nanos => timestamp(nanos, false).replacen("1970-01-01", &date, 1),
    }
}

/// As spreadsheet programs name a cell.
fn place((row, column): (u32, u32)) -> String {
    format!("{}{}", letters(column as usize), u64::from(row) + 1)
}

/// The letters of a column in a worksheet: A to Z, AA and so on.
fn letters(column: usize) -> String {
    let mut name = String::new();
    let mut rest = column + 1;
    while rest > 0 {
        let digit = (rest - 1) % 26;
        name.insert(0, char::from(b'A' + u8::try_from(digit).unwrap_or(0)));
        rest = (rest - 1) / 26;
    }
    name
}
