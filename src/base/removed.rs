//! What replaces a removed name.

/// The sentence for `key` in a table of removed names: one name per line, as `KEY | sentence`.
pub fn replacement(table: &'static str, key: &str) -> Option<&'static str> {
    let mut rows = table.lines().filter_map(|line| line.split_once(" | "));
    let (_, sentence) = rows.find(|(name, _)| *name == key)?;
    Some(sentence)
}
