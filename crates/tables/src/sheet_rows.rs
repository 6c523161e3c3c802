//! A worksheet of a workbook. It is read twice, because a column may have cells but no name.

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

/// Reads the rows below the header of a worksheet: the one of this name, or the first one. A column without a name is
/// named by its letters. A cell with an error in place of a value is null, which the log says.
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
    let Some(columns) = columns(&mut book, &sheet, path, rows)? else {
        return Err(Error::Refused(format!(
            "found no cells in the sheet \"{sheet}\"; expected a header row and rows below it"
        )));
    };
    rows.columns(&columns.names, u64::from(columns.header) + 1)?;
    let mut line = vec![Value::Json(Json::Null); columns.names.len()];
    let mut at = columns.header + 1;
    each_cell(&mut book, &sheet, rows, &mut |rows, row, column, cell| {
        if row <= columns.header {
            return Ok(());
        }
        while at < row {
            give(rows, &line)?;
            line.fill(Value::Json(Json::Null));
            at += 1;
        }
        if let Some(place) = columns.places.get(column).copied().flatten() {
            line[place] = Value::Json(json(cell));
        }
        Ok(())
    })?;
    give(rows, &line)
}

type Book = Xlsx<BufReader<File>>;

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

struct Columns {
    /// The row with the names, from 0.
    header: u32,
    names: Vec<String>,
    /// The output column of each column of the sheet, if it has one.
    places: Vec<Option<usize>>,
}

/// The columns that have a name or a cell below the header. A column without a name is named by its letters in the
/// sheet.
fn columns(
    book: &mut Book,
    sheet: &str,
    path: &Path,
    rows: &mut dyn Rows,
) -> Result<Option<Columns>, Error> {
    let mut header = None;
    let mut named: Vec<Option<String>> = Vec::new();
    let mut empty = HashSet::new();
    let (mut first_error, mut errors) = (None, 0);
    each_cell(book, sheet, rows, &mut |_, row, column, cell| {
        let value = json(cell);
        if let DataRef::Error(error) = cell.get_value() {
            first_error.get_or_insert_with(|| format!("{} ({error})", place(cell.get_position())));
            errors += 1;
        }
        if matches!(cell.get_value(), DataRef::Empty) && empty.len() < MOST_EMPTY {
            empty.insert(cell.get_position());
        }
        if Value::Json(value.clone()).is_nothing() {
            return Ok(());
        }
        if named.len() <= column {
            named.resize(column + 1, None);
        }
        if row == *header.get_or_insert(row) {
            let name = value
                .as_str()
                .map_or_else(|| value.to_string(), |name| name.trim().to_owned());
            named[column] = Some(name).filter(|name| !name.is_empty());
        } else if named[column].is_none() {
            named[column] = Some(letters(column));
        }
        Ok(())
    })?;
    warn_of_formulas(book, sheet, path, &empty)?;
    if let Some(first) = first_error {
        log::warn!(
            "{}: {errors} cells of the sheet \"{sheet}\" have an error in place of a value and count as null, the first one is \
             {first}",
            path.display()
        );
    }
    let places = named.iter().scan(0, |next, name| {
        *next += usize::from(name.is_some());
        Some(name.as_ref().map(|_| *next - 1))
    });
    let places: Vec<Option<usize>> = places.collect();
    Ok(header.map(|header| Columns {
        header,
        places,
        names: named.iter().flatten().cloned().collect(),
    }))
}

/// Says which of these empty cells have a formula. Programs that do not calculate write one without its value.
fn warn_of_formulas(
    book: &mut Book,
    sheet: &str,
    path: &Path,
    empty: &HashSet<(u32, u32)>,
) -> Result<(), Error> {
    if empty.is_empty() {
        return Ok(());
    }
    let reader = book.worksheet_cells_reader(sheet);
    let mut reader = reader.map_err(Error::unreadable)?;
    let (mut first, mut count) = (None, 0);
    while let Some(cell) = reader.next_formula().map_err(Error::unreadable)? {
        if empty.contains(&cell.get_position()) && !cell.get_value().is_empty() {
            first.get_or_insert(cell.get_position());
            count += 1;
        }
    }
    if let Some(first) = first {
        log::warn!(
            "{}: {count} cells of the sheet \"{sheet}\" have a formula without a stored value and count as null, the \
             first one is {}; open the workbook in a spreadsheet program and save it, which calculates them",
            path.display(),
            place(first),
        );
    }
    Ok(())
}

/// As spreadsheet programs name a cell.
fn place((row, column): (u32, u32)) -> String {
    format!("{}{}", letters(column as usize), u64::from(row) + 1)
}

/// Processes a cell with its row and column, from 0.
type Visit<'v> = dyn FnMut(&mut dyn Rows, u32, usize, &Cell<DataRef<'_>>) -> Result<(), Error> + 'v;

fn each_cell(
    book: &mut Book,
    sheet: &str,
    rows: &mut dyn Rows,
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    let reader = book.worksheet_cells_reader(sheet);
    let mut reader = reader.map_err(Error::unreadable)?;
    let mut last = (0, None);
    loop {
        let cell = reader.next_cell().map_err(Error::unreadable)?;
        let Some(cell) = cell else {
            return Ok(());
        };
        let (row, column) = cell.get_position();
        // Cells of earlier rows would be added to rows that are written already.
        if (row, Some(column)) < last {
            return Err(Error::unreadable("its cells are not in their order"));
        }
        if row != last.0 && row.is_multiple_of(1000) {
            rows.check()?;
        }
        last = (row, Some(column));
        visit(rows, row, column as usize, &cell)?;
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
