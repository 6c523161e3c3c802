//! Error bodies and their statuses, from the vendors' entries in `rules/problems.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::prompt::{Fault, Problem};
use super::rules;
use super::template::Facts;
use super::tree::snake;
use super::words::reason;

/// Each vendor's errors. A problem has several names, from the most general to its own. If a vendor has entries for
/// several of them, the most specific entry applies.
static TABLE: LazyLock<Table> =
    LazyLock::new(|| rules::read("problems", include_str!("../rules/problems.json")));

/// The vendors by name.
#[derive(Debug, Deserialize)]
struct Table(BTreeMap<String, Words>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// The vendor whose entries apply where this one has none.
    like: Option<String>,
    /// The body of problems whose entry has no body.
    body: Option<Value>,
    #[serde(default)]
    problems: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    status: Option<u16>,
    message: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    body: Option<Value>,
}

impl Table {
    /// A vendor and the vendors it is like.
    fn chain<'t>(&'t self, name: &str) -> impl Iterator<Item = &'t Words> {
        let like = |vendor: &&Words| self.0.get(vendor.like.as_deref()?);
        std::iter::successors(self.0.get(name), like)
    }

    /// The entry of the first vendor in the chain that has one, for the most specific name.
    fn find<'t, T>(
        &'t self,
        name: &str,
        kinds: &[&str],
        get: impl Fn(&'t Entry) -> Option<T>,
    ) -> Option<T> {
        self.chain(name).find_map(|vendor| {
            let kinds = kinds.iter().rev();
            kinds
                .filter_map(|kind| vendor.problems.get(*kind))
                .find_map(&get)
        })
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        name: &str,
        kinds: &[&str],
        mut facts: Facts,
        status: u16,
    ) -> u16 {
        let status = self
            .find(name, kinds, |entry| entry.status)
            .unwrap_or(status);
        facts.set("status", status);
        facts.set("reason", reason(status));
        let code = self.find(name, kinds, |entry| entry.code.as_ref());
        let kind = self.find(name, kinds, |entry| entry.kind.as_ref());
        let message = self.find(name, kinds, |entry| entry.message.as_ref());
        for (field, text) in [("code", code), ("type", kind), ("message", message)] {
            let text = text.map(|text| facts.text(text));
            facts.set(field, text);
        }
        let body = self.find(name, kinds, |entry| entry.body.as_ref());
        let body = body.or_else(|| self.chain(name).find_map(|vendor| vendor.body.as_ref()));
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(out, &facts.fill(body.unwrap_or(&Value::Null)));
        status
    }
}

/// Appends the error body of a vendor and returns its status.
pub(super) fn write(out: &mut Vec<u8>, problem: &Problem<'_>, vendor: &str, call: u64) -> u16 {
    let mut facts = Facts::default();
    facts.set("call", call);
    let wait = problem.wait().map(delay);
    facts.set("delay", wait);
    let kinds: &[&str] = match problem {
        Problem::Loading => &["any", "loading"],
        Problem::NoKey => &["any", "key", "no_key"],
        Problem::WrongKey => &["any", "key", "wrong_key"],
        Problem::Fault(fault) => {
            place(&mut facts, fault.at());
            match fault {
                Fault::NotJson => &["any", "fault", "not_json"],
                Fault::Unknown(_) => &["any", "fault", "unknown"],
                Fault::Missing(_) => &["any", "fault", "missing"],
                Fault::Invalid { message, .. } => {
                    facts.set("message", message.as_str());
                    &["any", "fault", "invalid"]
                }
            }
        }
        Problem::NoModel(model) => {
            facts.set("model", *model);
            &["any", "no_model"]
        }
        Problem::Limited { denial, model, .. } => {
            facts.set("bucket", denial.bucket);
            facts.set("message", denial.message(model));
            match denial.bucket {
                "tokens" => &["any", "rate", "limited", "limited_tokens"],
                _ => &["any", "rate", "limited", "limited_requests"],
            }
        }
        Problem::RateLimit { .. } => {
            facts.set("bucket", "requests");
            &["any", "rate", "rate_limit"]
        }
        Problem::NoCredit => &["any", "no_credit"],
        Problem::BadPrompt { at } => {
            facts.set("param", *at);
            &["any", "bad_prompt"]
        }
        Problem::ServerError => &["any", "server_error"],
        Problem::Unavailable { .. } => &["any", "overload", "unavailable"],
        Problem::Overloaded => &["any", "overload", "overloaded"],
    };
    TABLE.write(out, vendor, kinds, facts, 400)
}

