//! Builders whose settings may be missing.

/// Changes a builder only under a condition.
pub trait Optional: Sized {
    /// Sets a value if there is one.
    fn set<T>(self, value: Option<T>, setter: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => setter(self, value),
            None => self,
        }
    }

    /// Applies a change if `yes`.
    fn when(self, yes: bool, change: impl FnOnce(Self) -> Self) -> Self {
        if yes { change(self) } else { self }
    }
}

impl<B> Optional for B {}
