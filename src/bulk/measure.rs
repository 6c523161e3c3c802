//! What answers contribute to the counts.

use crate::base::usage::Usage;
use crate::llm::response::{FinishReason, Response};
use crate::observe::tally::{Measure, range};

impl Measure {
    /// Of the answers to one call.
    pub(crate) fn of<'r>(
        responses: impl IntoIterator<Item = &'r Response, IntoIter: Clone>,
    ) -> Self {
        let responses = responses.into_iter();
        let mut all = Self {
            items: responses.clone().count() as u64,
            usage: Usage::sum(responses.clone().filter_map(|r| r.usage)),
            cost_usd: responses.clone().map(|r| r.cost_usd).sum(),
            ..Self::default()
        };
        for response in responses {
            let extracted = response.provider == "extract";
            all.extracted |= extracted;
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
}
