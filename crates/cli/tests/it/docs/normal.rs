//! A line of output without the parts that differ between runs: times, rates, ids, alignment.

use crate::common::cases;

/// A number before one of these is a duration or a rate, not a count.
const UNITS: [(&str, &str); 14] = [
    (" items/s", "<rate>"),
    (" jobs/s", "<rate>"),
    ("/s", "<rate>"),
    (" ms", "<time>"),
    (" min", "<time>"),
    (" s", "<time>"),
    (" h", "<time>"),
    ("ms", "<time>"),
    ("s", "<time>"),
    ("m", "<time>"),
    (" GB", "<size>"),
    (" MB", "<size>"),
    (" MiB", "<size>"),
    (" KiB", "<size>"),
];

/// Fields of JSON whose values differ.
const FIELDS: [&str; 4] = [
    "\"generated_at\":",
    "\"latency_ms\":",
    "\"elapsed_seconds\":",
    "\"request_id\":",
];

/// The line as it is compared; empty for a line that is not compared, such as a progress line.
pub fn normal(line: &str) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_progress(&line) {
        return String::new();
    }
    let mut out = String::new();
    let mut rest = line.as_str();
    while let Some(first) = rest.chars().next() {
        let inside_word = out.ends_with(|c: char| c.is_alphanumeric());
        if let Some(field) = FIELDS.iter().find(|field| rest.starts_with(**field)) {
            out.push_str(field);
            rest = &rest[field.len()..];
            rest = rest.trim_start_matches(|c: char| !matches!(c, ',' | '}'));
            continue;
        }
        let id = id_length(rest);
        if first == '…' && end_of_id(&rest[first.len_utf8()..]) {
            out.push_str("…<id>");
            rest = &rest[first.len_utf8() + 8..];
        } else if !inside_word && id > 0 {
            out.push_str("<id>");
            rest = &rest[id..];
        } else if !inside_word && first.is_ascii_digit() {
            let (text, after) = number(rest);
            let unit = UNITS.iter().find(|(unit, _)| {
                let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
                after.strip_prefix(unit).is_some_and(ends)
            });
            match unit {
                Some((unit, name)) => {
                    out.push_str(name);
                    rest = &after[unit.len()..];
                }
                None => {
                    out.push_str(text);
                    rest = after;
                }
            }
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The number of bytes at the beginning that are an id or a hash: eight or more hexadecimal digits, at least one of
/// them decimal, including the hyphens of a UUID.
fn id_length(text: &str) -> usize {
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f' | '-');
    let end = text.find(|c| !hex(c)).unwrap_or(text.len());
    let id = text[..end].trim_end_matches('-');
    let longer = text[id.len()..].starts_with(|c: char| c.is_alphanumeric());
    let digits = id.chars().filter(char::is_ascii_digit).count();
    let letters = id.chars().filter(char::is_ascii_alphabetic).count();
    if id.len() >= 8 && digits > 0 && letters > 0 && !longer {
        id.len()
    } else {
        0
    }
}

/// Whether it begins with the end of an id, eight hexadecimal digits.
fn end_of_id(text: &str) -> bool {
    let hex = text.bytes().take_while(u8::is_ascii_hexdigit);
    hex.count() == 8
}

fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ','));
    let found = &text[..end.unwrap_or(text.len())];
    let found = found.trim_end_matches(['.', ',']);
    text.split_at(found.len())
}

/// Lines such as `batchwright: 19/24 79% · 1.9/s …`, whose number depends on timing.
fn is_progress(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("batchwright: ") else {
        return false;
    };
    let (done, rest) = number(rest);
    let Some(rest) = rest.strip_prefix('/').filter(|_| !done.is_empty()) else {
        return false;
    };
    let (of, rest) = number(rest);
    !of.is_empty() && (rest.starts_with(' ') && rest.contains("% ·"))
}

#[test]
fn parts_that_differ_between_runs_are_masked() {
    for (line, wanted) in cases(
        r#"
        rate       2.1 items/s over 11.7 s, limited => rate <rate> over <time>, limited
        batchwright: 19/24 79% · 1.9/s · 2.6 s left =>
        batchwright: 240 items: 24 to send => batchwright: 240 items: 24 to send
        process 9cc6b150-6b19-5fa0-83b1-aeb7396e0675 x => process <id> x
        batch batch_d433982a16df37c1 (240 requests) => batch batch_<id> (240 requests)
        {"id":"a","latency_ms":12,"x":1} => {"id":"a","latency_ms":,"x":1}
        p50 1.9 s, p95 2.5 s => p50 <time>, p95 <time>
        3,626 in (945 cached), 96 out => 3,626 in (945 cached), 96 out
        …20240101  in.jsonl => …<id> in.jsonl
        cut… 20240101 5 => cut… 20240101 5
        bad.jsonl:2: found => bad.jsonl:2: found
        facade decade => facade decade
        20240101 5 samples => 20240101 5 samples
    "#,
    ) {
        assert_eq!(normal(line), wanted, "{line}");
    }
}
