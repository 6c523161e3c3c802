//! Tables with the documented behaviour of the vendors. The module that uses a table reads it once. If a table is
//! malformed, the simulator does not start.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;

/// A table, or the error in it.
pub(super) type Rules<T> = LazyLock<Result<T, String>>;

/// Reads a table and checks it.
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

/// A table that was checked at the start.
pub(super) fn get<T>(table: &'static Rules<T>) -> &'static T {
    table
        .as_ref()
        .expect("a table that was checked at the start")
}

/// The error in a table, if there is one.
pub(super) fn check<T>(table: &'static Rules<T>) -> Result<(), String> {
    table.as_ref().map(drop).map_err(Clone::clone)
}
