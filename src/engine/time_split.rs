//! Where the time of a run went: at each moment exactly one thing keeps it from going faster.

use std::time::Duration;

use crate::base::clock::Time;

use super::quota_status::LearnedLimit;

/// Where the wall time of a run went. At each moment exactly one thing keeps a run from going faster, so
/// the parts add up to its time from start to end ([`Summary::elapsed`](crate::Summary::elapsed)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeSplit {
    /// It had not begun: its input was opened and its threads were started.
    pub queued: Duration,
    /// What the provider lets in held items back: requests or tokens per minute, calls at once.
    pub quota: Duration,
    /// A pause after a refusal, or after a provider could not be reached.
    pub cooldown: Duration,
    /// Only items that wait to be tried again were left, and no call was out.
    pub backoff: Duration,
    /// Calls were out: in all slots, or the last ones of the run. Of a run through the queue, all
    /// the time that its jobs were there or in batches.
    pub provider: Duration,
    /// Outcomes were not yet written, or not yet taken by the caller.
    pub disk: Duration,
    /// The input had nothing ready.
    pub source: Duration,
    /// Of the provider's time, that in which items waited while calls were out in all slots: no part of its own.
    pub all_slots: Duration,
    /// Of the time for the disk, that after the last outcome: it limited nothing.
    closing: Duration,
}

impl TimeSplit {
    /// The parts by their names, in the order of the fields.
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

    /// All of it was for the provider.
    #[cfg(feature = "queue")]
    pub(crate) fn at_provider() -> Self {
        Self {
            provider: Duration::from_secs(u32::MAX.into()),
            ..Self::default()
        }
    }

    /// The name of the part that limited most once it had begun, or `"nothing"`. Of the provider's time it is
    /// `"concurrency"` if items waited during a third of it or more while calls were out in all slots.
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

    /// What has been added since an earlier look.
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

    /// These times made to fill so much wall time, in whole milliseconds: nobody worked in what is left over,
    /// and of what is too much, since another one told of it already, each part loses the same share.
    #[cfg(feature = "queue")]
    pub(crate) fn filling(&self, wall: Duration) -> Self {
        let told = self.total();
        let scale = if told > wall {
            wall.as_secs_f64() / told.as_secs_f64()
        } else {
            1.0
        };
        let whole = |time: Duration| Duration::from_millis(time.as_millis() as u64);
        let mut filling = Self {
            queued: whole(self.queued.mul_f64(scale) + wall.saturating_sub(told)),
            ..Self::default()
        };
        for limit in Limit::ALL {
            *filling.part(limit) = whole(self.clone().part(limit).mul_f64(scale));
        }
        let rest = whole(wall).saturating_sub(filling.total());
        *filling.longest_part() += rest;
        filling
    }

    #[cfg(feature = "queue")]
    fn longest_part(&mut self) -> &mut Duration {
        let longest = Limit::ALL
            .into_iter()
            .max_by_key(|limit| *self.clone().part(*limit));
        match longest {
            Some(limit) if *self.clone().part(limit) > self.queued => self.part(limit),
            _ => &mut self.queued,
        }
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

impl std::ops::AddAssign for TimeSplit {
    fn add_assign(&mut self, other: Self) {
        for limit in Limit::ALL {
            *self.part(limit) += *other.clone().part(limit);
        }
        self.queued += other.queued;
        self.all_slots += other.all_slots;
        self.closing += other.closing;
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

/// What keeps a run from going faster at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Quota,
    Cooldown,
    Backoff,
    /// All slots are in use, and items wait for one.
    Slots,
    /// Calls are out, and there is nothing to start beside them.
    Calls,
    Disk,
    Source,
    /// All is settled; what was opened is closed.
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

/// The times up to the last look, and what has been in the way since.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    split: TimeSplit,
    since: Option<(Limit, Time)>,
}

impl Stopwatch {
    /// From now on this is in the way.
    pub(super) fn account(&mut self, limit: Limit, now: Time) {
        self.split = self.read(now);
        self.since = Some((limit, now));
    }

    /// The times up to now; they begin with the first look.
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

/// What limits the pace now is what has taken most of the time for so long.
const LATELY: Duration = Duration::from_secs(1);

/// What limits the pace now.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    before: TimeSplit,
    pub limited_by: Option<&'static str>,
    /// The learned limit that held calls back when last looked, while `limited_by` is the quota.
    pub learned_limit: Option<LearnedLimit>,
}

impl Lately {
    /// Takes note of where the time has gone up to now.
    pub(crate) fn note(&mut self, split: TimeSplit, learned_limit: Option<LearnedLimit>) {
        let lately = split.since(&self.before);
        if lately.total() >= LATELY {
            self.before = split;
            self.limited_by = Some(lately.longest());
        }
        let is_quota = self.limited_by == Some("quota");
        self.learned_limit = learned_limit.or(self.learned_limit).filter(|_| is_quota);
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (later.quota, later.provider),
            (later.total(), Duration::ZERO)
        );
        watch.account(Limit::End, at(130));
        let end = watch.read(at(900));
        assert_eq!(
            (end.total(), end.longest()),
            (Duration::from_millis(900), "quota")
        );
    }
}
