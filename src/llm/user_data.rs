//! What a caller attaches to a request, to find it again in the outcome.

use std::any::Any;
use std::sync::Arc;

/// A value of the caller's own that travels with a [`Request`](crate::Request) to its
/// [`Outcome`](crate::Outcome): the row it was made of, a channel to reply on. Nobody looks at it: it
/// is not sent, not part of [`request_hash`](crate::client::request_hash), and in no result line or queue.
/// Clones share the value. Requests that differ in it alone are equal.
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

    /// True when there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

/// A value that is shared already is not wrapped once more.
impl<T: Any + Send + Sync> From<Arc<T>> for UserData {
    fn from(value: Arc<T>) -> Self {
        Self(Some(value))
    }
}

/// It is no part of what is asked.
impl PartialEq for UserData {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
