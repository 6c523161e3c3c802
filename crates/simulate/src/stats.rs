//! The counters of the simulator. This file only has the type; `ledger` counts.

use std::collections::BTreeMap;

use serde::Serialize;

/// Exact counts since the simulator's start, taken at one moment.
///
/// A *call* is one `POST` to an endpoint for answers, embeddings or speech whose body arrived completely; other
/// endpoints and requests that are invalid HTTP are not counted. Prompts are distinguished by the text of their last
/// user message; each distinct input of an embedding call counts as a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SimStats {
    /// Connections accepted.
    pub connections: u64,
    /// Calls received.
    pub calls: u64,
    /// Accepted calls: valid, and not rejected because of a key, a model, a limit or an exhausted account, whether real
    /// or by a trouble.
    pub accepted: u64,
    /// Accepted calls for which a real provider would charge: every 200, also a broken, cut, empty or
    /// filtered one, every drop and every stall. Counted on arrival.
    pub paid: u64,
    /// The price of all paid replies that reached the client whole, and of all requests of batches that were worked on,
    /// in picodollars (10⁻¹² US dollars), by [`SimConfig::price`](super::SimConfig::price).
    pub billed_picos: u64,
    /// The price of the paid replies that did not reach the client whole: drop, stall, truncated, broken_json, and
    /// replies that could not be delivered.
    pub billed_unseen_picos: u64,
    /// Paid calls for a prompt that had been paid before.
    pub paid_twice: u64,
    /// Calls with status 429, because of a limit or a trouble; also those with an exhausted account, whatever status
    /// the vendor uses for that.
    pub refused: u64,
    /// Requests that a correct client does not send: fields, values, headers or paths that the API rejects, and
    /// unreadable heads. Wrong keys, unknown models and troubles are not included.
    pub malformed: u64,
    /// Calls for embeddings, out of all calls, that were in order and for a model that exists.
    pub embedding_calls: u64,
    /// Calls for speech, out of all calls, that were in order and for a model that exists.
    pub speech_calls: u64,
    /// Inputs whose vectors were sent, counted each time.
    pub embedded: u64,
    /// Distinct prompts seen.
    pub prompts: u64,
    /// Good 200 replies written out in full.
    pub answered: u64,
    /// Received calls that were neither answered nor abandoned yet.
    pub in_flight: u64,
    /// The most calls that were in flight at once.
    pub max_in_flight: u64,
    /// Calls that met each kind of trouble, by its name; kinds that did not occur are absent.
    pub by_trouble: BTreeMap<String, u64>,
}
