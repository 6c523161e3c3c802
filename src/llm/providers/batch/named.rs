//! Which requests the text of a refusal names: by our keys, by a line of the input ("line 4"), or by an index of the list of
//! requests ("requests.5.params"). Ranges and lists are not read: a batch whose refusal names none is halved.

use crate::llm::batch::RequestName;
use serde::Deserialize;
use std::sync::LazyLock;

/// The requests that a text names, without repetitions. The key of a request is exact, so that then nothing else counts.
pub(super) fn named(text: &str) -> Vec<RequestName> {
    let text = text.to_ascii_lowercase();
    let mut found = keys(&text);
    if found.is_empty() {
        let mut lines: Vec<u64> = lines(&text).collect();
        lines.sort_unstable();
        lines.dedup();
        found = lines.into_iter().map(RequestName::Line).collect();
    }
    found
}

/// Our keys: a label, which is `bw-` and 32 hexadecimal digits, and a number.
fn keys(text: &str) -> Vec<RequestName> {
    let mut found: Vec<RequestName> = Vec::new();
    for (at, _) in text.match_indices("bw-") {
        let rest = &text[at + 3..];
        let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let Some(number) = rest.get(hex..).and_then(|rest| rest.strip_prefix('-')) else {
            continue;
        };
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        if hex != 32 || digits == 0 {
            continue;
        }
        let key = RequestName::Key(text[at..at + 3 + hex + 1 + digits].to_owned());
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

/// What a number from 1 follows: "line 4", "row #4", "item number 4".
const COUNTED: [&str; 6] = ["line", "row", "record", "entry", "item", "request"];
/// Lists of requests, and what stands between one and an index from 0: "requests.5.params", "/requests/5",
/// "('body', 'requests', 5)".
const LISTS: [&str; 3] = ["requests", "items", "records"];
const PATHS: [&str; 5] = [".", "[", "/", " -> ", "', "];

/// The named lines, from 1.
fn lines(text: &str) -> impl Iterator<Item = u64> {
    let counted = COUNTED.into_iter().flat_map(|name| after(text, name));
    let counted = counted.filter_map(|(before, rest)| {
        if let Some(index) = rest.strip_prefix(" at index ") {
            return Some(place(index)?.0.saturating_add(1));
        }
        let rest = rest.trim_start_matches(['_', ' ']);
        let rest = rest.strip_prefix("number").unwrap_or(rest);
        let number = rest.trim_start_matches([' ', '#', ':', '"']);
        let (line, rest) = place(number)?;
        // A parser that reads one line reports each fault in line 1 of it.
        let is_column = rest
            .trim_start_matches([',', ' ', ':', '('])
            .starts_with("col");
        (!before.ends_with("bad ") && (line > 1 || !is_column)).then_some(line.max(1))
    });
    let indexed = LISTS.into_iter().flat_map(|list| after(text, list));
    let indexed = indexed.filter_map(|(_, rest)| {
        let mut paths = PATHS.into_iter();
        place(paths.find_map(|path| rest.strip_prefix(path))?)
    });
    counted.chain(indexed.map(|(index, _)| index.saturating_add(1)))
}

/// What stands before and after each occurrence of a word.
fn after<'t>(text: &'t str, word: &'static str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let parts = text.match_indices(word);
    let parts = parts.map(|(at, _)| (&text[..at], &text[at + word.len()..]));
    parts.filter(|(before, after)| {
        let is_word = |c: char| c.is_alphanumeric();
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// A number at the beginning that is the place of a request, and the rest: it is not a part of a word, a fraction or an
/// amount.
fn place(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let mut next = rest.chars();
    match next.next() {
        Some(c) if c.is_alphanumeric() || matches!(c, '_' | '%') => return None,
        Some('.' | ',') if next.next().is_some_and(|c| c.is_ascii_digit()) => return None,
        _ => {}
    }
    let word = rest.strip_prefix(' ').unwrap_or_default();
    let is_amount = WORDS.units.iter().any(|unit| word.starts_with(unit));
    Some((number.parse().ok()?, rest)).filter(|_| !is_amount)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'static"))]
pub(super) struct Words {
    /// The provider itself failed: parts of codes, and of messages.
    pub server_codes: Vec<&'static str>,
    pub server_texts: Vec<&'static str>,
    /// A limit is reached.
    pub limit: Vec<&'static str>,
    /// Room for files, or their number, of the whole account.
    pub storage: Vec<&'static str>,
    /// What waits in the provider's queue.
    pub queue: Vec<&'static str>,
    /// The number of batches at once.
    pub batches: Vec<&'static str>,
    /// What the account may spend.
    pub money: Vec<&'static str>,
    /// An amount is too large, and what it counts.
    pub too_large: Vec<&'static str>,
    pub sizes: Vec<&'static str>,
    /// Something does not exist.
    pub gone: Vec<&'static str>,
    /// The input file cannot be used yet.
    pub not_yet: Vec<&'static str>,
    /// A model cannot be used.
    pub no_model: Vec<&'static str>,
    /// Then a part of a request is refused, not its model.
    pub fields: Vec<&'static str>,
    /// What a number counts if one of these follows: it is an amount, not the place of a request.
    pub units: Vec<&'static str>,
}

pub(super) static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let words = serde_json::from_str(include_str!("../tables/refusals.json"));
    words.expect("the tests read this file too")
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cases::cases;

    #[track_caller]
    fn names(text: &str, lines: &[u64]) {
        let lines: Vec<RequestName> = lines.iter().copied().map(RequestName::Line).collect();
        assert_eq!(named(text), lines, "{text}");
    }

    #[test]
    fn a_line_is_named_by_its_number_or_index_and_by_no_other_number() {
        for (text, lines) in cases(include_str!("named_cases.txt")) {
            let lines = lines.split(' ').filter_map(|line| line.parse().ok());
            names(text, &lines.collect::<Vec<u64>>());
        }
    }

    #[test]
    fn a_key_of_ours_is_exact() {
        let label = "bw-0123456789abcdef0123456789abcdef";
        let text = format!("Duplicate custom_id '{label}-17' on line 4, first seen as {label}-17");
        assert_eq!(named(&text), [RequestName::Key(format!("{label}-17"))]);
        names(&format!("the file {label}.jsonl is empty"), &[]);
    }
}
