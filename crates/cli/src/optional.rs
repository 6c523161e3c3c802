//! Builders whose settings may be missing.

/// Sets a value of a builder only if there is one.
pub trait Optional: Sized {
    fn set<T>(self, value: Option<T>, setter: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => setter(self, value),
            None => self,
        }
    }
}

impl<B> Optional for B {}
