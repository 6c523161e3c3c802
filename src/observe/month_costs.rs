//! Prometheus metrics of the cost in this month.

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use crate::base::ChargeSum;

/// Cost by provider.
pub(crate) struct MonthCosts {
    cost: GaugeVec,
    unpriced: IntGaugeVec,
}

impl MonthCosts {
    pub(super) fn new(registry: &Registry, label: &[&str]) -> Result<Self, prometheus::Error> {
        let cost = Opts::new(
            "batchwright_month_cost_usd",
            "Known cost of the calls of this month (UTC), in US dollars.",
        );
        let unpriced = Opts::new(
            "batchwright_month_unpriced_calls",
            "Calls of this month (UTC) without a known price.",
        );
        let made = Self {
            cost: GaugeVec::new(cost, label)?,
            unpriced: IntGaugeVec::new(unpriced, label)?,
        };
        registry.register(Box::new(made.cost.clone()))?;
        registry.register(Box::new(made.unpriced.clone()))?;
        Ok(made)
    }

    /// Replaces the cost per provider.
    pub(crate) fn set<'p>(&self, providers: impl Iterator<Item = (&'p str, ChargeSum)>) {
        self.cost.reset();
        self.unpriced.reset();
        for (provider, sum) in providers {
            let label = &[provider];
            self.cost
                .with_label_values(label)
                .set(sum.cost_usd.dollars());
            let calls = i64::try_from(sum.unpriced).unwrap_or(i64::MAX);
            self.unpriced.with_label_values(label).set(calls);
        }
    }
}
