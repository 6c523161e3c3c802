//! Progress while work goes on, and what held it up.
//!
//! A [`ProgressNotifier`](crate::ProgressNotifier) receives [`Progress`](crate::Progress); a
//! [`Summary`](crate::Summary) is what is left when a run has ended.
//!
//! | to | use |
//! |---|---|
//! | see what a run is doing | [`Phase`] |
//! | be called at the end of each item | [`EveryItem`] |
//! | see where the time of a run went, and that of an item | [`TimeSplit`], [`ItemTime`] |
//! | see what providers allow at a moment: limits, what is left of them, pauses | [`ProviderLimits`], with the [`QuotaStatus`] and [`RateStatus`] of each |
//! | see which learned limit slows a run | [`LearnedLimit`], with its [`LimitSource`] |
//! | see why items of a run failed | [`FailureCause`], in [`Summary::causes`](crate::Summary::causes) |
//! | know when work of your own will have ended | [`ProgressTracker`], which makes [`ProgressInfo`] |
//! | hear of every call | [`CallObserver`], which is told the [`ObservedCall`] and its [`CallResult`] |
//! | hear of every job that a worker ends with | `JobObserver`, which is told the `EndedJob`, with the feature `queue` |
//! | count all of it for Prometheus | `Metrics`, with the feature `metrics` |
//! | read a time of day | [`Timestamp`] |
//! | keep the process below a ceiling of memory | [`MemoryManager`], which gives out [`MemoryHold`]s and tells its [`MemoryUse`] |

pub use crate::base::clock::Timestamp;
pub use crate::base::memory::{MemoryHold, MemoryManager, MemoryUse};
pub use crate::engine::item_time::ItemTime;
pub use crate::engine::quota_status::{LearnedLimit, LimitSource, QuotaStatus, RateStatus};
pub use crate::engine::time_split::TimeSplit;
pub use crate::llm::provider_limits::ProviderLimits;
pub use crate::observe::calls::{CallObserver, CallResult, ObservedCall};
pub use crate::observe::causes::FailureCause;
#[cfg(feature = "queue")]
pub use crate::observe::jobs::{EndedJob, JobObserver};
#[cfg(feature = "metrics")]
pub use crate::observe::metrics::Metrics;
pub use crate::observe::progress::{EveryItem, Phase};
pub use crate::observe::tracker::{ProgressInfo, ProgressTracker};
