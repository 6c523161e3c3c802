//! Whether all further calls would fail in the same way, or only this item.
//!
//! A rejected API key or a `Retry-After` of hours concerns all items, unless other calls are answered: a host's own
//! client may use another API key for one item. So a step that has answered, or has other calls in flight, is in
//! question until enough consecutive calls have failed in this way. An account without credit is critical at once.

use std::collections::BTreeMap;

use crate::base::{Error, ErrorKind};

use super::class::StepId;
use super::quota::QuotaId;

/// Consecutive failures that single items no longer explain.
const ENOUGH: u32 = 3;
/// The same for status 403: a content filter or a foreign file id can reject single prompts.
const ENOUGH_FORBIDDEN: u32 = 5;

/// By step and quota. A rejected API key concerns the quota if many callers name models, otherwise the step (with
/// [`QuotaId::NONE`]); a rate limit concerns the quota.
#[derive(Debug, Default)]
pub(super) struct CriticalFailures(BTreeMap<(StepId, QuotaId), Seen>);

#[derive(Debug, Default)]
struct Seen {
    answered: bool,
    /// Failures since the last answer.
    failures: u32,
}

impl CriticalFailures {
    /// Records that an item was answered.
    pub(super) fn answered(&mut self, step: StepId, quota: QuotaId) {
        for quota in [QuotaId::NONE, quota] {
            let seen = self.0.entry((step, quota)).or_default();
            (seen.answered, seen.failures) = (true, 0);
        }
    }

    /// Whether calls have failed critically since the last answer.
    pub(super) fn in_question(&self, step: StepId, quota: QuotaId) -> bool {
        let failed = |quota| {
            self.0
                .get(&(step, quota))
                .is_some_and(|seen| seen.failures > 0)
        };
        failed(QuotaId::NONE) || failed(quota)
    }

    /// Records a failure. Returns true if every further call would fail in the same way. `out`: other calls to the
    /// step that may still be answered.
    pub(super) fn is_critical(
        &mut self,
        step: StepId,
        quota: QuotaId,
        error: &Error,
        out: usize,
    ) -> bool {
        let quota = match error.kind() {
            ErrorKind::RateLimited | ErrorKind::Auth => quota,
            _ => return error.is_critical(),
        };
        let forbidden = error.kind() == ErrorKind::Auth && error.status() == Some(403);
        let seen = self.0.entry((step, quota)).or_default();
        seen.failures += 1;
        let enough = if forbidden { ENOUGH_FORBIDDEN } else { ENOUGH };
        seen.failures >= enough || (!seen.answered && out == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::class::Class;

    const QUOTA: QuotaId = QuotaId(1);

    fn step(step: u8) -> StepId {
        Class::new([]).at(step)
    }

    fn refused(kind: ErrorKind, status: u16) -> Error {
        Error::new(kind, "no").with_status(status)
    }

    /// After how many such failures in a row all further calls would fail.
    fn enough(critical: &mut CriticalFailures, error: &Error, out: usize) -> Option<usize> {
        (1..10).find(|_| critical.is_critical(step(0), QUOTA, error, out))
    }

    #[test]
    fn the_first_critical_failure_affects_all_without_other_calls() {
        for (kind, status) in [
            (ErrorKind::Auth, 401),
            (ErrorKind::Auth, 403),
            (ErrorKind::Quota, 402),
            (ErrorKind::RateLimited, 429),
        ] {
            let error = refused(kind, status);
            assert_eq!(enough(&mut CriticalFailures::default(), &error, 0), Some(1));
        }
        let busy = refused(ErrorKind::Transient, 503);
        assert_eq!(enough(&mut CriticalFailures::default(), &busy, 0), None);
    }

    #[test]
    fn with_other_calls_several_consecutive_critical_failures_are_needed() {
        for (kind, status, most) in [
            (ErrorKind::Auth, 401, 3),
            (ErrorKind::Auth, 403, 5),
            (ErrorKind::Quota, 403, 1),
            (ErrorKind::RateLimited, 429, 3),
            (ErrorKind::UnknownModel, 404, 1),
        ] {
            let error = refused(kind, status);
            let mut critical = CriticalFailures::default();
            assert_eq!(enough(&mut critical, &error, 7), Some(most));
            critical.answered(step(0), QUOTA);
            assert!(!critical.in_question(step(0), QUOTA));
            assert_eq!(enough(&mut critical, &error, 0), Some(most));
            assert_eq!(critical.in_question(step(0), QUOTA), most > 1);
        }
    }

    #[test]
    fn refusals_are_counted_by_step_and_quota() {
        let mut critical = CriticalFailures::default();
        critical.answered(step(0), QUOTA);
        let late = refused(ErrorKind::RateLimited, 429);
        assert!(critical.is_critical(step(0), QuotaId(2), &late, 0));
        assert!(!critical.is_critical(step(0), QUOTA, &late, 0));
        let key = refused(ErrorKind::Auth, 401);
        assert!(!critical.is_critical(step(0), QuotaId::NONE, &key, 0));
        assert!(critical.is_critical(step(0), QuotaId(3), &key, 0));
        assert!(critical.is_critical(step(1), QUOTA, &key, 0));
    }
}
