//! Batches: prompts that a provider answers within a day, at half the price.
//!
//! | to | use |
//! |---|---|
//! | get the client of a provider's Batch API | [`BatchApi`], from [`LlmConfig::batch_client`](crate::LlmConfig::batch_client) |
//! | write a client for another Batch API | [`unstable::BatchClient`](crate::unstable::BatchClient) |
//! | decide about a batch whose creation got no reply | [`OnUnknown`] |
//! | find clients for batches of other accounts | [`BatchAccount`], [`clients_by_account`] |
#![cfg_attr(
    feature = "queue",
    doc = "| | [`BatchClients`] is the type of these functions |
| set the size of batches and how often they are polled | [`BatchSettings`] |
| see open batches | [`BatchInfo`], from [`JobQueue::batches`](crate::JobQueue::batches); [`UncollectedResults`] |

A [`Worker`](crate::Worker) with [`Worker::batches`](crate::Worker::batches) submits jobs as batches and
collects what came of them; [`LlmManager::run_bulk`](crate::LlmManager::run_bulk) does so when
[`Strategy`](crate::Strategy) says it. Start with the [guide](crate::batch_guide)."
)]

pub use crate::assembly::clients_by_account;
pub use crate::config::choices::OnUnknown;
pub use crate::llm::batch::BatchAccount;
#[cfg(feature = "queue")]
pub use crate::llm::batch::BatchClients;
pub use crate::llm::providers::batch::BatchApi;
#[cfg(feature = "queue")]
pub use crate::queue::batch::{BatchInfo, BatchSettings, UncollectedResults};
