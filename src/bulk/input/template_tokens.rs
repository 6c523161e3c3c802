//! Names of columns in brackets within a template: `row["Review Text"]`.

/// The text between the quotes with which `rest` begins, and the number of bytes with the quotes.
fn quoted(rest: &str) -> Option<(String, usize)> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            c if c == quote => return Some((text, at + 1)),
            c => text.push(c),
        }
    }
    None
}

/// The column that `row["…"]` names.
pub(super) fn named_column(text: &str) -> Option<String> {
    let inside = text.strip_prefix("row")?.trim_start().strip_prefix('[')?;
    let inside = inside.trim_end().strip_suffix(']')?.trim();
    quoted(inside).and_then(|(name, len)| (len == inside.len()).then_some(name))
}

/// All columns that `row["…"]` names within a text.
#[cfg(feature = "templates")]
pub(super) fn named_columns(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("row").filter_map(|(at, word)| {
        let rest = text[at + word.len()..].trim_start().strip_prefix('[')?;
        quoted(rest.trim_start()).map(|(name, _)| name)
    })
}
