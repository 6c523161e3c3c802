//! Which requests the text of a refusal names: by our keys, by a line or row of the input (from 1), or by an index of a
//! list (from 0).

use crate::llm::batch::RequestName;

use super::words::WORDS;

/// The most requests that are read from a range such as "lines 4-7".
const LONGEST_RANGE: u64 = 1_000;

/// The requests that a text names, without repetitions. The key of a request is exact, so that then nothing else counts.
pub(super) fn named(text: &str) -> Vec<RequestName> {
    let text = text.to_ascii_lowercase();
    let mut found = keys(&text);
    if found.is_empty() {
        let mut lines = places(&text);
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

/// The named lines, from 1.
fn places(text: &str) -> Vec<u64> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        let end = rest[start..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .map_or(rest.len(), |length| start + length);
        let word = &rest[start..end];
        let from = text.len() - rest.len();
        let (before, after) = (&text[..from + start], &rest[end..]);
        lines.extend(at_word(before, word, after));
        rest = after;
    }
    for (at, _) in text.match_indices(".jsonl:") {
        lines.extend(number(&text[at + ".jsonl:".len()..]).map(|(line, _)| line.max(1)));
    }
    lines
}

/// The lines that a word names together with what follows it.
fn at_word(before: &str, word: &str, after: &str) -> Vec<u64> {
    if WORDS.indexed.contains(&word)
        && let Some(index) = index_of(before, after)
    {
        return vec![index.saturating_add(1)];
    }
    if WORDS.counted.contains(&word) && !before.trim_end().ends_with("bad") {
        return counted(after).into_iter().collect();
    }
    if WORDS.listed.contains(&word) {
        let several = listed(after);
        // "at most 500 requests 100 bytes each" names no request.
        let is_place = !matches!(word, "requests" | "items") || several.len() > 1;
        return if is_place { several } else { Vec::new() };
    }
    if WORDS.indices.contains(&word) && is_of_list(before, after) {
        let indices = listed(after).into_iter();
        return indices.map(|index| index.saturating_add(1)).collect();
    }
    let ordinal = ["st", "nd", "rd", "th"]
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix)?.parse::<u64>().ok());
    let next = after.trim_start();
    let of_list = ["request", "line", "row", "item", "entry", "record"];
    match ordinal {
        Some(line) if of_list.iter().any(|name| next.starts_with(name)) => vec![line.max(1)],
        _ => Vec::new(),
    }
}

/// The index in a path: `.5`, `[5]`, `', 5`, ` -> 5`, or `/5` in a pointer.
fn index_of(before: &str, after: &str) -> Option<u64> {
    let length = after.find(|c: char| c.is_ascii_alphanumeric() || c == '_')?;
    let between = &after[..length];
    let is_path = match between.chars().next()? {
        '.' | '[' => !between.contains(". "),
        '/' => before.ends_with('/'),
        '\'' | '"' | '`' => between.contains([',', '[', '.', ']']),
        ' ' => between.trim_start().starts_with("->") || between.trim_start().starts_with('['),
        '-' => between.starts_with("->"),
        _ => false,
    };
    if !is_path || between.contains(':') || length > 6 {
        return None;
    }
    let (index, rest) = number(&after[length..])?;
    is_place(rest).then_some(index)
}

/// The number after "line", "row #", "line number: ".
fn counted(after: &str) -> Option<u64> {
    let (line, rest) = number(number_part(after)?)?;
    // A parser that reads one line reports each fault in line 1 of it.
    let is_column = rest
        .trim_start_matches([',', ' ', ':', ';', '('])
        .starts_with("col");
    (is_place(rest) && !(is_column && line <= 1)).then_some(line.max(1))
}

