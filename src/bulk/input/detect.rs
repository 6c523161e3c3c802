//! Detects the format of lines that have no declared format, and the separator of a table's fields. Lines of another
//! format would be billed as prompts, so ambiguous lines are rejected with a question.

use std::borrow::Cow;

use memchr::memchr;

use super::cells::Rows;
use super::fault::{self, Fault, excerpt};
use super::records::is_blank;
use super::{Form, PromptSettings};
use crate::base::Error;
use crate::base::json_read::without_bom;

/// Maximum length of text that counts as the name of a column.
const LONGEST_NAME: usize = 40;

/// The separators of tables that are detected in a text.
const SEPARATORS: [u8; 4] = [b'\t', b',', b';', b'|'];

/// Rejects text that is not UTF-8 according to its first bytes.
pub(crate) fn check_encoding(start: &[u8]) -> Result<(), Fault> {
    let (found, mend) = match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => (
            "UTF-16 text",
            "say --encoding utf-16, save it as CSV UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 in.csv > \
             out.csv",
        ),
        [b'P', b'K', 3, 4, ..] => (
            "a spreadsheet such as .xlsx, or another ZIP archive",
            "name it as a file that ends in .xlsx, or save it as CSV UTF-8",
        ),
        [b'P', b'A', b'R', b'1', ..] => ("a Parquet file", "name it as a file, not as a pipe"),
        [b'S', b'Q', b'L', b'i', b't', b'e', b' ', ..] if start.contains(&0) => {
            ("an SQLite file", "name it as a file, not as a pipe")
        }
        _ => return check_pointer(start),
    };
    Err(Fault::new(found, format!("UTF-8 text: {mend}")))
}

/// The first bytes of what Git LFS leaves in place of a file, by its specification.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Rejects such a pointer, whatever the name says.
fn check_pointer(start: &[u8]) -> Result<(), Fault> {
    if start.starts_with(POINTER) {
        return Err(Fault::new(
            "a pointer of Git LFS, not the file itself",
            "the file: fetch it with git lfs pull",
        ));
    }
    Ok(())
}

/// The same for a file whose name says that it is not text.
pub(crate) fn check_file(name: &str, start: &[u8]) -> Result<(), Error> {
    check_pointer(start).map_err(|fault| fault::of_file(name, fault))
}

/// The fault of a table with these names of columns; if they look like a row of data, with what helps.
pub(super) fn for_data(fault: Fault, names: &[String]) -> Fault {
    // Questions of surveys are long names, and years are names too.
    let is_year = |n: f64| (1000.0..3000.0).contains(&n);
    let is_data = |cell: &&String| {
        cell.trim()
            .parse::<f64>()
            .is_ok_and(|number| !is_year(number))
    };
    let longest = (1..)
        .zip(names)
        .max_by_key(|(_, name)| name.chars().count());
    let (Some((column, _)), Some(_)) = (longest, names.iter().find(is_data)) else {
        return fault;
    };
    fault.with_flags(format!(
        "if the first row is data: --format csv:no-header --template '{{{{column {column}}}}}'"
    ))
}

/// The format of a stream according to its first lines that are not blank.
pub(super) fn of_stream(start: &[u8]) -> Result<Form, Fault> {
    let [first, _] = first_lines(start);
    if first.starts_with(b"{") {
        return Ok(Form::Jsonl);
    }
    let line = std::str::from_utf8(first).unwrap_or_default();
    if is_list(line) {
        return Err(asked(line, "a JSON list", "json"));
    }
    check_text(start).map(|()| Form::Text)
}

