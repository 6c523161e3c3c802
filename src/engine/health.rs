//! What calls have shown about the steps of routes and their quotas, besides [connections](super::breaker).
//!
//! - **Critical failures.** A rejected API key or a `Retry-After` of hours concerns all items, unless other calls are
//!   answered: a host's own client may use another API key for one item. So a step that has answered, or has other
//!   calls in flight, is in question until enough consecutive calls have failed in this way. An account without credit
//!   is critical at once.
//! - **First replies.** If the first ten replies of a step failed in the same way before it answered anything, further
//!   calls would fail in the same way.
//! - **Loading.** Items wait for a server that loads its model, for ten minutes at most.
//! - **Rate limits.** A quota is given up when all its calls were rate-limited for ten minutes.

use std::time::Duration;

use crate::base::brief::beginning;
use crate::base::{Error, ErrorKind, Time};

use super::class::StepId;
use super::limiter::{CallEnd, QuotaId};

/// Consecutive critical failures that single items no longer explain: a content filter or a foreign file id can reject
/// single prompts.
const ENOUGH: u32 = 5;
/// Consecutive equal failures, before any answer, after which all further calls would fail.
const ENOUGH_ALIKE: u32 = 10;
/// Bytes of the last reply that the message shows.
const HEAD: usize = 160;
/// Give up on a quota after this long without a single answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// After this time, rejections of a server that loads its model count as failures.
pub(crate) const MAX_LOADING: Duration = Duration::from_secs(600);
/// Of all steps and quotas that were called.
#[derive(Debug, Default)]
pub(super) struct Health {
    steps: Vec<(StepId, StepHealth)>,
    /// Tasks without a quota have one of their own at each step.
    quotas: Vec<((StepId, QuotaId), QuotaHealth)>,
    /// Since when the server of a quota has been loading its model.
    loading: Vec<(QuotaId, Option<Time>)>,
}

#[derive(Debug, Default)]
struct StepHealth {
    critical: Critical,
    /// Calls in flight, without those that probe the step.
    out: usize,
    /// Consecutive complete but unusable replies.
    unusable: u32,
    /// Consecutive rejections with the same message.
    rejected: u32,
    words: Option<(Option<u16>, String)>,
}

#[derive(Debug, Default)]
struct QuotaHealth {
    critical: Critical,
    /// First rate-limited call since the last answer.
    refuses_since: Option<Time>,
}

#[derive(Debug, Default)]
struct Critical {
    answered: bool,
    /// Critical failures since the last answer.
    failures: u32,
}

impl Critical {
    fn answered(&mut self) {
        (self.answered, self.failures) = (true, 0);
    }
}

/// What a rate-limited call shows about the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something was answered within the last ten minutes.
    Answering,
    /// Nothing was answered yet.
    Unknown,
    /// All calls were rate-limited for ten minutes.
    OfAll,
}

/// The entry of a key, which is added if it is missing.
fn entry<K: PartialEq, V: Default>(list: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = list.iter().position(|(known, _)| *known == key);
    let at = at.unwrap_or_else(|| {
        list.push((key, V::default()));
        list.len() - 1
    });
    &mut list[at].1
}

impl Health {
    /// An item was answered: later failures concern single items until others follow.
    pub(super) fn answered(&mut self, step: StepId, quota: QuotaId) {
        entry(&mut self.steps, step).critical.answered();
        let quota = entry(&mut self.quotas, (step, quota));
        quota.critical.answered();
        quota.refuses_since = None;
    }

    /// Whether calls have failed critically since the last answer.
    pub(super) fn in_question(&self, step: StepId, quota: QuotaId) -> bool {
        let steps = self.steps.iter().filter(|(known, _)| *known == step);
        let quotas = self.quotas.iter();
        let quotas = quotas.filter(|(known, _)| *known == (step, quota));
        let of_step = steps.map(|(_, health)| &health.critical);
        let mut all = of_step.chain(quotas.map(|(_, health)| &health.critical));
        all.any(|critical| critical.failures > 0)
    }

