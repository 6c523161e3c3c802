//! The batch strategy: jobs that are handed over to a provider's Batch API, and fetched hours later.
//!
//! [`record`] is what is written down of a batch, [`plan`] decides from it what is next, [`poller`] is
//! the one thread that carries that out; what takes long ([`pack`], uploads, [`collect`]) runs on two
//! [`transfer`] threads.

mod adopt;
#[cfg(test)]
mod bench;
mod collect;
mod context;
mod ends;
mod gather;
mod half;
mod handing;
#[cfg(test)]
mod hostile;
mod info;
#[cfg(test)]
mod late_results;
mod outlook;
mod pace;
mod pack;
mod plan;
mod poller;
mod post;
mod record;
mod search;
#[cfg(test)]
mod simulation;
mod spool;
mod steps;
mod transfer;
mod uncollected;
#[cfg(test)]
mod unsaved;
#[cfg(test)]
mod unsure;
mod watch;
#[cfg(test)]
mod world;

pub use adopt::BatchAdoption;
pub(crate) use context::BatchContext;
pub(crate) use ends::Ends;
pub use info::{BatchInfo, UncollectedResults};
pub(crate) use outlook::Outlook;
pub use pace::BatchSettings;
pub(crate) use poller::{Begin, Poller};
pub use post::BatchClients;
pub(crate) use post::Post;
pub(crate) use spool::Spool;
pub(crate) use transfer::Transfers;
