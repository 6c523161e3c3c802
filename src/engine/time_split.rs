//! How the time of a run was spent: at each moment exactly one thing limits it.

use std::time::Duration;

use crate::base::Time;

use super::quota_status::LearnedLimit;

/// How the wall time of a run was spent. At each moment exactly one thing limits a run, so the parts add up to its
/// time from start to end ([`Summary::elapsed`](crate::Summary::elapsed)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeSplit {
    /// Start-up: the input was opened and the threads were started.
    pub queued: Duration,
    /// A limit of requests or tokens per minute, of the provider or configured.
    pub quota: Duration,
    /// Cooldown after a rejected call, or because a provider was unreachable.
    pub cooldown: Duration,
    /// Only items that wait for a retry were left, and no call was in flight.
    pub backoff: Duration,
    /// Calls were in flight: in all slots, or the last ones of the run. For a run through the queue: all the time
    /// that its jobs were in the queue or in batches.
    pub provider: Duration,
    /// Outcomes were not written, or not taken by the caller, yet.
    pub disk: Duration,
    /// The input had no item ready.
    pub source: Duration,
    /// The part of `provider` in which items waited while all slots, or all calls that a provider may have in flight,
    /// were in use; not counted separately.
    pub all_slots: Duration,
    /// The part of `disk` after the last outcome, which limited nothing.
    closing: Duration,
}

impl TimeSplit {
    /// The parts by name, in the order of the fields.
    pub fn named(&self) -> [(&'static str, Duration); 7] {
        [
            ("queued", self.queued),
            ("quota", self.quota),
            ("cooldown", self.cooldown),
            ("backoff", self.backoff),
            ("provider", self.provider),
            ("disk", self.disk),
            ("source", self.source),
        ]
    }

    /// The sum of the parts.
    pub fn total(&self) -> Duration {
        self.named().iter().map(|(_, time)| *time).sum()
    }

    /// The name of the longest part after the start, or `"nothing"`. If `provider` is the longest, and items waited
    /// for a slot in at least a third of it, the name is `"concurrency"`.
    pub fn longest(&self) -> &'static str {
        let at_work = Self {
            disk: self.disk.saturating_sub(self.closing),
            ..*self
        };
        let parts = at_work.named().into_iter().skip(1);
        let longest = parts.max_by_key(|(_, time)| *time);
        match longest.filter(|(_, time)| !time.is_zero()) {
            Some(("provider", time)) if 3 * self.all_slots >= time => "concurrency",
            Some((name, _)) => name,
            None => "nothing",
        }
    }

    /// The difference to an earlier split.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for limit in Limit::ALL {
            *since.part(limit) -= *before.clone().part(limit);
        }
        since.queued -= before.queued;
        since.all_slots -= before.all_slots;
        since.closing -= before.closing;
        since
    }

    fn part(&mut self, limit: Limit) -> &mut Duration {
        match limit {
            Limit::Quota => &mut self.quota,
            Limit::Cooldown => &mut self.cooldown,
            Limit::Backoff => &mut self.backoff,
            Limit::Slots | Limit::Calls => &mut self.provider,
            Limit::Disk | Limit::End => &mut self.disk,
            Limit::Source => &mut self.source,
        }
    }
}

/// Milliseconds by name.
impl serde::Serialize for TimeSplit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all_slots = ("all_slots", self.all_slots);
        let named = self.named().into_iter().chain([all_slots]);
        serializer.collect_map(named.map(|(name, time)| {
            let millis = (time.as_secs_f64() * 1e6).round() / 1e3;
            (format!("{name}_ms"), millis)
        }))
    }
}

/// What limits the run at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Quota,
    Cooldown,
    Backoff,
    /// All slots are in use, and items wait for one.
    Slots,
    /// Calls are in flight, and no other item is ready.
    Calls,
    Disk,
    Source,
    /// Everything is settled; files are being closed.
    End,
}

impl Limit {
    const ALL: [Limit; 6] = [
        Limit::Quota,
        Limit::Cooldown,
        Limit::Backoff,
        Limit::Calls,
        Limit::Disk,
        Limit::Source,
    ];
}