/// Appends the error body of a request for files or batches.
pub(super) fn write_batch(out: &mut Vec<u8>, vendor: &str, status: u16, message: &str) {
    let mut facts = Facts::default();
    facts.set("message", message);
    let own = format!("batch_{status}");
    TABLE.write(out, vendor, &["batch", &own], facts, status);
}

/// The place of a fault in all spellings of the vendors.
fn place(facts: &mut Facts, at: &str) {
    if !at.is_empty() {
        facts.set("param", at);
    }
    facts.set("at", at);
    // `messages[0].content` as `messages.0.content`.
    facts.set("dotted", dotted(at));
    facts.set("snake", snake(at));
}

/// `messages[0].content` as `messages.0.content`.
pub(super) fn dotted(at: &str) -> String {
    at.replace('[', ".").replace(']', "")
}

/// Decimal seconds, as protocol buffers write a duration.
fn delay(wait: Duration) -> String {
    let text = format!("{}.{:09}", wait.as_secs(), wait.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vendor;
    use serde_json::json;

    fn body(problem: &Problem<'_>, vendor: Option<Vendor>) -> (u16, Value) {
        let mut out = Vec::new();
        let status = write(&mut out, problem, vendor.map_or("openai", Vendor::name), 0);
        (status, serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn an_error_body_has_all_four_fields() {
        let fault = Problem::Fault(Fault::NotJson);
        let message = "We could not parse the JSON body of your request.";
        let wanted = json!({"error": {"message": message, "type": "invalid_request_error",
            "param": null, "code": null}});
        assert_eq!(body(&fault, None), (400, wanted));
    }

    #[test]
    fn an_unknown_field_is_refused_in_each_vendors_words() {
        let fault = Problem::Fault(Fault::Unknown("messages[2].x".to_owned()));
        let message = "Unknown parameter: 'messages[2].x'.";
        let bad = "invalid_request_error";
        let cases = [
            (
                Vendor::OpenAi,
                400,
                json!({"error": {"message": message, "type": bad,
                "param": "messages[2].x", "code": "unknown_parameter"}}),
            ),
            (
                Vendor::Groq,
                400,
                json!({"error": {"message": message, "type": bad,
                "code": "unknown_parameter"}}),
            ),
            (
                Vendor::Xai,
                400,
                json!({"code": "Client specified an invalid argument",
                "error": message}),
            ),
            (
                Vendor::Mistral,
                422,
                json!({"detail": [{"loc": ["body", "messages[2].x"],
                "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]}),
            ),
            (
                Vendor::Local,
                400,
                json!({"error": {"code": 400, "message": message,
                "type": bad}}),
            ),
        ];
        for (vendor, status, wanted) in cases {
            assert_eq!(body(&fault, Some(vendor)), (status, wanted), "{vendor}");
        }
    }

    #[test]
    fn delays_are_decimal_seconds() {
        for (millis, text) in [
            (0, "0s"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (57_238, "57.238s"),
        ] {
            assert_eq!(delay(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn each_vendor_is_like_one_that_is_there() {
        for name in TABLE.0.keys() {
            assert_eq!(TABLE.chain(name).last().unwrap().like, None, "{name}");
        }
        for vendor in Vendor::ALL {
            assert!(TABLE.0.contains_key(vendor.name()), "{vendor}");
        }
    }
}
