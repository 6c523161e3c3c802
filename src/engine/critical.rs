//! Whether a failure would be shared by all further calls to a step of the route.

use std::collections::HashMap;

use crate::base::error::{Error, ErrorKind};

use super::class::StepId;

/// Since its last answer, how often each step that has answered said 403.
#[derive(Debug, Default)]
pub(super) struct CriticalFailures(HashMap<StepId, u32>);

/// This many in a row are no longer the fault of single prompts.
const REFUSALS: u32 = 5;

impl CriticalFailures {
    /// The step has answered a prompt: its credential is good.
    pub(super) fn answered(&mut self, step: StepId) {
        self.0.insert(step, 0);
    }

    /// True when every further call would fail in the same way. A provider that has answered
    /// before may refuse a single prompt with 403: a filter at its edge, somebody else's file.
    pub(super) fn is_critical(&mut self, step: StepId, error: &Error) -> bool {
        let forbidden = error.kind() == ErrorKind::Auth && error.status() == Some(403);
        match self.0.get_mut(&step) {
            Some(refused) if forbidden => {
                *refused += 1;
                *refused >= REFUSALS
            }
            _ => error.kind().is_critical(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::class::Class;

    fn step(step: u8) -> StepId {
        Class::new([]).at(step)
    }

    fn forbidden() -> Error {
        Error::new(ErrorKind::Auth, "no").with_status(403)
    }

    #[test]
    fn a_403_is_the_providers_word_until_it_has_answered_and_the_items_afterwards() {
        let mut critical = CriticalFailures::default();
        assert!(critical.is_critical(step(1), &forbidden()));
        critical.answered(step(1));
        assert!(!critical.is_critical(step(1), &forbidden()));
        assert!(critical.is_critical(step(0), &forbidden()));
    }

    #[test]
    fn several_in_a_row_are_the_providers_word_again() {
        let mut critical = CriticalFailures::default();
        critical.answered(step(0));
        let lost: Vec<bool> = (0..5)
            .map(|_| critical.is_critical(step(0), &forbidden()))
            .collect();
        assert_eq!(lost, [false, false, false, false, true]);
        critical.answered(step(0));
        assert!(!critical.is_critical(step(0), &forbidden()));
    }

    #[test]
    fn a_refused_key_or_an_empty_account_is_lost_at_any_time() {
        let mut critical = CriticalFailures::default();
        critical.answered(step(0));
        let refused = Error::new(ErrorKind::Auth, "no").with_status(401);
        assert!(critical.is_critical(step(0), &refused));
        let empty = Error::new(ErrorKind::Quota, "no").with_status(403);
        assert!(critical.is_critical(step(0), &empty));
        let busy = Error::new(ErrorKind::Transient, "no").with_status(503);
        assert!(!critical.is_critical(step(0), &busy));
    }
}
