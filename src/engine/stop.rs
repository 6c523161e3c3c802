//! Why a run ends before its work does.

use crate::base::Error;

/// What the failure of an item means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Continue with the others. The library's default. A provider that rejected the API key or has no credit is
    /// still not called again: items that have no other provider stay unsent.
    #[default]
    ContinueOnError,
    /// Stop at the first item that failed permanently.
    StopOnError,
    /// Stop if all further calls would fail in the same way: a rejected API key, an account without credit, an
    /// unknown model, a provider that has rate-limited all calls for ten minutes, or whose first ten replies are
    /// unusable in the same way. If other calls are answered, a rejected API key or an account without credit
    /// concerns one item, until five in a row fail so. The default of `batchwright run`.
    ///
    /// Under any policy, a run stops when no provider is left that can be called: see [`StopReason::Unreachable`].
    StopOnCriticalError,
}

/// Why a run ended before its work did.
#[derive(Debug, Clone, derive_more::From)]
#[non_exhaustive]
pub enum StopReason {
    /// The context was cancelled.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// An item failed under [`ErrorPolicy::StopOnError`].
    ItemFailed(Error),
    /// No provider of the route can be called any more; or under [`ErrorPolicy::StopOnCriticalError`] a critical
    /// error, a permanent rate limit, or a `Retry-After` that is too long.
    Critical(Error),
    /// The last callable provider was unavailable for ten minutes, or no server was ever reached at its address.
    /// Under [`ErrorPolicy::StopOnCriticalError`] also: the server accepts no prompts, or its model never loaded.
    Unreachable(Error),
    /// Under [`ErrorPolicy::StopOnCriticalError`], if nothing was answered: the first ten replies of a provider were
    /// billed and are unusable, or the first ten requests were rejected with the same message by an error of unknown
    /// meaning.
    AllAlike(Error),
    /// The next call could cost more than is left of the [`Budget`](crate::Budget), or its cost has no upper bound.
    BudgetExceeded(Error),
    /// The consumer of the results takes no more.
    SinkClosed,
    /// The source or the output cannot be used any more.
    #[from]
    Fatal(Error),
    /// Another program removed, replaced, truncated or wrote to the output. The message says where the results of
    /// this run are.
    OutputLost(Error),
    /// The options contradict each other, or one is invalid, such as a concurrency of 0.
    Misuse(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::DeadlineExceeded => f.write_str("the deadline passed"),
            Self::ItemFailed(e) => write!(f, "an item failed: {e}"),
            Self::Critical(e)
            | Self::Fatal(e)
            | Self::AllAlike(e)
            | Self::BudgetExceeded(e)
            | Self::OutputLost(e) => {
                write!(f, "{e}")
            }
            Self::Unreachable(e) if e.is_not_ready() => write!(f, "{e} after ten minutes"),
            Self::Unreachable(e) if e.is_unreachable() && e.status().is_some() => {
                write!(f, "the address is not that of the provider's API: {e}")
            }
            Self::Unreachable(e) if e.is_unreachable() => {
                write!(f, "the provider cannot be reached: {e}")
            }
            Self::Unreachable(e) => write!(f, "the provider is unavailable: {e}"),
            Self::SinkClosed => f.write_str("the reader of the results went away"),
            Self::Misuse(why) => f.write_str(why),
        }
    }
}
