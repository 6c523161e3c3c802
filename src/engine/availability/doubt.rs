//! Whom an unclear end concerns, learned from the ends of other calls: a firewall rejects single prompts with the same
//! page as a revoked key rejects all.
//!
//! - An answer to a call that began later shows that the request itself was the cause.
//! - [`ALIKE`] different requests in a row that ended alike concern the way to the provider, if nothing has been answered
//!   since, and no call is in flight that had begun by then. Those after the first [`SUSPECT`] count only if they began
//!   later, because these are chosen from a larger part of the input.
//!
//! Rate limits, failures of the provider and time-outs count neither way.

use std::time::Duration;

use crate::base::Time;
use crate::base::verdict::Likeness;

/// Different requests in a row that ended alike and concern the way to the provider.
const ALIKE: u32 = 10;
/// So many alike, and the next requests are chosen from a larger part of the input.
const SUSPECT: u32 = 5;
/// Time between calls while a full row waits for one that had begun before: it may take minutes.
const PACE: Duration = Duration::from_secs(1);

/// The unclear ends since the last answer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Doubt {
    alike: Likeness,
    count: u32,
    /// The number of answers that have ended a row.
    pub row: u32,
    /// The last call that had begun when the row became suspect, or full, and how many of those until it are in flight.
    at: u64,
    before: usize,
    /// The latest call that was answered.
    answered: u64,
    /// No call begins before, while the row is full.
    next: Time,
}

impl Doubt {
    /// Records the end of a call.
    pub(super) fn ended(&mut self, number: u64, is_answer: bool, now: Time) {
        self.next = now.after(PACE);
        if self.is_suspect() && number <= self.at {
            self.before = self.before.saturating_sub(1);
        }
        if is_answer {
            self.answered = self.answered.max(number);
            self.row += 1;
            self.count = 0;
        }
    }

    /// Records the unclear end of a request that is not yet in this row. `begun`: the last call that has begun; `out`:
    /// calls in flight. Returns whether it counts.
    pub(crate) fn note(&mut self, alike: Likeness, number: u64, begun: u64, out: usize) -> bool {
        if self.is_full() || self.is_suspect() && number <= self.at {
            return false;
        }
        if self.alike != alike {
            (self.alike, self.count) = (alike, 0);
        }
        self.count += 1;
        if matches!(self.count, SUSPECT | ALIKE) {
            (self.at, self.before) = (begun, out);
        }
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count >= ALIKE
    }

    /// Whether no call has ended for this long.
    pub(crate) fn is_quiet(&self, long: Duration, now: Time) -> bool {
        self.next.after(long) <= now
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.count >= SUSPECT
    }

    /// Whether all calls would end so.
    pub(crate) fn is_of_way(&self) -> bool {
        self.is_full() && self.before == 0
    }

    /// Whether a call was answered that began after this one. The request was the cause whose call ended before that.
    pub(crate) fn is_of_request(&self, begun: u64) -> bool {
        self.answered > begun
    }

    /// Whether no further call begins while so many are in flight: only as many as the row needs, and then one at a time.
    pub(super) fn holds_calls(&self, out: usize, now: Time) -> bool {
        let more = ALIKE.saturating_sub(self.count).max(1) as usize;
        self.paced_until(now).is_some() || self.is_suspect() && out >= self.before + more
    }

    /// When the next call begins at the earliest, while a full row waits.
    pub(super) fn paced_until(&self, now: Time) -> Option<Time> {
        (self.is_full() && self.before > 0 && now < self.next).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::verdict::Form;

    const PAGE: Likeness = (Some(403), Form::Page);

    /// What a model keeps of each call: its number, and how it ended.
    #[derive(Debug, Clone, Copy)]
    enum End {
        Answer,
        Page,
        Other,
        Neither,
    }

    proptest! {
        /// Whatever the order of ends: the way is concerned exactly after ten in a row that ended alike, when all that
        /// had begun by then have ended; and a request exactly when a call was answered that began after its end.
        #[test]
        fn only_rows_without_an_answer_concern_the_way(
            steps in prop::collection::vec((0..30_u8, 0..8_usize), 1..200)
        ) {
            let mut doubt = Doubt::default();
            let (mut begun, mut out) = (0, Vec::new());
            // The row: how it ends alike, its length, the call from which on an end counts, and the calls in flight then.
            let (mut row, mut after, mut before) = ((PAGE, 0), 0, Vec::new());
            let (mut ends, mut answered) = (Vec::new(), 0);
            for (what, at) in steps {
                if what % 2 == 0 || out.is_empty() {
                    begun += 1;
                    out.push(begun);
                    continue;
                }
                let number: u64 = out.remove(at % out.len());
                before.retain(|of| *of != number);
                let end = match what {
                    1 => End::Answer,
                    3 => End::Neither,
                    5 => End::Other,
                    _ => End::Page,
                };
                doubt.ended(number, matches!(end, End::Answer), Time::ZERO);
                let alike = match end {
                    End::Answer => {
                        answered = number.max(answered);
                        row.1 = 0;
                        continue;
                    }
                    End::Neither => continue,
                    End::Page => PAGE,
                    End::Other => (Some(404), Form::Text),
                };
                let counts = row.1 < ALIKE && (row.1 < SUSPECT || number > after);
                prop_assert_eq!(doubt.note(alike, number, begun, out.len()), counts);
                ends.push(begun);
                if counts {
                    row = (alike, if row.0 == alike { row.1 + 1 } else { 1 });
                }
                if counts && matches!(row.1, SUSPECT | ALIKE) {
                    (after, before) = (begun, out.clone());
                }
                prop_assert_eq!(doubt.is_of_way(), row.1 == ALIKE && before.is_empty());
                prop_assert_eq!(doubt.is_suspect(), row.1 >= SUSPECT);
                for end in &ends {
                    prop_assert_eq!(doubt.is_of_request(*end), answered > *end);
                }
            }
        }
    }
}
