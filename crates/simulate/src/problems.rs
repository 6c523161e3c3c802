//! Error bodies and their statuses, from the vendors' entries in `rules/problems.json`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::prompt::Problem;
use super::rules;
use super::template::{Facts, reason};

/// Each vendor's errors. A problem has several names, from the most general to its own. If a vendor has entries for
/// several of them, the most specific entry applies.
static TABLE: LazyLock<Table> =
    LazyLock::new(|| rules::table("problems", include_str!("../rules/problems.json")));

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
        kinds: &[Cow<'static, str>],
        get: impl Fn(&'t Entry) -> Option<T>,
    ) -> Option<T> {
        self.chain(name).find_map(|vendor| {
            let kinds = kinds.iter().rev();
            kinds
                .filter_map(|kind| vendor.problems.get(&**kind))
                .find_map(&get)
        })
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        name: &str,
        kinds: &[Cow<'static, str>],
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
pub(super) fn write(out: &mut Vec<u8>, problem: &Problem, vendor: &str, call: u64) -> u16 {
    let mut facts = problem.facts.clone();
    facts.set("call", call);
    facts.set("delay", problem.wait.map(delay));
    TABLE.write(out, vendor, &problem.names, facts, problem.status)
}

/// Decimal seconds, as protocol buffers write a duration.
fn delay(wait: Duration) -> String {
    let text = format!("{}.{:09}", wait.as_secs(), wait.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}
