//! The durable queue: jobs in a database, workers that carry them out, and hosts that hand them over
//! and take the results.

pub(crate) mod job;
pub(crate) mod store;
