//! A line of output without the parts that differ between runs: times, rates, ids, alignment.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::common::cases;

static MASKS: LazyLock<[(Regex, &str); 7]> = LazyLock::new(|| {
    [
        // A progress line, whose number depends on timing.
        (r"^batchwright: [\d.,]+/[\d.,]+ .*% ·.*", ""),
        (
            r#""(generated_at|latency_ms|elapsed_seconds|request_id)":[^,}]*"#,
            "\"$1\":",
        ),
        (r"…[0-9a-fA-F]{8}\b", "…<id>"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
        // Without a unit, a number is a count.
        (r"\b\d[\d.,]*( items| jobs)?/s\b", "<rate>"),
        (r"\b\d[\d.,]*( ms| min| s| h|ms|s|m)\b", "<time>"),
        (r"\b\d[\d.,]* (GB|MB|MiB|KiB)\b", "<size>"),
    ]
    .map(|(pattern, mask)| (Regex::new(pattern).unwrap(), mask))
});
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[[:alnum:]]{8,}").unwrap());

/// The line as it is compared; empty for a line that is not compared, such as a progress line.
pub fn normal(line: &str) -> String {
    let mut line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    for (pattern, mask) in &*MASKS {
        line = pattern.replace_all(&line, *mask).into_owned();
    }
    let masked = WORD.replace_all(&line, |word: &Captures<'_>| {
        let is_hash = word[0].chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let is_mixed = ["0123456789", "abcdef"].map(|some| word[0].contains(|c| some.contains(c)));
        if is_hash && is_mixed == [true; 2] {
            "<id>".to_owned()
        } else {
            word[0].to_owned()
        }
    });
    masked.into_owned()
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
