//! What the calls of one transaction were billed.

use crate::base::{Charge, ChargeSum, Day, Usd};
use crate::queue::job::Spent;

use super::rows::process_of;

/// Charges, with the number of each one's process. Without a run, it is unknown who was paid.
#[derive(Default)]
pub(super) struct NewCharges(Vec<(Charge, i64)>);

impl NewCharges {
    /// Adds what was spent for a job.
    pub(super) fn spent(&mut self, job: i64, spent: &Spent, charge: Option<&Charge>) {
        let known = charge.map(|charge| charge.sum);
        let cost_usd = spent.cost_usd.unwrap_or_default();
        let sum = ChargeSum {
            calls: known.map_or(1, |sum| sum.calls),
            unpriced: known.map_or(spent.unpriced, |sum| sum.unpriced),
            input_tokens: spent.input_tokens,
            cached_input_tokens: known.map_or(0, |sum| sum.cached_input_tokens),
            output_tokens: spent.output_tokens,
            cost_usd,
        };
        let is_nothing = (sum.input_tokens, sum.output_tokens, cost_usd) == (0, 0, Usd::ZERO);
        let charge = match charge {
            Some(charge) => Charge {
                sum,
                ..charge.clone()
            },
            None if is_nothing && sum.unpriced == 0 => return,
            None => Charge::new(Day::default(), sum),
        };
        self.0.push((charge, process_of(job)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Charge, i64)> {
        self.0.iter().map(|(charge, process)| (charge, *process))
    }
}
