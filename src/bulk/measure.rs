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

    /// The measurements of items with the answer of another one, for which it was billed.
    pub(crate) fn of_equals(answer: &Response, items: u64) -> Self {
        let one = Self::of([answer]);
        Self {
            items,
            shared: items,
            vectors: items * one.vectors,
            dimensions: one.dimensions,
            truncated: items * one.truncated,
            warned: items * one.warned,
            extracted: one.extracted,
            ..Self::default()
        }
    }
}
