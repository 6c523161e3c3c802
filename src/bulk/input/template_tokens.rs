//! The words, texts and signs within the braces of a template.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Text,
    Other,
}

/// The kind and length of the first token.
pub(super) fn token(rest: &str) -> Option<(Kind, usize)> {
    const PAIRS: [&str; 6] = ["//", "**", "==", "!=", ">=", "<="];
    let first = rest.chars().next()?;
    let until = |end: fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
    Some(match first {
        '"' | '\'' => {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            (Kind::Text, end + 2)
        }
        c if c.is_ascii_digit() => {
            let end = until(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.'));
            (Kind::Other, end)
        }
        c if c == '_' || c.is_alphanumeric() => {
            (Kind::Word, until(|c| c != '_' && !c.is_alphanumeric()))
        }
        _ if PAIRS.iter().any(|pair| rest.starts_with(pair)) => (Kind::Other, 2),
        other => (Kind::Other, other.len_utf8()),
    })
}

/// The text between quotes.
pub(super) fn unquoted(text: &str) -> String {
    let inner = text.get(1..text.len() - 1).unwrap_or_default();
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// The column that `row["…"]` names.
pub(super) fn named_column(text: &str) -> Option<String> {
    let quoted = text.strip_prefix("row")?.trim_start().strip_prefix('[')?;
    let quoted = quoted.trim_end().strip_suffix(']')?.trim();
    let (kind, len) = token(quoted)?;
    (kind == Kind::Text && len == quoted.len()).then(|| unquoted(quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_named_by_a_text_in_brackets() {
        assert_eq!(named_column("row[ 'a \\' b' ]").as_deref(), Some("a ' b"));
        for other in ["row", "row[0]", "rows['a']", "row['a'].b", "row['a'] + ']'"] {
            assert_eq!(named_column(other), None, "{other}");
        }
    }
}
