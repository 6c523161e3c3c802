//! What the limiter and the breakers tell items apart by: the quotas on their route, and its steps.

use std::sync::Arc;

use super::limiter::QuotaId;

/// The quotas an item meets, one for each step of its route. Items of one class are alike to the
/// limiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    quotas: Arc<[QuotaId]>,
    /// Which of the routes that share an engine: a step is a step of its route.
    route: u16,
}

impl Class {
    pub(crate) fn new(quotas: impl Into<Arc<[QuotaId]>>) -> Self {
        Self {
            quotas: quotas.into(),
            route: 0,
        }
    }

    /// The same quotas on another route.
    #[cfg(feature = "queue")]
    pub(crate) fn on(self, route: u16) -> Self {
        Self { route, ..self }
    }

    pub(crate) fn steps(&self) -> usize {
        self.quotas.len()
    }

    pub(crate) fn quota(&self, step: u8) -> QuotaId {
        let quota = self.quotas.get(usize::from(step));
        quota.copied().unwrap_or(QuotaId::NONE)
    }

    /// Names a step among those of all routes.
    pub(crate) fn at(&self, step: u8) -> StepId {
        StepId(self.route, step)
    }
}

/// A step of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StepId(u16, u8);
