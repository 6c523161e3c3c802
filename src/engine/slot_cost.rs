//! What a unit of work costs, in time of a slot: the sign by which more calls in flight help or do not.
//!
//! Work is counted in output tokens where replies tell them, since replies differ in length; else in
//! calls. By Little's law the throughput of a window that is full is its size divided by this cost, so
//! a cost that grows as fast as the window means that nothing was gained.

use std::time::Duration;

/// Calls that have been answered since a measurement began.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SlotCost {
    told: Sum,
    untold: Sum,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    calls: u32,
    seconds: f64,
    tokens: f64,
}

/// Seconds for a token, or for a call where no reply told tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    seconds: f64,
    by_tokens: bool,
}

impl SlotCost {
    pub(super) fn add(&mut self, took: Duration, output_tokens: Option<u64>) {
        let sum = match output_tokens {
            Some(_) => &mut self.told,
            None => &mut self.untold,
        };
        sum.calls += 1;
        sum.seconds += took.as_secs_f64();
        // An answer without a token, such as a vector, is work too.
        sum.tokens += output_tokens.unwrap_or(1).max(1) as f64;
    }

    pub(super) fn calls(&self) -> u32 {
        self.told.calls + self.untold.calls
    }

    pub(super) fn cost(&self) -> Cost {
        let by_tokens = self.told.calls >= self.untold.calls;
        let sum = if by_tokens { self.told } else { self.untold };
        Cost {
            // A clock that stood still must not make work free.
            seconds: (sum.seconds / sum.tokens.max(1.0)).max(1e-9),
            by_tokens,
        }
    }
}

impl Cost {
    /// How many times as much this is; 1 where the two cannot be compared.
    pub(super) fn times(self, other: Cost) -> f64 {
        if self.by_tokens == other.by_tokens {
            self.seconds / other.seconds
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cost(calls: &[(Duration, Option<u64>)]) -> Cost {
        let mut measured = SlotCost::default();
        for (took, tokens) in calls {
            measured.add(*took, *tokens);
        }
        measured.cost()
    }

    #[test]
    fn answers_twice_as_long_in_twice_the_time_cost_the_same() {
        let short = cost(&[(SECOND, Some(100)), (SECOND, Some(100))]);
        let mixed = cost(&[(SECOND, Some(100)), (3 * SECOND, Some(300))]);
        assert!((mixed.times(short) - 1.0).abs() < 1e-9);
        let slower = cost(&[(3 * SECOND, Some(100))]);
        assert!((slower.times(short) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_tells_no_tokens_is_counted_in_calls_and_compared_with_its_like() {
        let calls = cost(&[(SECOND, None), (3 * SECOND, None)]);
        assert!((calls.times(cost(&[(SECOND, None)])) - 2.0).abs() < 1e-9);
        assert_eq!(calls.times(cost(&[(SECOND, Some(50))])), 1.0);
        let vectors = cost(&[(SECOND, Some(0)), (SECOND, Some(0))]);
        assert!(vectors.times(vectors) == 1.0);
        assert!(cost(&[(Duration::ZERO, None)]).times(vectors).is_finite());
    }
}
