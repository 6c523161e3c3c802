//! A value that a caller attaches to a request and gets back with the outcome.

use std::any::Any;
use std::sync::Arc;

/// A value of the caller that travels with a [`Request`](crate::Request) to its [`Outcome`](crate::Outcome), for
/// example the row that it was made from, or a channel for a reply. It is not sent, not part of
/// [`request_hash`](crate::client::request_hash), and not in result lines or queues. Clones share the value. Requests
/// that differ only in it are equal.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("UserData({})", _0.is_some())]
pub struct UserData(Option<Arc<dyn Any + Send + Sync>>);

impl UserData {
    /// Wraps a value.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(value)))
    }

    /// The value, if there is one of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_deref()?.downcast_ref()
    }

    /// The value, shared with other clones, if there is one of this type.
    pub fn shared<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.clone()?.downcast().ok()
    }

    /// True if there is no value.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

/// A value that is already shared is not wrapped again.
impl<T: Any + Send + Sync> From<Arc<T>> for UserData {
    fn from(value: Arc<T>) -> Self {
        Self(Some(value))
    }
}

/// All values are equal, because they are not part of the request.
impl PartialEq for UserData {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