/// The text from the number on, if only words such as "no." and punctuation are in front of it.
fn number_part(after: &str) -> Option<&str> {
    let blank = [' ', '#', ':', '=', '(', '\'', '"', '`'];
    let mut rest = after.trim_start_matches(blank);
    if rest.len() == after.len() {
        return None;
    }
    for word in ["number", "no.", "nr.", "num", "no", "nr", "at"] {
        if let Some(more) = rest.strip_prefix(word) {
            rest = more.trim_start_matches(blank);
            break;
        }
    }
    Some(rest)
}

/// The numbers after "lines": "4, 7 and 9", "[4, 7]", "4-7".
fn listed(after: &str) -> Vec<u64> {
    let mut found = Vec::new();
    let Some(mut rest) = number_part(after) else {
        return found;
    };
    rest = rest.trim_start_matches('[');
    while let Some((line, more)) = number(rest) {
        if !is_place(more) {
            break;
        }
        let range = ["-", "\u{2013}", " - ", " to ", "..", " through "];
        let last = range
            .iter()
            .find_map(|dash| number(more.strip_prefix(dash)?));
        let more = match last {
            Some((last, more)) if last >= line && last - line < LONGEST_RANGE => {
                found.extend(line.max(1)..=last);
                more
            }
            _ => {
                found.push(line.max(1));
                more
            }
        };
        let next = more.trim_start_matches([' ', ',', '&', ';', '#']);
        let next = next.strip_prefix("and ").unwrap_or(next).trim_start();
        if next.len() == more.len() {
            break;
        }
        rest = next;
    }
    found
}

/// Whether an index is one of a list of requests, not for example of the messages of one.
fn is_of_list(before: &str, after: &str) -> bool {
    let near = |text: &str| {
        let lists = ["request", "item", "line", "row", "entr", "record", "batch"];
        lists.iter().any(|name| text.contains(name)) && !text.contains("message")
    };
    let cut = |text: &str, from: usize| {
        let at = (from..=text.len()).find(|at| text.is_char_boundary(*at));
        at.unwrap_or(text.len())
    };
    let first = cut(before, before.len().saturating_sub(40));
    let last = cut(after, 40.min(after.len()));
    near(&before[first..]) || near(&after[..last])
}

/// A number at the beginning, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let value = text[..digits].parse().ok()?;
    Some((value, &text[digits..]))
}

/// Whether a number that this follows is a place: not a part of a word, a fraction or an amount.
fn is_place(rest: &str) -> bool {
    let mut next = rest.chars();
    match next.next() {
        Some(c) if c.is_alphanumeric() || matches!(c, '_' | '%') => return false,
        Some('.' | ',') if next.next().is_some_and(|c| c.is_ascii_digit()) => return false,
        _ => {}
    }
    let word = rest.trim_start();
    !rest.starts_with(' ') || !WORDS.units.iter().any(|unit| word.starts_with(unit))
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
    fn a_line_is_named_in_many_ways() {
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
            ("Line 4 of the input file is not valid JSON", &[4]),
            (
                "Error on line 12: Expecting ',' delimiter: line 1 column 30 (char 29)",
                &[12],
            ),
            ("line #9: missing custom_id", &[9]),
            ("line_number: 3", &[3]),
            ("{\"line\": 17, \"message\": \"bad\"}", &[17]),
            ("lines 4, 7 and 9 are invalid", &[4, 7, 9]),
            ("Errors were found on lines: [2, 5]", &[2, 5]),
            ("rows 4-6 have no body", &[4, 5, 6]),
            (
                "Line 4: no url; line 9: no body; line 4: no method",
                &[4, 9],
            ),
            ("requests 3 and 17 are invalid", &[3, 17]),
            ("request #8 exceeds the context window", &[8]),
            ("Request number 8 is invalid", &[8]),
            ("the 3rd request is malformed", &[3]),
            ("The request at index 2 has no messages", &[3]),
            ("input.jsonl:31: invalid JSON", &[31]),
            ("Record 5 could not be parsed", &[5]),
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
            "Limit: 2,000,000 enqueued tokens. Request 5000 tokens less",
            "limit per line 4096 tokens",
            "request_id req_011CS5",
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