    /// Records a failure. Returns true if every further call would fail in the same way. A rejected API key concerns
    /// the quota if many callers name models, otherwise the step (with [`QuotaId::NONE`]); a rate limit concerns the
    /// quota. `out`: other calls to the step that may still be answered.
    pub(super) fn is_critical(
        &mut self,
        step: StepId,
        quota: QuotaId,
        error: &Error,
        out: usize,
    ) -> bool {
        if !matches!(error.kind(), ErrorKind::RateLimited | ErrorKind::Auth) {
            return error.is_critical();
        }
        let critical = if quota == QuotaId::NONE {
            &mut entry(&mut self.steps, step).critical
        } else {
            &mut entry(&mut self.quotas, (step, quota)).critical
        };
        critical.failures += 1;
        critical.failures >= ENOUGH || (!critical.answered && out == 0)
    }

    /// Records a reply that is no answer. Returns the error that ends the run if all further calls would fail in the
    /// same way.
    pub(super) fn failed_at_first(&mut self, step: StepId, error: &Error) -> Option<Error> {
        let replies = entry(&mut self.steps, step);
        let complete = error.status().is_none_or(|status| status < 300);
        let malformed = error.kind() == ErrorKind::Malformed && complete;
        let unusable = malformed || error.is_unusable_reply();
        let is_reply = error.status().is_some() || unusable;
        // Temporary failures do not show how the provider treats a request.
        let trouble = matches!(error.kind(), ErrorKind::Transient | ErrorKind::RateLimited);
        if replies.critical.answered || !is_reply || trouble {
            return None;
        }
        if unusable {
            (replies.rejected, replies.words) = (0, None);
            replies.unusable += 1;
            return (replies.unusable == ENOUGH_ALIKE).then(|| {
                let head = beginning(error.raw().unwrap_or_default(), HEAD);
                error.clone().reworded(format!(
                    "the first {ENOUGH_ALIKE} replies were all unusable, and each was billed: {error}; \
                     the last one begins with {head:?}"
                ))
            });
        }
        replies.unusable = 0;
        if !error.is_unclassified() {
            (replies.rejected, replies.words) = (0, None);
            return None;
        }
        let words = (error.status(), without_numbers(error.message()));
        if replies.words.as_ref() != Some(&words) {
            (replies.rejected, replies.words) = (0, Some(words));
        }
        replies.rejected += 1;
        (replies.rejected == ENOUGH_ALIKE).then(|| {
            let why = format!(
                "the first {ENOUGH_ALIKE} requests were all rejected with the same message: {error}"
            );
            error.clone().reworded(why)
        })
    }

    /// Records the start of a call to a step, unless it probes the step.
    pub(super) fn begin_call(&mut self, step: StepId) {
        entry(&mut self.steps, step).out += 1;
    }

    /// Records its end.
    pub(super) fn end_call(&mut self, step: StepId) {
        entry(&mut self.steps, step).out -= 1;
    }

    /// The number of calls in flight to a step, without those that probe it.
    pub(super) fn out(&self, step: StepId) -> usize {
        let known = self.steps.iter().find(|(known, _)| *known == step);
        known.map_or(0, |(_, health)| health.out)
    }

    /// Records how a call ended. Returns true if its server is loading its model: then its item waits for the server, and
    /// the call does not count as an attempt.
    pub(super) fn is_loading(&mut self, quota: QuotaId, ended: &CallEnd, now: Time) -> bool {
        let loading = entry(&mut self.loading, quota);
        match ended {
            CallEnd::NotReady(_) => now.since(*loading.get_or_insert(now)) < MAX_LOADING,
            CallEnd::Replied(_) | CallEnd::Troubled(_) | CallEnd::RateLimited(_) => {
                *loading = None;
                false
            }
            CallEnd::Unreachable | CallEnd::Failed => false,
        }
    }

    /// Since when a server has been loading its model.
    pub(super) fn loading_since(&self) -> Option<Time> {
        self.loading.iter().filter_map(|(_, since)| *since).min()
    }

    pub(super) fn refused(&mut self, step: StepId, quota: QuotaId, now: Time) -> Refusal {
        let quota = entry(&mut self.quotas, (step, quota));
        let since = *quota.refuses_since.get_or_insert(now);
        match quota.critical.answered {
            _ if now.since(since) >= GIVE_UP_AFTER => Refusal::OfAll,
            true => Refusal::Answering,
            false => Refusal::Unknown,
        }
    }
}

