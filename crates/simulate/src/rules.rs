//! What the vendors' documentation says, as tables: they are read once, each by the module that goes
//! by it, and a table that cannot be read keeps the simulator from starting.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;

/// A table, or what is wrong with it.
pub(super) type Rules<T> = LazyLock<Result<T, String>>;

/// Reads a table and has it checked.
pub(super) fn read<T: DeserializeOwned>(
    name: &str,
    text: &str,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T, String> {
    let wrong = |error: String| format!("rules/{name}.json: {error}");
    let table = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    check(&table).map_err(wrong)?;
    Ok(table)
}

/// A table that was found in order at the start.
pub(super) fn get<T>(table: &'static Rules<T>) -> &'static T {
    table
        .as_ref()
        .expect("a table that was checked at the start")
}

/// Says what is wrong with a table.
pub(super) fn check<T>(table: &'static Rules<T>) -> Result<(), String> {
    table.as_ref().map(drop).map_err(Clone::clone)
}
