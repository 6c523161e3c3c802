//! The counts in a reply's usage, which providers write in many ways.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json_object::JsonObject;

/// No call has more tokens. What is stated above it is no count, and would leave sums no room.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// No usage has more bytes of JSON.
const LONGEST: usize = 64 << 10;

/// The fields of a usage, read apart from the answer: a strange one must not cost it. Anything but an object counts as
/// an empty one.
#[derive(Default)]
pub(super) struct Counts<'b>(JsonObject<'b>);

impl<'b> Counts<'b> {
    pub(super) fn read(raw: Option<&'b RawValue>) -> Self {
        let json = raw.map(RawValue::get).filter(|json| json.len() <= LONGEST);
        let fields = json.and_then(JsonObject::parse);
        Self(fields.unwrap_or_default())
    }

    /// A count of tokens: a number, or one in quotes as protobuf writes 64 bits; anything else counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        count(self.0.get(name, 0)?.get())
    }

    /// The number; 0 if it is absent.
    pub(super) fn or_zero(&self, name: &str) -> u64 {
        self.get(name).unwrap_or(0)
    }

    /// The first of these counts that is stated.
    pub(super) fn first_of(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The counts in a field.
    pub(super) fn of(&self, name: &str) -> Self {
        Self::read(self.0.get(name, 0))
    }

    pub(super) fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(name, 0)?.get()).ok()
    }

    /// The output tokens: the stated number, or else what a total has beyond the input. A reply that states neither may
    /// have any number, which is not zero.
    pub(super) fn output(&self, stated: Option<u64>, total: &str, input: u64) -> Option<u64> {
        stated.or_else(|| self.get(total)?.checked_sub(input))
    }

    /// Calls of tools that the provider carried out itself, by kind: all of them, and searches of the web. Beside them
    /// there may be counts of what they brought.
    pub(super) fn server_tools(&self) -> (u64, u64) {
        let is_calls = |name: &str| name.ends_with("_requests") || name.ends_with("_calls");
        let calls = self.0.fields().filter(|(name, _)| is_calls(name));
        let counts = calls.map(|(name, raw)| (name, count(raw.get()).unwrap_or(0)));
        counts.fold((0, 0), |(all, searches), (name, calls)| {
            let is_search = name.starts_with("web_search_");
            (all + calls, searches + if is_search { calls } else { 0 })
        })
    }
}

/// A count in JSON.
pub(super) fn count(json: &str) -> Option<u64> {
    let digits = json.trim_matches('"');
    // Some write whole numbers as `12.0`.
    let whole = || {
        let number: f64 = digits.parse().ok()?;
        (number.fract() == 0.0 && number >= 0.0).then_some(number as u64)
    };
    let count = digits.parse().ok().or_else(whole);
    count.filter(|count| *count <= MOST_TOKENS)
}
