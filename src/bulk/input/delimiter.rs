//! The separator of a table's fields: spreadsheets use `;` in countries with a decimal comma.

use memchr::memchr;

use super::cells::fields;
use super::fault::Fault;
use super::rows::{Next, next_row};

/// Separators that are detected, in addition to the comma.
pub(super) const OTHERS: [u8; 3] = [b';', b'\t', b'|'];

/// The separator that a first line such as `sep=;` names, and the length of that line.
pub(super) fn named(start: &[u8]) -> Option<(u8, usize)> {
    let end = memchr(b'\n', start)?;
    let line = start[..end].strip_suffix(b"\r").unwrap_or(&start[..end]);
    let bare = line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\""));
    match bare.unwrap_or(line) {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', by] if fits(*by) => Some((*by, end + 1)),
        _ => None,
    }
}

/// Whether it can be a separator.
pub(super) fn fits(by: u8) -> bool {
    by.is_ascii() && !matches!(by, b'"' | b'\n' | b'\r' | 0)
}

/// Detects the separator from the header and the row below it, which must have the same number of fields. `last` means
/// that no more bytes follow.
pub(super) fn find(start: &[u8], last: bool) -> Result<u8, Fault> {
    let agree = |by: &u8| {
        let (header, row) = counts(start, *by, last);
        header > 1 && row.is_none_or(|n| n == header)
    };
    let found: Vec<u8> = OTHERS.into_iter().filter(agree).collect();
    let comma = counts(start, b',', last).0 > 1;
    match (comma, found.as_slice()) {
        (_, []) => Ok(b','),
        (false, [one]) => Ok(*one),
        _ => {
            let all = comma.then_some(b',').into_iter().chain(found);
            let all: Vec<String> = all.map(quoted).collect();
            Err(Fault::new(
                format!("columns that {} separate equally well", all.join(" and ")),
                format!(
                    "the delimiter to use: --delimiter {}",
                    all.join(" or --delimiter ")
                ),
            ))
        }
    }
}

/// Number of fields of the header, and of the row below it, if it exists.
fn counts(start: &[u8], by: u8, last: bool) -> (usize, Option<usize>) {
    let count = |row: &[u8]| fields(&String::from_utf8_lossy(row), by).len();
    let Next::Record {
        start: at,
        end,
        after,
    } = next_row(start, by, true, last)
    else {
        return (0, None);
    };
    let below = &start[after..];
    let row = match next_row(below, by, true, last) {
        Next::Record { start, end, .. } => Some(count(&below[start..end])),
        _ => None,
    };
    (count(&start[at..end]), row)
}

/// Quoted for a shell.
fn quoted(by: u8) -> String {
    match by {
        b'\t' => "tab".to_owned(),
        by => format!("'{}'", char::from(by)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cases::{cases, unescaped};

    #[test]
    fn the_separator_is_found_by_header_and_row() {
        for (table, expected) in cases(include_str!("delimiter_cases.txt")) {
            match find(unescaped(table).as_bytes(), true) {
                Ok(by) => assert_eq!(char::from(by).to_string(), unescaped(expected), "{table}"),
                Err(fault) => assert_eq!(fault.to_string(), expected, "{table}"),
            }
        }
    }

    #[test]
    fn a_first_line_may_name_the_separator() {
        assert_eq!(named(b"sep=;\r\na;b"), Some((b';', 7)));
        assert_eq!(named(b"SEP=\t\na\tb"), Some((b'\t', 6)));
        assert_eq!(named(b"\"sep=,\"\n"), Some((b',', 8)));
        for none in ["sep=;", "sep=\n", "sep=\"\n", "sep;a\n", "id,text\n"] {
            assert_eq!(named(none.as_bytes()), None, "{none}");
        }
    }
}
