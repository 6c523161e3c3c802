//! Which requests the text of a refusal names: by our keys, by a line of the input ("line 4"), or by an index of the list of
//! requests ("requests.5.params"). Ranges and lists are not read: a batch whose refusal names none is halved.

use crate::llm::batch::RequestName;

use super::words::WORDS;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(text: &str, lines: &[u64]) {
        let lines: Vec<RequestName> = lines.iter().copied().map(RequestName::Line).collect();
        assert_eq!(named(text), lines, "{text}");
    }

    #[test]
    fn a_line_is_named_by_its_number_or_index() {
        for (text, lines) in [
            (
                "anthropic answered 400 (invalid_request_error): requests.5.params.max_tokens: Field required",
                &[6][..],
            ),
            ("requests[5].params: unexpected field", &[6]),
            (
                "Invalid value at 'batch.input_config.requests.requests[3].request.contents'",
                &[4],
            ),
            ("('body', 'requests', 0, 'params'): Field required", &[1]),
            (
                "body -> requests -> 2 -> params: Input should be an object",
                &[3],
            ),
            ("/requests/7/params is missing", &[8]),
            ("request #8 exceeds the context window", &[8]),
            ("Request number 8 is invalid", &[8]),
            ("The request at index 2 has no messages", &[3]),
            ("Record 5 could not be parsed", &[5]),
            ("Line 4 of the input file is not valid JSON", &[4]),
            (
                "Error on line 12: Expecting ',' delimiter: line 1 column 30 (char 29)",
                &[12],
            ),
            ("line #9: missing custom_id", &[9]),
            ("line_number: 3", &[3]),
            ("{\"line\": 17, \"message\": \"bad\"}", &[17]),
            (
                "Line 4: no url; line 9: no body; line 4: no method",
                &[4, 9],
            ),
            (
                "openai answered 400 (invalid_json_line): This line is not parseable as valid JSON. (line 4)",
                &[4],
            ),
        ] {
            names(text, lines);
        }
    }

    #[test]
    fn other_numbers_name_no_line() {
        for text in [
            "Expecting value: line 1 column 1 (char 0)",
            "a batch has at most 50000 requests",
            "The maximum number of requests 50000 was exceeded",
            "Too many requests: 429",
            "Bad Request 400",
            "messages.0.content: Input should be a string",
            "messages[3].content is empty",
            "the message at index 2 has no role",
            "the deadline 5 is too early",
            "Limit: 2,000,000 enqueued tokens. Request 5000 tokens less",
            "limit per line 4096 tokens",
            "request_id req_011CS5",
            "the id item5 is used twice",
            "Your request was rejected. 5 files exist",
            "The file has 20 lines; 10 lines are allowed",
        ] {
            names(text, &[]);
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
