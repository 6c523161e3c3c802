//! Cases in a table, for the tests of all packages.

/// The cases of a test, one in a line: `what is given => what is expected`.
pub fn cases(table: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| {
        let (given, expected) = line.split_once("=>").unwrap_or_else(|| panic!("{line}"));
        (given.trim(), expected.trim())
    })
}
