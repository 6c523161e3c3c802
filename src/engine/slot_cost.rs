//! The cost of a unit of work in slot time. It shows whether more calls in flight help.
//!
//! Work is counted in output tokens if replies report them, because replies differ in length, and otherwise in calls.
//! By Little's law, the throughput of a full window is its size divided by this cost. If the cost grows as fast as
//! the window, nothing was gained.

use std::time::Duration;

/// Calls that were answered since the measurement started.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SlotCost {
    by_tokens: Sum,
    by_calls: Sum,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    calls: u32,
    seconds: f64,
    tokens: f64,
}

/// Seconds per token, or per call if no reply reported tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    seconds: f64,
    by_tokens: bool,
}

impl SlotCost {
    pub(super) fn add(&mut self, took: Duration, output_tokens: Option<u64>) {
        let sum = match output_tokens {
            Some(_) => &mut self.by_tokens,
            None => &mut self.by_calls,
        };
        sum.calls += 1;
        sum.seconds += took.as_secs_f64();
        // An answer without tokens, such as a vector, is work too.
        sum.tokens += output_tokens.unwrap_or(1).max(1) as f64;
    }

    pub(super) fn calls(&self) -> u32 {
        self.by_tokens.calls + self.by_calls.calls
    }

    pub(super) fn cost(&self) -> Cost {
        let by_tokens = self.by_tokens.calls >= self.by_calls.calls;
        let sum = if by_tokens {
            self.by_tokens
        } else {
            self.by_calls
        };
        Cost {
            // A clock that does not advance must not make work free.
            seconds: (sum.seconds / sum.tokens.max(1.0)).max(1e-9),
            by_tokens,
        }
    }
}

impl Cost {
    /// The ratio of two costs; 1 if they cannot be compared.
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
    fn replies_without_tokens_are_counted_in_calls() {
        let calls = cost(&[(SECOND, None), (3 * SECOND, None)]);
        assert!((calls.times(cost(&[(SECOND, None)])) - 2.0).abs() < 1e-9);
        assert_eq!(calls.times(cost(&[(SECOND, Some(50))])), 1.0);
        let vectors = cost(&[(SECOND, Some(0)), (SECOND, Some(0))]);
        assert!(vectors.times(vectors) == 1.0);
        assert!(cost(&[(Duration::ZERO, None)]).times(vectors).is_finite());
    }
}
