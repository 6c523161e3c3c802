//! Why a run ends before its work does.

use crate::base::error::Error;

/// What a failed item means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Go on with the rest. The library's default. A provider that refused the key or has no
    /// credit left is not called again all the same: what only it could answer stays unsent.
    #[default]
    ContinueOnError,
    /// Stop at the first item that finally failed.
    StopOnError,
    /// Stop when the failure would be shared by all further calls: a refused key, an exhausted
    /// quota, an unknown model, a provider that has refused all calls for their pace for ten minutes,
    /// or whose first ten replies are no answers and alike. While other calls are answered, a refused key or an
    /// exhausted quota is one item's, until three come in a row (five of status 403). The default of `batchwright run`.
    ///
    /// Whatever the policy, a run stops when no provider is left that can be called: see [`StopReason::Unreachable`].
    StopOnCriticalError,
}

/// Why a run ended before its work did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StopReason {
    /// The context was cancelled.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// An item failed under [`ErrorPolicy::StopOnError`].
    ItemFailed(Error),
    /// No provider of the route can be called any more, or a critical error, a rate limit that never
    /// ends, or a `Retry-After` beyond what is obeyed came under
    /// [`ErrorPolicy::StopOnCriticalError`].
    Critical(Error),
    /// The last provider that could be called was unavailable for ten minutes, or no server was ever reached at its
    /// address. Under [`ErrorPolicy::StopOnCriticalError`] also: nothing at the address takes prompts, or its model
    /// never loaded.
    Unreachable(Error),
    /// Under [`ErrorPolicy::StopOnCriticalError`]: nothing was answered, and the first ten replies of a
    /// provider were paid for and cannot be used, or the first ten requests were refused in the same
    /// words by an error that nothing more is known of.
    AllAlike(Error),
    /// Whoever took the results takes no more.
    SinkClosed,
    /// The source or the output cannot be used any further.
    Fatal(Error),
    /// The output was removed, replaced, cut short or written to by somebody else. What this run wrote
    /// is where the message says.
    OutputLost(Error),
    /// The options make no sense together, such as a concurrency of 0.
    Misuse(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::DeadlineExceeded => f.write_str("the deadline passed"),
            Self::ItemFailed(e) => write!(f, "an item failed: {e}"),
            Self::Critical(e) | Self::Fatal(e) | Self::AllAlike(e) | Self::OutputLost(e) => {
                write!(f, "{e}")
            }
            Self::Unreachable(e) if e.is_not_ready() => write!(f, "{e} after ten minutes"),
            Self::Unreachable(e) if e.is_unreachable() => {
                write!(f, "the provider cannot be reached: {e}")
            }
            Self::Unreachable(e) => write!(f, "the provider is unavailable: {e}"),
            Self::SinkClosed => f.write_str("the reader of the results went away"),
            Self::Misuse(why) => f.write_str(why),
        }
    }
}
