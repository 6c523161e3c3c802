//! Error bodies that vendors are known for, and what is made of each: the cases of `rules_cases.json`. Further ones are among
//! the recorded replies in `tests/data/replies/`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::base::error::ErrorKind::*;
use crate::llm::providers::dialect::testing::{failed, failed_with, kind};

/// A vendor, the status and the body of its reply, the kind of the error if it matters, and what else the error has; `headers` are
/// those of the reply.
#[derive(Deserialize)]
struct Case(
    String,
    u16,
    Value,
    Option<String>,
    #[serde(default)] Map<String, Value>,
);

#[test]
fn statuses_and_bodies_are_classified() {
    let cases = include_str!("rules_cases.json");
    for Case(name, status, body, kind, mut wanted) in serde_json::from_str::<Vec<_>>(cases).unwrap()
    {
        let body = body
            .as_str()
            .map_or_else(|| body.to_string(), str::to_owned);
        let headers = wanted.remove("headers").unwrap_or(json!({}));
        let headers = headers.as_object().unwrap().iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (&**name, value.as_str().unwrap()))
            .collect();
        let error = failed_with(&name, status, &headers, &body);
        let found = json!({
            "unclassified": error.is_unclassified(), "unclear": error.verdict().is_unclear(), "unreachable": error.is_unreachable(),
            "model_only": error.is_model_only(), "sent": format!("{:?}", error.sent()),
            "wait": error.retry_after().map(|wait| wait.as_secs_f64()), "raw": error.raw(),
            "request_id": error.request_id(), "message": error.message(), "by_proxy": error.is_by_proxy(),
            "loading": error.is_not_ready(),
        });
        assert!(
            kind.is_none_or(|kind| kind == error.kind().as_str()),
            "{name} {status} {body}: {error:?}"
        );
        for (field, wanted) in wanted {
            let same = found[&field] == wanted
                || found[&field]
                    .as_f64()
                    .is_some_and(|found| Some(found) == wanted.as_f64());
            assert!(same, "{field} of {name} {status} {body}: {found}");
        }
    }
}

#[test]
fn an_endless_message_is_cut_between_words() {
    let words = |word: &str| format!(r#"{{"error":{{"message":"{}"}}}}"#, word.repeat(10_000));
    let error = failed("openai", 400, &words("größe "));
    let message = error.message();
    assert!(message.ends_with("größe …") && message.len() < 17 * 1024);
    let word = failed("openai", 400, &words("key-"));
    assert!(word.message().ends_with(": …"));
    // What decides is looked for in what is kept.
    let late = words("word ").replacen("word", "You used all available credits;", 1);
    assert_eq!(kind("xai", 403, &late), Quota);
}
