//! Prometheus metrics of what was spent in this month.

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use crate::base::Usd;

/// What was spent by model.
pub(crate) struct MonthCosts {
    cost: GaugeVec,
    calls: IntGaugeVec,
    tokens: IntGaugeVec,
}

impl MonthCosts {
    pub(super) fn new(registry: &Registry, label: &[&str]) -> Result<Self, prometheus::Error> {
        let cost = Opts::new(
            "batchwright_month_cost_usd",
            "Known cost of the calls of this month (UTC), in US dollars.",
        );
        let calls = Opts::new(
            "batchwright_month_calls",
            "Calls of this month (UTC) that were billed.",
        );
        let tokens = Opts::new(
            "batchwright_month_tokens",
            "Input and output tokens of the calls of this month (UTC).",
        );
        let made = Self {
            cost: GaugeVec::new(cost, label)?,
            calls: IntGaugeVec::new(calls, label)?,
            tokens: IntGaugeVec::new(tokens, label)?,
        };
        registry.register(Box::new(made.cost.clone()))?;
        registry.register(Box::new(made.calls.clone()))?;
        registry.register(Box::new(made.tokens.clone()))?;
        Ok(made)
    }

    /// Forgets all models.
    pub(crate) fn reset(&self) {
        self.cost.reset();
        self.calls.reset();
        self.tokens.reset();
    }

    /// Adds calls for a model.
    pub(crate) fn add(&self, model: &str, calls: u64, tokens: u64, cost: Usd) {
        let label = &[model];
        self.cost.with_label_values(label).add(cost.dollars());
        self.calls.with_label_values(label).add(level(calls));
        self.tokens.with_label_values(label).add(level(tokens));
    }
}

/// The value of a gauge.
pub(super) fn level(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
