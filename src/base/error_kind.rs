//! The kinds of errors, by which everything above decides.

use std::fmt;

/// What went wrong, as far as the next decision is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The provider asks for a slower pace (429, quota per minute).
    RateLimited,
    /// It may well succeed when tried again: reset, cut-off reply, 408, 5xx, time-out.
    Transient,
    /// A complete success reply that is not what the dialect promises.
    Malformed,
    /// The request itself is wrong and stays wrong (400, 413, 422), or its answer has not the shape
    /// that was asked for, not even when asked again.
    Invalid,
    /// The credential is missing, refused or lacks a permission.
    Auth,
    /// The account has no credit or reached a hard limit.
    Quota,
    /// The provider does not know the model.
    UnknownModel,
    /// A safety filter or refusal.
    Blocked,
    /// Stopped by the caller before it had an outcome.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// Sending it could have exceeded the budget.
    BudgetExceeded,
    /// The code that handled the item panicked.
    Panic,
    /// The item was in flight when its process died, too often.
    Crashed,
    /// A file that is not there, or no longer.
    NotFound,
    /// A file that this user may not read.
    PermissionDenied,
    /// A file that is no longer what was found, or changed while it was read.
    Changed,
}

/// As its [name](Self::as_str).
impl serde::Serialize for ErrorKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl ErrorKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [ErrorKind; 16] = [
        Self::RateLimited,
        Self::Transient,
        Self::Malformed,
        Self::Invalid,
        Self::Auth,
        Self::Quota,
        Self::UnknownModel,
        Self::Blocked,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::BudgetExceeded,
        Self::Panic,
        Self::Crashed,
        Self::NotFound,
        Self::PermissionDenied,
        Self::Changed,
    ];

    /// The stable name used in JSON, in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Transient => "transient",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::UnknownModel => "unknown_model",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Panic => "panic",
            Self::Crashed => "crashed",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Changed => "changed",
        }
    }

    /// The coarse class written beside the kind: `retryable`, `rate_limit` or `non_retryable`.
    pub fn class(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limit",
            Self::Transient | Self::Malformed => "retryable",
            _ => "non_retryable",
        }
    }

    /// True for failures that every further call to the same provider (or model) would share.
    pub fn is_critical(self) -> bool {
        matches!(self, Self::Auth | Self::Quota | Self::UnknownModel)
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
