//! The kinds of errors, which determine all decisions about failures.

use strum::VariantArray;

/// The kind of a failure, for the decision that follows.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The provider limits the rate (429, quota per minute).
    RateLimited,
    /// A retry may succeed: connection reset, truncated reply, 408, 5xx, time-out.
    Transient,
    /// A complete success reply that does not have the API's format.
    Malformed,
    /// The request is invalid (400, 413, 422), or its answer does not have the requested format even after a retry.
    Invalid,
    /// The credential is missing, rejected or lacks a permission.
    Auth,
    /// The account has no credit or has reached a hard limit.
    Quota,
    /// The provider does not know the model.
    UnknownModel,
    /// A safety filter or refusal.
    Blocked,
    /// The caller stopped it before it had an outcome.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// Sending it could have exceeded the budget.
    BudgetExceeded,
    /// The code that handled the item panicked.
    Panic,
    /// Its OS process crashed too often while it was in flight.
    Crashed,
    /// A file does not exist, or was deleted.
    NotFound,
    /// This user may not read a file.
    PermissionDenied,
    /// A file has changed since it was found, or while it was read.
    Changed,
}

impl ErrorKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: &[ErrorKind] = Self::VARIANTS;

    /// The stable name used in JSON, in `snake_case`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The class written next to the kind: `retryable`, `rate_limit` or `non_retryable`.
    pub fn class(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limit",
            Self::Transient | Self::Malformed => "retryable",
            _ => "non_retryable",
        }
    }

    /// Whether every further call to the same provider (or model) would fail in the same way.
    pub fn is_critical(self) -> bool {
        matches!(self, Self::Auth | Self::Quota | Self::UnknownModel)
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}
