//! What the vendors' documentation says, as tables: they are read once, and a table that cannot be
//! read keeps the simulator from starting.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;

use super::batch::Wire;
use super::{objects, openai, problems};

/// All tables.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) problems: problems::Table,
    /// The fields of chat requests, vendor by vendor.
    pub(super) chat: openai::Table,
    /// How files and batches look on the wire, API by API.
    pub(super) batches: BTreeMap<String, Wire>,
    /// The objects of requests, API by API.
    pub(super) objects: BTreeMap<&'static str, objects::Api>,
}

static RULES: LazyLock<Result<Rules, String>> = LazyLock::new(load);

fn load() -> Result<Rules, String> {
    let problems: problems::Table = read("problems", include_str!("../rules/problems.json"))?;
    problems
        .check()
        .map_err(|error| format!("rules/problems.json: {error}"))?;
    let mut objects = BTreeMap::new();
    for (name, text) in [
        ("openai", include_str!("../rules/openai.json")),
        ("anthropic", include_str!("../rules/anthropic.json")),
        ("gemini", include_str!("../rules/gemini.json")),
    ] {
        let api: objects::Api = read(name, text)?;
        api.check_table()
            .map_err(|error| format!("rules/{name}.json: {error}"))?;
        objects.insert(name, api);
    }
    let batches: BTreeMap<String, Wire> = read("batches", include_str!("../rules/batches.json"))?;
    for (name, wire) in &batches {
        let found = wire.check();
        found.map_err(|error| format!("rules/batches.json: {name}: {error}"))?;
    }
    Ok(Rules {
        problems,
        chat: read("chat", include_str!("../rules/chat.json"))?,
        batches,
        objects,
    })
}

fn read<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("rules/{name}.json: {error}"))
}

/// Says what is wrong with the tables.
pub(super) fn check() -> Result<(), String> {
    RULES.as_ref().map(drop).map_err(Clone::clone)
}

/// The tables, which were found in order at the start.
pub(super) fn all() -> &'static Rules {
    RULES
        .as_ref()
        .expect("tables that were checked at the start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_in_order() {
        assert_eq!(check(), Ok(()));
    }
}
