//! Tables with the documented behaviour of the vendors. The module that uses a table reads it once.

use serde::de::DeserializeOwned;

/// Reads a table, which is a part of this crate.
pub(super) fn read<T: DeserializeOwned>(name: &str, text: &str) -> T {
    let table = serde_json::from_str(text);
    table.unwrap_or_else(|error| panic!("rules/{name}.json: {error}"))
}