/// The message without words that contain digits (numbers, ids, times), which differ from call to call.
fn without_numbers(message: &str) -> String {
    let words = message.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
    let words =
        words.filter(|word| !word.is_empty() && !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Sent;
    use crate::engine::class::Class;

    const QUOTA: QuotaId = QuotaId(1);

    fn step(step: u8) -> StepId {
        Class::new([]).at(step)
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    fn rejected(kind: ErrorKind, status: u16) -> Error {
        Error::new(kind, "no").with_status(status)
    }

    /// After how many such failures in a row all further calls would fail.
    fn enough(critical: &mut Health, error: &Error, out: usize) -> Option<usize> {
        (1..10).find(|_| critical.is_critical(step(0), QUOTA, error, out))
    }

    #[test]
    fn the_first_critical_failure_affects_all_without_other_calls() {
        use ErrorKind::*;
        for (kind, status) in [(Auth, 401), (Auth, 403), (Quota, 402), (RateLimited, 429)] {
            let error = rejected(kind, status);
            assert_eq!(enough(&mut Health::default(), &error, 0), Some(1));
        }
        let busy = rejected(Transient, 503);
        assert_eq!(enough(&mut Health::default(), &busy, 0), None);
    }

    #[test]
    fn with_other_calls_several_consecutive_critical_failures_are_needed() {
        for (kind, status, most) in [
            (ErrorKind::Auth, 401, 5),
            (ErrorKind::Auth, 403, 5),
            (ErrorKind::Quota, 403, 1),
            (ErrorKind::RateLimited, 429, 5),
            (ErrorKind::UnknownModel, 404, 1),
        ] {
            let error = rejected(kind, status);
            let mut critical = Health::default();
            assert_eq!(enough(&mut critical, &error, 7), Some(most));
            critical.answered(step(0), QUOTA);
            assert!(!critical.in_question(step(0), QUOTA));
            assert_eq!(enough(&mut critical, &error, 0), Some(most));
            assert_eq!(critical.in_question(step(0), QUOTA), most > 1);
        }
    }

    #[test]
    fn refusals_are_counted_by_step_and_quota() {
        let mut critical = Health::default();
        critical.answered(step(0), QUOTA);
        let late = rejected(ErrorKind::RateLimited, 429);
        assert!(critical.is_critical(step(0), QuotaId(2), &late, 0));
        assert!(!critical.is_critical(step(0), QUOTA, &late, 0));
        let key = rejected(ErrorKind::Auth, 401);
        assert!(!critical.is_critical(step(0), QuotaId::NONE, &key, 0));
        assert!(critical.is_critical(step(0), QuotaId(3), &key, 0));
        assert!(critical.is_critical(step(1), QUOTA, &key, 0));
    }

    #[test]
    fn a_quota_is_given_up_ten_minutes_after_the_first_rejection_without_an_answer() {
        let (a, b) = (QuotaId(1), QuotaId(2));
        let mut refusals = Health::default();
        assert_eq!(refusals.refused(step(0), a, at(5)), Refusal::Unknown);
        assert_eq!(refusals.refused(step(0), a, at(604)), Refusal::Unknown);
        assert_eq!(refusals.refused(step(0), a, at(605)), Refusal::OfAll);
        assert_eq!(refusals.refused(step(0), b, at(605)), Refusal::Unknown);
        refusals.answered(step(0), a);
        assert_eq!(refusals.refused(step(0), a, at(700)), Refusal::Answering);
        assert_eq!(refusals.refused(step(0), a, at(1299)), Refusal::Answering);
        assert_eq!(refusals.refused(step(0), a, at(1300)), Refusal::OfAll);
    }

    #[test]
    fn waiting_for_a_model_ends_after_ten_minutes_and_restarts_after_a_reply() {
        let (a, b) = (QuotaId(1), QuotaId(2));
        let mut loading = Health::default();
        const REFUSED: CallEnd = CallEnd::NotReady(None);
        assert!(loading.is_loading(a, &REFUSED, at(5)));
        assert!(loading.is_loading(b, &REFUSED, at(100)));
        assert_eq!(loading.loading_since(), Some(at(5)));
        assert!(loading.is_loading(a, &REFUSED, at(604)));
        assert!(!loading.is_loading(a, &REFUSED, at(605)));
        // A failed or lost connection does not show that the server is ready.
        assert!(!loading.is_loading(a, &CallEnd::Failed, at(606)));
        assert!(!loading.is_loading(a, &REFUSED, at(607)));
        assert!(!loading.is_loading(a, &CallEnd::Replied(None), at(608)));
        assert_eq!(loading.loading_since(), Some(at(100)));
        assert!(loading.is_loading(a, &REFUSED, at(609)));
        loading.is_loading(a, &CallEnd::Replied(None), at(610));
        // A server that limits the rate has loaded its model.
        loading.is_loading(b, &CallEnd::RateLimited(None), at(610));
        assert_eq!(loading.loading_since(), None);
    }

    #[test]
    fn long_times_are_written_in_suitable_units() {
        let long = |seconds| super::long(Duration::from_secs(seconds));
        assert_eq!(long(90), "90 s");
        assert_eq!(long(2_500), "41 min");
        assert_eq!(long(86_400), "24 h");
        assert_eq!(long(31_536_000), "365 days");
    }

    fn unusable() -> Error {
        let error = Error::new(ErrorKind::Malformed, "not a usable reply");
        error.with_unusable_reply("<html>\u{1b}[2J\n\u{202e}")
    }

    fn refused(message: String) -> Error {
        let error = Error::new(ErrorKind::Invalid, message).with_sent(Sent::Answered);
        error.with_status(400).with_unclassified()
    }

    fn count(replies: &mut Health, error: impl Fn(u32) -> Error) -> Option<(u32, Error)> {
        (1..50).find_map(|n| {
            replies
                .failed_at_first(step(0), &error(n))
                .map(|error| (n, error))
        })
    }

    #[test]
    fn ten_unusable_replies_suffice_and_the_last_is_shown_safely() {
        let (n, error) = count(&mut Health::default(), |_| unusable()).unwrap();
        assert_eq!(n, 10);
        let shown = error.message();
        let begins = r#"begins with "<html>\u{1b}[2J\n\u{202e}""#;
        assert!(shown.contains(begins), "{shown}");
        let long = |_| Error::new(ErrorKind::Malformed, "no").with_unusable_reply("ä".repeat(9999));
        let (_, error) = count(&mut Health::default(), long).unwrap();
        assert!(error.message().len() < 400, "{error}");
    }

    #[test]
    fn ten_identical_rejections_suffice_whatever_their_numbers() {
        let alike = |n| refused(format!("no tier for team-{n} (request req_{n}a, {n} ms)"));
        let (n, error) = count(&mut Health::default(), alike).unwrap();
        assert_eq!((n, error.status()), (10, Some(400)));
        let letter = |n| char::from(b'a' + n as u8 % 20);
        let letters = |n| refused(format!("field {} is wrong", letter(n)));
        assert!(count(&mut Health::default(), letters).is_none());
    }

    #[test]
    fn an_answer_or_another_reply_in_between_makes_them_single_failures() {
        let mut replies = Health::default();
        replies.answered(step(0), QUOTA);
        assert!(count(&mut replies, |_| unusable()).is_none());
        let blocked = Error::new(ErrorKind::Blocked, "no").with_status(400);
        let mixed = |n: u32| match n % 9 {
            0 => blocked.clone(),
            _ => unusable(),
        };
        assert!(count(&mut Health::default(), mixed).is_none());
        // An error that a rule of the table recognizes concerns one prompt.
        let known = |_| Error::new(ErrorKind::Invalid, "too long").with_status(400);
        assert!(count(&mut Health::default(), known).is_none());
        let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
        let troubled = |n: u32| match n % 2 {
            0 => busy.clone(),
            _ => unusable(),
        };
        let (n, _) = count(&mut Health::default(), troubled).unwrap();
        assert_eq!(n, 19);
    }
}