/// The split up to the last change, and the limit since then.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    split: TimeSplit,
    since: Option<(Limit, Time)>,
}

impl Stopwatch {
    /// From now on `limit` limits the run.
    pub(super) fn account(&mut self, limit: Limit, now: Time) {
        self.split = self.read(now);
        self.since = Some((limit, now));
    }

    /// The split up to now, from the first call of [`account`](Self::account).
    pub(super) fn read(&self, now: Time) -> TimeSplit {
        let mut split = self.split;
        if let Some((limit, since)) = self.since {
            let passed = now.since(since);
            *split.part(limit) += passed;
            match limit {
                Limit::Slots => split.all_slots += passed,
                Limit::End => split.closing += passed,
                _ => {}
            }
        }
        split
    }
}

/// Minimum time that the current limit is determined from.
const LATELY: Duration = Duration::from_secs(1);

/// What limits the run now.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    before: TimeSplit,
    pub limited_by: Option<&'static str>,
    /// The learned limit that delayed calls at the last check at which one did, while `limited_by` is the quota.
    pub learned_limit: Option<LearnedLimit>,
    /// The same since `before`, whatever `limited_by` is.
    since: Option<LearnedLimit>,
}

impl Lately {
    /// Records the split up to now.
    pub(crate) fn note(&mut self, split: TimeSplit, learned_limit: Option<LearnedLimit>) {
        self.since = learned_limit.or(self.since);
        let learned_limit = self.since.or(self.learned_limit);
        let lately = split.since(&self.before);
        if lately.total() >= LATELY {
            self.before = split;
            self.limited_by = Some(lately.longest());
            self.since = None;
        }
        let is_quota = self.limited_by == Some("quota");
        self.learned_limit = learned_limit.filter(|_| is_quota);
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota_status::LimitSource;
    use super::*;

    #[test]
    fn every_moment_has_one_name_and_they_add_up() {
        let at = |ms| Time::ZERO.after(Duration::from_millis(ms));
        let mut watch = Stopwatch::default();
        assert_eq!(watch.read(at(5)).total(), Duration::ZERO);
        let limits = Limit::ALL.into_iter().chain([Limit::Slots, Limit::Quota]);
        for (i, limit) in limits.enumerate() {
            watch.account(limit, at(10 * i as u64));
        }
        let split = watch.read(at(100));
        assert_eq!(split.total(), Duration::from_millis(100));
        assert_eq!(split.quota, Duration::from_millis(40));
        assert_eq!(split.provider, Duration::from_millis(20));
        assert_eq!(split.all_slots, Duration::from_millis(10));
        assert_eq!(split.longest(), "quota");
        let later = watch.read(at(130)).since(&split);
        assert_eq!(later.total(), Duration::from_millis(30));
        assert_eq!(later.quota, later.total());
        watch.account(Limit::End, at(130));
        let end = watch.read(at(900));
        let whole = Duration::from_millis(900);
        assert_eq!((end.total(), end.longest()), (whole, "quota"));
    }

    #[test]
    fn a_limit_that_delayed_calls_is_known_although_it_does_not_at_the_moment() {
        let limit = LearnedLimit {
            unit: "requests",
            per_minute: 60,
            source: LimitSource::Reply,
            age: Duration::ZERO,
        };
        let at = |ms| Time::ZERO.after(Duration::from_millis(ms));
        let (mut watch, mut lately) = (Stopwatch::default(), Lately::default());
        watch.account(Limit::Calls, at(0));
        watch.account(Limit::Quota, at(100));
        let mut note = |ms, learned| {
            lately.note(watch.read(at(ms)), learned);
            (lately.limited_by, lately.learned_limit)
        };
        assert_eq!(note(500, Some(limit)), (None, None));
        // A call has just started.
        assert_eq!(note(1000, None), (Some("quota"), Some(limit)));
        assert_eq!(note(2000, None), (Some("quota"), Some(limit)));
        watch.account(Limit::Calls, at(2000));
        lately.note(watch.read(at(3000)), None);
        let now = (lately.limited_by, lately.learned_limit);
        assert_eq!(now, (Some("provider"), None));
    }
}
