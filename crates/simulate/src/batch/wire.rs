//! The wire formats of files and batches, as `rules/batches.json` has them for each API.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::create;
use super::intake;
use super::life::Phase;
use super::serve::{Paging, Route};
use crate::rules;
use crate::template::Facts;
use serde::Deserialize;
use serde_json::Value;

/// The APIs by name.
pub(super) static TABLE: LazyLock<BTreeMap<String, Wire>> =
    LazyLock::new(|| rules::read("batches", include_str!("../../rules/batches.json")));

/// How one API shows batches, and how large they may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    pub(super) max_requests: Option<u64>,
    pub(super) max_bytes: u64,
    /// The requests that there are, and how lists are cut: of batches, and of results.
    pub(super) routes: Vec<Route>,
    /// The form of a request in a batch.
    pub(super) request: intake::RequestForm,
    pub(super) batches: Paging,
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
    use strum::VariantNames as _;

    use super::*;

    #[test]
    fn the_table_names_each_phase_or_none() {
        for (name, wire) in TABLE.iter() {
            let phases = Phase::VARIANTS;
            let named = wire.states.keys().chain(wire.errors.keys());
            let unknown: Vec<_> = named
                .filter(|name| !phases.contains(&name.as_str()))
                .collect();
            assert!(unknown.is_empty(), "{name}: {unknown:?}");
            let count = wire.states.len();
            assert!(count == 0 || count == phases.len(), "{name}");
        }
    }
}
