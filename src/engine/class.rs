//! The properties of an item that the limiter and the breakers need: the quotas of its route, and its steps.

use std::sync::Arc;

use super::limiter::QuotaId;

/// The quotas of a route, one per step. Items of one class are treated equally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    quotas: Arc<[QuotaId]>,
    /// Index of the route, if several routes share an engine.
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

    /// The identity of a step among those of all routes.
    pub(crate) fn at(&self, step: u8) -> StepId {
        StepId(self.route, step)
    }
}

/// A step of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepId(u16, u8);
