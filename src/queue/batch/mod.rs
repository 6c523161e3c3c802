//! The batch strategy: jobs that are submitted to a provider's Batch API, and whose results are fetched hours later.
//!
//! [`machine`] decides the next step of a batch and the effect of each reply. [`executor`] carries that out on the
//! thread of the [`poller`]. Slow work ([`write_input`], uploads, lists, [`collect`]) runs on two [`transfer`]
//! threads. Batches share accounts, see [`context`]; [`discovery`] forms new ones from waiting
//! jobs.

mod collect;
mod context;
mod discovery;
mod executor;
mod info;
mod machine;
mod poller;
mod settings;
mod settle_items;
mod spool;
#[cfg(test)]
mod tests;
mod transfer;
mod write_input;

pub(crate) use context::{BatchContext, BatchControl, BatchOverview};
pub use info::{BatchInfo, UncollectedResults};
pub(crate) use machine::is_cut_off;
pub(crate) use poller::{Poller, PollerOptions};
pub use settings::BatchSettings;
pub(crate) use spool::Spool;
pub(crate) use transfer::Transfers;
