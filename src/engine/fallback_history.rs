//! Why items left earlier steps of their route, in four bytes per item.
//!
//! Failures repeat: a thousand items leave a failing provider for one reason. Each reason is stored once, so a
//! million waiting items share a few texts.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::{Error, ErrorKind, Optional};

/// Index of the fallback history of an item; the default is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FallbackHistory(u32);

impl FallbackHistory {
    /// Whether the item has never failed over.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reason {
    before: FallbackHistory,
    step: u8,
    kind: ErrorKind,
    status: Option<u16>,
    message: String,
}

/// The fallback histories of a route.
#[derive(Debug, Default)]
pub(crate) struct FallbackHistories(Mutex<HistoryTable>);

#[derive(Debug, Default)]
struct HistoryTable {
    reasons: Vec<Reason>,
    known: HashMap<Reason, FallbackHistory>,
}

/// Number of reasons with a separate text; messages that never repeat must not fill the memory.
const MOST_TEXTS: usize = 4096;
/// Number of histories; later ones are not stored.
const MOST_HISTORIES: usize = 4 * MOST_TEXTS;
/// Longer messages are cut.
const MAX_MESSAGE_BYTES: usize = 300;

impl FallbackHistories {
    /// The history of an item that left `step` because of this error.
    pub(crate) fn add(&self, before: FallbackHistory, step: u8, error: &Error) -> FallbackHistory {
        let mut reason = Reason {
            before,
            step,
            kind: error.kind(),
            status: error.status(),
            message: error.message().chars().take(MAX_MESSAGE_BYTES).collect(),
        };
        let mut kept = self.0.lock();
        if let Some(known) = kept.known.get(&reason) {
            return *known;
        }
        if kept.reasons.len() >= MOST_TEXTS {
            reason.message = format!("{}, as others before", reason.kind);
            if let Some(known) = kept.known.get(&reason) {
                return *known;
            }
        }
        if kept.reasons.len() >= MOST_HISTORIES {
            return before;
        }
        kept.reasons.push(reason.clone());
        let trail = FallbackHistory(kept.reasons.len() as u32);
        kept.known.insert(reason, trail);
        trail
    }

    /// The steps and their errors, in order.
    pub(crate) fn of(&self, trail: FallbackHistory) -> Vec<(u8, Error)> {
        let kept = self.0.lock();
        let mut steps = Vec::new();
        let mut at = trail;
        while let Some(reason) = (at.0 as usize)
            .checked_sub(1)
            .and_then(|place| kept.reasons.get(place))
        {
            let error = Error::new(reason.kind, reason.message.clone());
            steps.push((reason.step, error.set(reason.status, Error::with_status)));
            at = reason.before;
        }
        steps.reverse();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_stored_once_and_returned_in_order() {
        let fallback_histories = FallbackHistories::default();
        let busy = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
        let refused = Error::new(ErrorKind::Auth, "wrong key");
        let one = fallback_histories.add(FallbackHistory::default(), 0, &busy);
        assert_eq!(
            fallback_histories.add(FallbackHistory::default(), 0, &busy),
            one
        );
        let two = fallback_histories.add(one, 1, &refused);
        let steps = fallback_histories.of(two);
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].0, steps[0].1.status()), (0, Some(429)));
        assert_eq!((steps[1].0, steps[1].1.message()), (1, "wrong key"));
        assert!(fallback_histories.of(FallbackHistory::default()).is_empty());
    }

    #[test]
    fn messages_that_never_repeat_are_forgotten_in_the_end() {
        let fallback_histories = FallbackHistories::default();
        for n in 0..10 * MOST_TEXTS {
            let error = Error::new(ErrorKind::Transient, format!("request {n} failed"));
            let trail = fallback_histories.add(FallbackHistory::default(), 0, &error);
            assert_eq!(
                fallback_histories.of(trail)[0].1.kind(),
                ErrorKind::Transient
            );
        }
        assert_eq!(fallback_histories.0.lock().reasons.len(), MOST_TEXTS + 1);
    }
}
