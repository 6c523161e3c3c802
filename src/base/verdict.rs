//! The verdict on a failure, made where the reply is read: whom it concerns, whether to try again, and what was paid.
//!
//! The kind of an error is the word for users. What follows from it is decided by these three axes.

use super::error_kind::ErrorKind;

/// How much of a failed request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The last byte of the body was not sent: nothing can have been billed.
    No,
    /// It may have been processed and billed although no usable reply arrived.
    Maybe,
    /// The provider answered with a complete error reply.
    Answered,
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[cfg_attr(test, derive(strum::VariantArray, strum::IntoStaticStr))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, strum(serialize_all = "lowercase"))]
pub(crate) enum Whom {
    /// These requests.
    Request,
    /// The model, or the part of the provider that serves it.
    Model,
    /// The account, the key or the settings: whatever all calls with them share.
    Account,
    /// The provider, or the way to it.
    Way,
    /// Only other calls can show it.
    Unclear,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(strum::VariantArray, strum::IntoStaticStr))]
#[cfg_attr(test, strum(serialize_all = "lowercase"))]
pub(crate) enum Again {
    Never,
    /// After a time.
    Later,
    /// When there is room.
    Room,
}

/// What was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bill {
    No,
    /// It may have been processed, but no complete reply arrived.
    Maybe,
    /// A complete reply that is no answer.
    Yes,
}

/// The verdict on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Verdict {
    pub whom: Whom,
    pub again: Again,
    pub paid: Bill,
}

impl Verdict {
    /// What a kind and a status say without a closer look.
    pub(super) fn of(kind: ErrorKind, status: Option<u16>, sent: Sent) -> Self {
        let (whom, again) = match kind {
            ErrorKind::RateLimited => (Whom::Account, Again::Room),
            ErrorKind::Transient if status.is_some_and(is_overload) => (Whom::Way, Again::Later),
            ErrorKind::Transient | ErrorKind::Malformed => (Whom::Unclear, Again::Later),
            ErrorKind::Auth | ErrorKind::Quota => (Whom::Account, Again::Never),
            ErrorKind::UnknownModel => (Whom::Model, Again::Never),
            _ => (Whom::Request, Again::Never),
        };
        let paid = match sent {
            Sent::Maybe => Bill::Maybe,
            Sent::No | Sent::Answered => Bill::No,
        };
        Self { whom, again, paid }
    }

    /// Whether only other calls can show whom it concerns.
    pub(crate) fn is_unclear(self) -> bool {
        (self.whom, self.again) == (Whom::Unclear, Again::Never)
    }
}

/// Statuses that concern the provider, whatever the request. Cloudflare uses 520 to 530.
fn is_overload(status: u16) -> bool {
    matches!(status, 502..=504 | 520..=530)
}

/// The form of an error reply. Replies with the same status and form end alike, whatever they say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// No reply.
    #[default]
    None,
    Empty,
    Page,
    Text,
    /// JSON without a code.
    Bare,
    /// JSON with the provider's own code.
    Coded,
}

/// What failures have in common that ended alike.
pub(crate) type Likeness = (Option<u16>, Form);
