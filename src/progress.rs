//! Progress while work goes on, and what held it up.
//!
//! A [`ProgressNotifier`](crate::ProgressNotifier) receives [`Progress`](crate::Progress); a
//! [`Summary`](crate::Summary) is what is left when a run has ended.
//!
//! | to | use |
//! |---|---|
//! | see the phase of a run | [`Phase`] |
//! | be called at the end of each item | [`EveryItem`] |
//! | see the current limits of providers: the rest of each, and cooldowns | [`ProviderLimits`], with the [`QuotaStatus`] and [`RateStatus`] of each |
//! | see why items of a run failed | [`FailureCause`], in [`Summary::causes`](crate::Summary::causes) |
//! | estimate the end of your own work | [`ProgressTracker`], which makes [`ProgressInfo`] |
//! | observe every call | [`CallObserver`], which receives the [`ObservedCall`] and its [`CallResult`] |
//! | observe every job that a worker finishes | `JobObserver`, which receives the `EndedJob`, with the feature `queue` |
//! | export these numbers to Prometheus | `Metrics`, with the feature `metrics` |
//! | read a timestamp | [`Timestamp`] |
//! | keep the OS process below a memory limit | [`MemoryManager`], with [`MemoryHold`]s and its [`MemoryUse`] |

pub use crate::base::clock::Timestamp;
pub use crate::base::memory::{MemoryHold, MemoryManager, MemoryUse};
pub use crate::engine::quota::{QuotaStatus, RateStatus};
pub use crate::llm::provider_limits::ProviderLimits;
pub use crate::observe::calls::{CallObserver, CallResult, ObservedCall};
pub use crate::observe::causes::FailureCause;
#[cfg(feature = "queue")]
pub use crate::observe::jobs::{EndedJob, JobObserver};
#[cfg(feature = "metrics")]
pub use crate::observe::metrics::Metrics;
pub use crate::observe::progress::{EveryItem, Phase};
pub use crate::observe::tracker::{ProgressInfo, ProgressTracker};
