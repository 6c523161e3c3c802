//! Tests of the whole: the poller over a real store and a provider in memory.

mod adversarial;
mod attached_files;
mod budgets;
mod fake_client;
pub(super) mod fake_provider;
pub(super) mod harness;
mod late_results;
mod refusals;
mod simulation;
