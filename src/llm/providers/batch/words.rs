//! The words of refusals, by what they say: `tables/refusals.json`.

use std::sync::LazyLock;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'static"))]
pub(super) struct Words {
    /// The provider itself failed: parts of codes, and of messages.
    pub server_codes: Vec<&'static str>,
    pub server_texts: Vec<&'static str>,
    /// A limit is reached.
    pub limit: Vec<&'static str>,
    /// Room for files, or their number, of the whole account.
    pub storage: Vec<&'static str>,
    /// What waits in the provider's queue.
    pub queue: Vec<&'static str>,
    /// The number of batches at once.
    pub batches: Vec<&'static str>,
    /// What the account may spend.
    pub money: Vec<&'static str>,
    /// An amount is too large, and what it counts.
    pub too_large: Vec<&'static str>,
    pub sizes: Vec<&'static str>,
    /// Something does not exist.
    pub gone: Vec<&'static str>,
    /// The input file cannot be used yet.
    pub not_yet: Vec<&'static str>,
    /// A model cannot be used.
    pub no_model: Vec<&'static str>,
    /// Then a part of a request is refused, not its model.
    pub fields: Vec<&'static str>,
    /// What a number counts if one of these follows: it is an amount, not the place of a request.
    pub units: Vec<&'static str>,
}

pub(super) static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let words = serde_json::from_str(include_str!("../tables/refusals.json"));
    words.expect("the tests read this file too")
});
