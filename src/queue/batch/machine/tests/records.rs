//! Records and their texts.

use crate::base::Timestamp;

use super::super::state::Record;
use super::super::state::Uncollected;
use super::examples::{record, states};

fn parse(text: &str) -> Result<Record, serde_json::Error> {
    serde_json::from_str(text)
}

#[test]
fn a_record_survives_its_text() {
    for state in states() {
        let record = record(state);
        assert_eq!(parse(&record.text()).unwrap(), record);
    }
}

#[test]
fn a_text_of_another_form_is_no_record() {
    assert!(parse("{}").is_err());
    let text = record(states().remove(0)).text();
    assert!(parse(&text.replace("forming", "flying")).is_err());
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
        ("azure", days(1), None),
        ("somebody's own", days(1), Some(days(3))),
    ] {
        record.account.provider = provider.to_owned();
        let kept = record.kept_until(&since(ended)).map(|until| until.0);
        assert_eq!(kept, until, "{provider}");
    }
}
