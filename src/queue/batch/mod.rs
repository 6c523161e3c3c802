//! The batch strategy: jobs that are handed over to a provider's Batch API, and fetched hours later.
//!
//! [`machine`] says what is written down of a batch, and decides from it what is next; [`poller`] is
//! the one thread that carries that out; what takes long ([`write_input`], uploads, [`collect`]) runs on two
//! [`transfer`] threads.

mod accounts;
mod adoption;
mod bisect;
mod collect;
mod context;
mod control;
mod discovery;
mod executor;
mod form_batches;
mod info;
mod machine;
mod overview;
mod poller;
mod settings;
mod settle_items;
mod sizes;
mod spool;
#[cfg(test)]
mod tests;
mod transfer;
mod write_input;

pub use adoption::BatchAdoption;
pub(crate) use context::BatchContext;
pub use control::BatchClients;
pub(crate) use control::BatchControl;
pub use info::{BatchInfo, UncollectedResults};
pub(crate) use overview::BatchOverview;
pub(crate) use poller::{Poller, PollerOptions};
pub use settings::BatchSettings;
pub(crate) use settle_items::ItemSettler;
pub(crate) use spool::Spool;
pub(crate) use transfer::Transfers;