/// Rejects a text with the beginning of another format.
pub(super) fn check_text(start: &[u8]) -> Result<(), Fault> {
    let [first, second] = first_lines(start);
    let (Ok(line), Ok(second)) = (std::str::from_utf8(first), std::str::from_utf8(second)) else {
        return Ok(());
    };
    if line.starts_with('{') && serde_json::from_str::<Object>(line).is_ok() {
        return Err(asked(line, "JSON lines", "jsonl"));
    }
    // A line with commas is normal in a text; a second one with the same number is not.
    let table = || {
        SEPARATORS.into_iter().find(|by| {
            let n = columns(line, *by);
            n > 1 && cells(second, *by).len() == n
        })
    };
    let named = named_delimiter(&[first, b"\n"].concat()).map(|_| b',');
    match named.or_else(table) {
        None => Ok(()),
        Some(b'\t') => Err(asked(line, "a table", "tsv")),
        Some(_) => Err(asked(line, "a table", "csv")),
    }
}

type Object = serde_json::Map<String, serde_json::Value>;

fn asked(line: &str, what: &str, name: &str) -> Fault {
    Fault::new(
        format!("what looks like {what} ({})", excerpt(line)),
        format!("one prompt per line; set the format: --format {name}, or --format txt for text"),
    )
}

/// The cells of a line as the row of a table.
fn cells(line: &str, by: u8) -> Vec<String> {
    let row = Rows::new(line.as_bytes(), by, true, 1).next();
    let row = row.ok().flatten().unwrap_or_default();
    row.texts().map(Cow::into_owned).collect()
}

fn first_lines(start: &[u8]) -> [&[u8]; 2] {
    let lines = without_bom(start).split(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| !is_blank(line)).map(<[u8]>::trim_ascii);
    [lines.next(), lines.next()].map(Option::unwrap_or_default)
}

/// The beginning of a list of objects, texts, numbers or nulls; `[INST]` is not.
fn is_list(line: &str) -> bool {
    let inside = line.strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|rest| match rest.chars().next() {
        None => true,
        Some(first) => matches!(first, '{' | '[' | '"' | ']') || first.is_ascii_digit(),
    })
}

/// Number of columns if the line looks like a row of a table: of names, or of quoted fields; otherwise 0.
fn columns(line: &str, by: u8) -> usize {
    let row = cells(line, by);
    let by = char::from(by);
    let letter = |c: char| c.is_alphanumeric() || "_-. ()/#%&$@*".contains(c);
    let is_name = |name: &str| name.chars().count() <= LONGEST_NAME && name.chars().all(letter);
    let names = row.iter().all(|name| is_name(name.trim()))
        && row.iter().any(|name| name.chars().any(char::is_alphabetic));
    let quoted = line.contains(&format!("{by}\""))
        || line.starts_with('"') && line.contains(&format!("\"{by}"));
    if names || quoted { row.len() } else { 0 }
}

/// Separators that are detected, in addition to the comma.
const OTHERS: [u8; 3] = [b';', b'\t', b'|'];

/// The separator of a table that begins with these bytes, and the length of the line that names it. `last` means that no
/// more bytes follow.
pub(crate) fn delimiter(
    start: &[u8],
    last: bool,
    form: Form,
    settings: &PromptSettings,
) -> Result<(u8, usize), Fault> {
    check_encoding(start)?;
    if settings.delimiter.is_some_and(|by| !can_delimit(by)) {
        return Err(Fault::new(
            "a delimiter that cannot separate fields",
            "one ASCII character that is not a quote or a line end",
        ));
    }
    let named = named_delimiter(start);
    let skipped = named.map_or(0, |(_, len)| len);
    let by = match (settings.delimiter, named, form) {
        (Some(by), ..) | (None, Some((by, _)), _) => by,
        (None, None, Form::Tsv) => b'\t',
        _ => find_delimiter(&start[skipped..], last)?,
    };
    Ok((by, skipped))
}

/// The separator that a first line such as `sep=;` names, and the length of that line.
fn named_delimiter(start: &[u8]) -> Option<(u8, usize)> {
    let end = memchr(b'\n', start)?;
    let line = start[..end].strip_suffix(b"\r").unwrap_or(&start[..end]);
    let bare = line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\""));
    match bare.unwrap_or(line) {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', by] if can_delimit(*by) => {
            Some((*by, end + 1))
        }
        _ => None,
    }
}

