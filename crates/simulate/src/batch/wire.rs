//! The wire formats of files and batches, as `rules/batches.json` has them for each API.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use strum::VariantNames as _;

use super::create;
use super::intake;
use super::life::Phase;
use super::serve::{Paging, Route};
use crate::rules::{self, Rules};
use crate::template::Facts;

/// The APIs by name.
pub(crate) static TABLE: Rules<BTreeMap<String, Wire>> = Rules::new(|| {
    let text = include_str!("../../rules/batches.json");
    rules::read("batches", text, |wires: &BTreeMap<String, Wire>| {
        let mut wires = wires.iter();
        wires.try_for_each(|(name, wire)| wire.check().map_err(|error| format!("{name}: {error}")))
    })
});

/// How one API shows batches, and how large they may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    pub(super) max_requests: Option<u64>,
    pub(super) max_bytes: u64,
    /// The requests that there are, and how lists are cut: of batches, of files, and of a batch's parts.
    pub(super) routes: Vec<Route>,
    /// The forms of a request in a batch.
    #[serde(default)]
    pub(super) requests: Vec<intake::RequestForm>,
    pub(super) batches: Paging,
    pub(super) files: Option<Paging>,
    pub(super) parts: Option<Paging>,
    /// The rules for creating a batch from a file.
    pub(super) create: Option<create::Rules>,
    /// The reply to a deletion.
    #[serde(default)]
    pub(super) deleted_batch: Value,
    #[serde(default)]
    pub(super) deleted_file: Value,
    /// The error code for a missing file.
    #[serde(default)]
    pub(super) file_word: String,
    /// The names of the phases; empty for APIs that only report counts.
    #[serde(default)]
    states: BTreeMap<String, String>,
    /// Further fields of a batch in this final state.
    #[serde(default)]
    pub(super) errors: BTreeMap<String, Value>,
    /// The forms of ids, made of `hex` or `uuid`.
    pub(super) batch_id: String,
    pub(super) file_id: String,
    pub(super) batch: Value,
    #[serde(default)]
    pub(super) file: Value,
    /// How long a file is kept if its expiry was not requested.
    pub(super) file_hours: Option<u64>,
    /// A result: of a success, of an error, and of a request that was not processed.
    line: Value,
    failed_line: Option<Value>,
    left_line: Value,
}

impl Wire {
    /// Checks the table.
    fn check(&self) -> Result<(), String> {
        let phases = Phase::VARIANTS;
        let mut named = self.states.keys().chain(self.errors.keys());
        if let Some(name) = named.find(|name| !phases.contains(&name.as_str())) {
            return Err(format!("there is no state {name}"));
        }
        if !self.states.is_empty() && self.states.len() < phases.len() {
            return Err("a state is missing".to_owned());
        }
        Ok(())
    }

    /// Appends the line of a result: its `body` as a call would get it, and the status.
    pub(super) fn line(&self, out: &mut Vec<u8>, mut facts: Facts, status: u16, body: &[u8]) {
        facts.set("status", status);
        // A placeholder for the body, which is not parsed: no other text has this character.
        facts.set("body", "\0");
        let failed = self.failed_line.as_ref().filter(|_| status != 200);
        let line = facts.fill(failed.unwrap_or(&self.line)).to_string();
        match line.split_once(r#""\u0000""#) {
            Some((before, behind)) => {
                out.extend_from_slice(before.as_bytes());
                out.extend_from_slice(body);
                out.extend_from_slice(behind.as_bytes());
            }
            None => out.extend_from_slice(line.as_bytes()),
        }
    }

    /// Appends the line of a request that was not processed.
    pub(super) fn left_line(&self, out: &mut Vec<u8>, facts: &Facts) {
        out.extend_from_slice(facts.fill(&self.left_line).to_string().as_bytes());
    }

    /// The API's name of a phase.
    pub(super) fn state(&self, phase: Phase) -> &str {
        self.states.get(phase.name()).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_that_speaks_of_other_states_is_refused() {
        let check = |more: Value| {
            let mut wire = json!({"max_bytes": 1, "routes": [], "batches": {"limit": ["limit", 1, 1]}, "batch_id": "", "file_id": "", "batch": {},
                "line": {}, "left_line": {}});
            for (name, value) in more.as_object().unwrap() {
                wire[name] = value.clone();
            }
            let wire: Wire = serde_json::from_value(wire).map_err(|error| error.to_string())?;
            wire.check()
        };
        assert_eq!(check(json!({})), Ok(()));
        for (more, wanted) in [
            (json!({"states": {"done": "x"}}), "there is no state done"),
            (json!({"errors": {"done": {}}}), "there is no state done"),
            (json!({"states": {"ended": "x"}}), "a state is missing"),
            (json!({"max_byte": 1}), "unknown field `max_byte`"),
        ] {
            assert!(check(more).unwrap_err().starts_with(wanted), "{wanted}");
        }
    }
}
