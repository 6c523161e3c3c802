//! A row of a table split into its fields, as RFC 4180 has it. Written here rather than
//! taken from a reader, because rows are parsed one by one on any thread; tests hold it against the csv
//! crate.

use std::borrow::Cow;

use memchr::memchr;

/// The fields of one row. Like other readers it takes a quote inside an unquoted field, and text
/// after a closing quote, as they stand.
pub(super) fn fields(row: &str, delimiter: u8) -> Vec<Cow<'_, str>> {
    let bytes = row.as_bytes();
    let plain_end =
        |from: usize| memchr(delimiter, &bytes[from..]).map_or(bytes.len(), |i| from + i);
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let end = if bytes.get(at) == Some(&b'"') {
            let (mut field, closed) = quoted(row, at + 1);
            let end = plain_end(closed);
            if end > closed {
                field.to_mut().push_str(&row[closed..end]);
            }
            out.push(field);
            end
        } else {
            let end = plain_end(at);
            out.push(Cow::Borrowed(&row[at..end]));
            end
        };
        if end == bytes.len() {
            return out;
        }
        at = end + 1;
    }
}

/// The quoted text that begins at `from`, and where its closing quote has ended.
fn quoted(row: &str, from: usize) -> (Cow<'_, str>, usize) {
    let bytes = row.as_bytes();
    let mut field = Cow::Borrowed("");
    let mut at = from;
    loop {
        let end = memchr(b'"', &bytes[at..]).map_or(bytes.len(), |i| at + i);
        field += &row[at..end];
        if bytes.get(end + 1) != Some(&b'"') {
            return (field, (end + 1).min(bytes.len()));
        }
        field += "\"";
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_guard_delimiters_quotes_and_line_ends() {
        for (row, expected) in [
            ("a,b", vec!["a", "b"]),
            ("", vec![""]),
            ("a,", vec!["a", ""]),
            (",", vec!["", ""]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            (
                "\"say \"\"hi\"\"\",\"two\r\nlines\"",
                vec!["say \"hi\"", "two\r\nlines"],
            ),
            ("\"\",\"\"\"\"", vec!["", "\""]),
            ("a\"b,\"c\"d,\"e", vec!["a\"b", "cd", "e"]),
            (" \"a\", b", vec![" \"a\"", " b"]),
        ] {
            assert_eq!(fields(row, b','), expected, "{row:?}");
        }
        assert_eq!(fields("a,b\t\"c\td\"", b'\t'), ["a,b", "c\td"]);
    }
}
