//! The contributions of answers to the counters.

use crate::base::Usage;
use crate::llm::response::{FinishReason, Response};
use crate::observe::tally::{Measure, range};

impl Measure {
    /// The measurements of the answers to one call.
    pub(crate) fn of<'r>(
        responses: impl IntoIterator<Item = &'r Response, IntoIter: Clone>,
    ) -> Self {
        let responses = responses.into_iter();
        let mut all = Self {
            items: responses.clone().count() as u64,
            usage: Usage::sum(responses.clone().filter_map(|r| r.usage)),
            ..Self::default()
        };
        for response in responses {
            all.cache_saved = all.cache_saved.saturating_add(response.cache_saved);
            let extracted = response.provider == "extract";
            all.extracted |= extracted;
            match response.cost_usd {
                Some(cost) => {
                    all.cost_usd += cost;
                    all.priced += 1;
                }
                None => all.unpriced += 1,
            }
            let truncated = response.finish_reason == FinishReason::Length && !extracted;
            all.truncated += u64::from(truncated);
            all.warned += u64::from(response.warning.is_some());
            if let Some(vector) = &response.embedding {
                all.vectors += 1;
                let numbers = vector.len();
                all.dimensions = range(all.dimensions, Some((numbers, numbers)));
            }
        }
        all
    }

    /// Adds an item with the answer of another one, for which it was billed.
    pub(crate) fn add_equal(&mut self, answer: &Response) {
        self.shared += 1;
        let one = Self::of([answer]);
        self.items += 1;
        self.vectors += one.vectors;
        self.dimensions = range(self.dimensions, one.dimensions);
        self.truncated += one.truncated;
        self.warned += one.warned;
        self.extracted |= one.extracted;
    }
}
