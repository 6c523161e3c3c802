//! Records and their texts, of this version and of earlier ones.

use crate::base::clock::Timestamp;

use super::super::record::Record;
use super::super::state::Uncollected;
use super::examples::{record, states};

#[test]
fn a_record_survives_its_text() {
    for state in states() {
        let record = record(state);
        assert_eq!(Record::parse(&record.text()).unwrap(), record);
    }
}

#[test]
fn records_of_earlier_versions_are_read_and_written_in_the_present_form() {
    let rows = include_str!("legacy_records.jsonl");
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let what = &row["what"];
        let read = Record::parse(&row["record"].to_string()).unwrap();
        assert_eq!(
            serde_json::to_value(&read.state).unwrap(),
            row["state"],
            "{what}"
        );
        assert_eq!(read.word(), row["word"].as_str().unwrap(), "{what}");
        let old = &row["record"];
        assert_eq!(read.problem.as_deref(), old["problem"].as_str(), "{what}");
        assert_eq!(
            Some(u64::from(read.failures)),
            old["failures"].as_u64(),
            "{what}"
        );
        assert_eq!(Some(read.due.0), old["due"].as_i64(), "{what}");
        let (text, again) = (read.text(), Record::parse(&read.text()).unwrap());
        assert_eq!(again, read, "{what}");
        assert!(!text.contains("phase"), "{what}: {text}");
    }
    assert!(rows.lines().count() >= 30);
}

#[test]
fn a_text_of_neither_form_is_no_record() {
    assert!(Record::parse("{}").is_err());
    let text = record(states().remove(0)).text();
    assert!(Record::parse(&text.replace("forming", "flying")).is_err());
}

#[test]
fn results_are_kept_for_as_long_as_the_provider_says() {
    let days = |n: i64| n * 86_400_000;
    let since = |since| Uncollected {
        since: Timestamp(since),
        why: String::new(),
    };
    let mut record = record(states().remove(0));
    record.intent.begun = Timestamp(5);
    for (provider, ended, until) in [
        ("anthropic", days(1), Some(days(29) + 5)),
        ("openai", days(1), Some(days(31))),
        // Seen late, it may have ended long before.
        ("groq", days(9), Some(days(32) + 5)),
        ("gemini", days(1), Some(days(3))),
        ("mistral", days(1), None),
        ("somebody's own", days(1), Some(days(3))),
    ] {
        record.account.provider = provider.to_owned();
        let kept = record.kept_until(&since(ended)).map(|until| until.0);
        assert_eq!(kept, until, "{provider}");
    }
}
