//! Tables of test cases in text files.

/// The cases of a table: a line with an input, and a line with what is expected, which is indented by two spaces. Lines
/// that begin with `//` are comments.
pub(crate) fn cases(table: &str) -> Vec<(&str, &str)> {
    let mut lines = table.lines().filter(|line| !line.starts_with("//"));
    let mut cases = Vec::new();
    while let Some(input) = lines.next() {
        let expected = lines.next().and_then(|line| line.strip_prefix("  "));
        cases.push((input, expected.expect(input)));
    }
    cases
}

/// The text with control characters in place of `\n`, `\r`, `\t`, `\0`, `\\`, and a byte order mark in place of `\f`.
pub(crate) fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(char) = chars.next() {
        plain.push(match char {
            '\\' => match chars.next().expect(text) {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'f' => '\u{feff}',
                same => same,
            },
            char => char,
        });
    }
    plain
}
