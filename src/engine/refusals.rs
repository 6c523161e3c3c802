//! How long a quota has only rate-limited calls, and the messages about that.

use std::time::{Duration, SystemTime};

use crate::base::Time;

use super::class::StepId;
use super::limiter::QuotaId;

/// Give up on a quota after this long without a single answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// A quota that is not called for this long although it could be has no items; jitter and other items' turns take
/// less.
const IDLE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Refusals {
    quotas: Vec<Quota>,
    /// Pauses that were logged, by their ends.
    logged: Vec<(QuotaId, Time)>,
}

/// Tasks without a quota are identified by their step.
#[derive(Debug)]
struct Quota {
    id: (StepId, QuotaId),
    has_answered: bool,
    /// First rate-limited call since the last answer, moved forward by the time in which the quota was not called.
    refuses_since: Option<Time>,
    /// When the quota was last called, or may be called again.
    next_call: Time,
}

/// What a rate-limited call shows about the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuotaHealth {
    /// Something was answered within the last ten minutes.
    Answering,
    /// Nothing was answered yet.
    Unknown,
    /// All calls were rate-limited for ten minutes.
    RefusesAll,
}

impl Refusals {
    fn quota(&mut self, step: StepId, quota: QuotaId) -> &mut Quota {
        let id = (step, quota);
        let at = self.quotas.iter().position(|quota| quota.id == id);
        let at = at.unwrap_or_else(|| {
            self.quotas.push(Quota {
                id,
                has_answered: false,
                refuses_since: None,
                next_call: Time::ZERO,
            });
            self.quotas.len() - 1
        });
        &mut self.quotas[at]
    }

    pub(super) fn answered(&mut self, step: StepId, quota: QuotaId) {
        let quota = self.quota(step, quota);
        quota.has_answered = true;
        quota.refuses_since = None;
    }

    /// Records the start of a call of the quota.
    pub(super) fn called(&mut self, step: StepId, quota: QuotaId, now: Time) {
        let quota = self.quota(step, quota);
        let idle = now.since(quota.next_call);
        if idle > IDLE {
            let since = &mut quota.refuses_since;
            *since = since.map(|since| since.after(idle));
        }
        quota.next_call = quota.next_call.max(now);
    }

    /// A rate-limited call will be retried at `until`.
    pub(super) fn waits(&mut self, step: StepId, quota: QuotaId, until: Time) {
        let quota = self.quota(step, quota);
        quota.next_call = quota.next_call.max(until);
    }

    pub(super) fn refused(&mut self, step: StepId, quota: QuotaId, now: Time) -> QuotaHealth {
        let quota = self.quota(step, quota);
        quota.next_call = quota.next_call.max(now);
        let since = *quota.refuses_since.get_or_insert(now);
        match quota.has_answered {
            _ if now.since(since) >= GIVE_UP_AFTER => QuotaHealth::RefusesAll,
            true => QuotaHealth::Answering,
            false => QuotaHealth::Unknown,
        }
    }

    /// Whether a pause until `until` was not logged yet.
    pub(super) fn is_new_pause(&mut self, quota: QuotaId, until: Time) -> bool {
        let Some((_, logged)) = self.logged.iter_mut().find(|(known, _)| *known == quota) else {
            self.logged.push((quota, until));
            return true;
        };
        // A later end by jitter or rounding is not a new pause.
        let is_new = until > logged.after(Duration::from_secs(1));
        *logged = until.max(*logged);
        is_new
    }
}

/// A duration for messages.
pub(super) fn long(time: Duration) -> String {
    match time.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} min", s / 60),
        s if s < 48 * 3600 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// The time of day `wait` from now.
pub(super) fn time_of_day(wait: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let minutes = now
        .unwrap_or_default()
        .saturating_add(wait)
        .as_secs()
        .div_ceil(60);
    format!("{:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::class::Class;

    #[test]
    fn a_quota_is_given_up_ten_minutes_after_the_first_rejection_without_an_answer() {
        let step = Class::new([]).at(0);
        let (a, b) = (QuotaId(1), QuotaId(2));
        let at = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut refusals = Refusals::default();
        assert_eq!(refusals.refused(step, a, at(5)), QuotaHealth::Unknown);
        assert_eq!(refusals.refused(step, a, at(604)), QuotaHealth::Unknown);
        assert_eq!(refusals.refused(step, a, at(605)), QuotaHealth::RefusesAll);
        assert_eq!(refusals.refused(step, b, at(605)), QuotaHealth::Unknown);
        refusals.answered(step, a);
        assert_eq!(refusals.refused(step, a, at(700)), QuotaHealth::Answering);
        assert_eq!(refusals.refused(step, a, at(1299)), QuotaHealth::Answering);
        assert_eq!(refusals.refused(step, a, at(1300)), QuotaHealth::RefusesAll);
    }

    #[test]
    fn time_without_calls_does_not_count() {
        let step = Class::new([]).at(0);
        let quota = QuotaId(1);
        let at = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut refusals = Refusals::default();
        let mut refused = |from, to, until| {
            refusals.called(step, quota, at(from));
            let health = refusals.refused(step, quota, at(to));
            refusals.waits(step, quota, at(until));
            health
        };
        assert_eq!(refused(0, 1, 2), QuotaHealth::Unknown);
        // The next job arrives eleven minutes later.
        assert_eq!(refused(662, 663, 664), QuotaHealth::Unknown);
        // A wait that the provider requested is not idle time.
        assert_eq!(refused(664, 665, 1_200), QuotaHealth::Unknown);
        assert_eq!(refused(1_262, 1_263, 1_300), QuotaHealth::RefusesAll);
    }

    #[test]
    fn a_pause_is_reported_once() {
        let at = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut refusals = Refusals::default();
        let mut is_new = |quota, until| refusals.is_new_pause(QuotaId(quota), at(until));
        let asked = [(1, 100), (1, 100), (2, 100), (1, 99), (1, 200)];
        assert_eq!(
            asked.map(|(quota, until)| is_new(quota, until)),
            [true, false, true, false, true]
        );
    }

    #[test]
    fn long_times_are_written_in_suitable_units() {
        let long = |seconds| long(Duration::from_secs(seconds));
        assert_eq!(long(90), "90 s");
        assert_eq!(long(2_500), "41 min");
        assert_eq!(long(86_400), "24 h");
        assert_eq!(long(31_536_000), "365 days");
    }
}
