//! An error in a request, before a vendor has words for it.

/// An error in a request. Places are paths such as `messages[0].content`; the empty path is the whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: String,
    /// `not_json`, `unknown`, `missing` or `invalid`.
    pub(super) kind: &'static str,
    /// Why a value is invalid.
    pub(super) message: String,
}

impl Fault {
    fn new(at: impl Into<String>, kind: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            at: at.into(),
            kind,
            message: message.into(),
        }
    }

    pub(super) fn not_json() -> Fault {
        Fault::new("", "not_json", "")
    }

    /// A field that the API does not know.
    pub(super) fn unknown(at: impl Into<String>) -> Fault {
        Fault::new(at, "unknown", "")
    }

    pub(super) fn missing(at: impl Into<String>) -> Fault {
        Fault::new(at, "missing", "")
    }

    pub(super) fn invalid(at: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault::new(at, "invalid", message)
    }
}