/// Whether it can be a separator.
fn can_delimit(by: u8) -> bool {
    by.is_ascii() && !matches!(by, b'"' | b'\n' | b'\r' | 0)
}

/// Detects the separator from the header and the row below it, which must have the same number of fields. `last` means
/// that no more bytes follow.
fn find_delimiter(start: &[u8], last: bool) -> Result<u8, Fault> {
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
    let mut rows = Rows::new(start, by, true, 1);
    let mut count = || {
        let row = rows.next().ok()??;
        let is_complete = row.is_ended || last && row.last_fault.is_none();
        is_complete.then(|| row.len())
    };
    (count().unwrap_or(0), count())
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
    use proptest::prelude::*;

    use super::*;
    use crate::base::cases::{cases, unescaped};

    #[test]
    fn possible_tables_and_lists_are_rejected_and_text_is_accepted() {
        for (line, name) in cases(include_str!("detect_cases.txt")) {
            let line = unescaped(line);
            match of_stream(line.as_bytes()) {
                Ok(form) => assert_eq!((form, name), (Form::Text, "text"), "{line}"),
                Err(fault) => {
                    let fault = fault.to_string();
                    assert!(
                        fault.contains(&format!("--format {name},")),
                        "{line}: {fault}"
                    );
                }
            }
        }
        assert_eq!(of_stream(b"").unwrap(), Form::Text);
        assert_eq!(of_stream(b"\n {\"a\"").unwrap(), Form::Jsonl);
        assert_eq!(of_stream(b"\xff,\xfe").unwrap(), Form::Text);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_format_or_an_error(
            bytes in prop::collection::vec(prop_oneof![
                any::<u8>(),
                prop::sample::select(b"a,\t\"[{\r\n \0\xef\xbb\xbf".to_vec()),
            ], 0..60),
        ) {
            let [first, _] = first_lines(&bytes);
            let form = of_stream(&bytes);
            prop_assert_eq!(form == Ok(Form::Jsonl), first.starts_with(b"{"));
            let _ = check_text(&bytes);
            // A line feed before it changes nothing.
            let later = [b"\r\n", without_bom(&bytes)].concat();
            prop_assert_eq!(of_stream(&later), form);
        }
    }

    #[test]
    fn a_text_file_is_doubted_only_if_its_lines_agree() {
        for text in [
            "{\"prompt\":\"a\"}\n",
            "id,text\n1,a\n",
            "id\ttext\r\n1\ta\r\n",
        ] {
            assert!(check_text(text.as_bytes()).is_err(), "{text}");
        }
        for text in [
            "",
            "{name} says hi\n",
            "cats,dogs\nand birds\n",
            "id,text\n",
            "one\ntwo\n",
        ] {
            assert!(check_text(text.as_bytes()).is_ok(), "{text}");
        }
    }
}

#[cfg(test)]
mod delimiter_tests {
    use super::*;
    use crate::base::cases::{cases, unescaped};

    #[test]
    fn the_separator_is_found_by_header_and_row() {
        for (table, expected) in cases(include_str!("delimiter_cases.txt")) {
            match find_delimiter(unescaped(table).as_bytes(), true) {
                Ok(by) => assert_eq!(char::from(by).to_string(), unescaped(expected), "{table}"),
                Err(fault) => assert_eq!(fault.to_string(), expected, "{table}"),
            }
        }
    }

    #[test]
    fn a_first_line_may_name_the_separator() {
        assert_eq!(named_delimiter(b"sep=;\r\na;b"), Some((b';', 7)));
        assert_eq!(named_delimiter(b"SEP=\t\na\tb"), Some((b'\t', 6)));
        assert_eq!(named_delimiter(b"\"sep=,\"\n"), Some((b',', 8)));
        for none in ["sep=;", "sep=\n", "sep=\"\n", "sep;a\n", "id,text\n"] {
            assert_eq!(named_delimiter(none.as_bytes()), None, "{none}");
        }
    }
}
