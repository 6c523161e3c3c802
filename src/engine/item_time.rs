//! How the time of an item was spent: in calls, and waiting between them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::Time;

use super::route::First;

/// How the time of an item from its first call to its end was spent. The parts add up exactly to
/// [`Outcome::latency`](crate::Outcome::latency); for a job of the queue, together with [`queued`](Self::queued), to
/// the time since it was enqueued. Serialized as milliseconds by part name, without parts that are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemTime {
    /// Time in the queue before the first call; only for a job that is read from its queue. Not part of the latency.
    pub queued: Duration,
    /// Time in which the item was ready and waited for the provider's limits or for a free slot.
    pub quota: Duration,
    /// Time in which its provider was in cooldown, after a rejected call or because it was unreachable.
    pub cooldown: Duration,
    /// The item's own waits before retries.
    pub backoff: Duration,
    /// Time in calls.
    pub provider: Duration,
    /// Time from the end of the last call until the outcome was written or taken.
    pub disk: Duration,
}

impl ItemTime {
    /// The parts by name, in the order of the fields. [`TimeSplit`](crate::progress::TimeSplit) has the same names.
    pub fn named(&self) -> [(&'static str, Duration); 6] {
        [
            ("queued", self.queued),
            ("quota", self.quota),
            ("cooldown", self.cooldown),
            ("backoff", self.backoff),
            ("provider", self.provider),
            ("disk", self.disk),
        ]
    }

    /// The sum of the parts.
    pub fn total(&self) -> Duration {
        self.named().iter().map(|(_, time)| *time).sum()
    }

    fn part(&mut self, name: &str) -> Option<&mut Duration> {
        Some(match name {
            "queued" => &mut self.queued,
            "quota" => &mut self.quota,
            "cooldown" => &mut self.cooldown,
            "backoff" => &mut self.backoff,
            "provider" => &mut self.provider,
            "disk" => &mut self.disk,
            _ => return None,
        })
    }

    /// Reduces the parts to this total. Waits are reduced first, because they may have ended early.
    fn cut_to(&mut self, whole: Duration) {
        let mut excess = self.total().saturating_sub(whole);
        for name in ["backoff", "cooldown", "quota", "disk", "provider", "queued"] {
            if let Some(part) = self.part(name) {
                let less = excess.min(*part);
                *part -= less;
                excess -= less;
            }
        }
    }

    /// Scales these parts to whole milliseconds that add up to `whole`. A missing amount counts as `quota`; a
    /// difference of rounding counts as `provider`.
    pub(crate) fn filling(self, whole: Duration) -> Self {
        let mut filling = Self::default();
        for (name, time) in self.named() {
            if let Some(part) = filling.part(name) {
                *part = Duration::from_millis(millis(time));
            }
        }
        filling.cut_to(whole);
        match whole.saturating_sub(filling.total()) {
            rest if rest <= ROUNDED => filling.provider += rest,
            rest => filling.quota += rest,
        }
        filling
    }
}

impl std::ops::Add for ItemTime {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (name, time) in other.named() {
            if let Some(part) = self.part(name) {
                *part += time;
            }
        }
        self
    }
}

impl Serialize for ItemTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = self.named().map(|(name, time)| (name, millis(time)));
        serializer.collect_map(millis.into_iter().filter(|(_, millis)| *millis > 0))
    }
}

/// Ignores parts with unknown names, for example of a later version.
impl<'de> Deserialize<'de> for ItemTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut time = Self::default();
        for (name, millis) in BTreeMap::<String, u64>::deserialize(deserializer)? {
            if let Some(part) = time.part(&name) {
                *part = Duration::from_millis(millis);
            }
        }
        Ok(time)
    }
}

/// Largest difference that rounding and reading two clocks can cause.
const ROUNDED: Duration = Duration::from_millis(2);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How the time of an item since the start of its first call was spent, in whole milliseconds: all that a waiting
/// item stores about it. A wait is recorded when it starts, so the sum may be in the future.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ItemTimer {
    provider: u32,
    backoff: u32,
    cooldown: u32,
    quota: u32,
}

impl ItemTimer {
    /// Records the end of a call.
    pub(crate) fn end_call(&mut self, first: First, now: Time) {
        let call = self.unrecorded(first, now);
        add(&mut self.provider, call);
    }

    /// Records a wait until `at`; the part before `paused_until` counts as cooldown.
    pub(crate) fn start_wait(&mut self, first: First, paused_until: Time, until: Time) {
        let cooldown = self.unrecorded(first, paused_until.min(until));
        add(&mut self.cooldown, cooldown);
        let backoff = self.unrecorded(first, until);
        add(&mut self.backoff, backoff);
    }

    /// Records the end of a wait for a slot or a limit, and how much of it was cooldown.
    pub(crate) fn end_wait(
        &mut self,
        first: First,
        now: Time,
        paused: impl FnOnce(Time, Time) -> Duration,
    ) {
        let waited = self.unrecorded(first, now);
        let Some(first) = first.time().filter(|_| waited > 0) else {
            return;
        };
        let since = first.after(Duration::from_millis(self.recorded()));
        let cooldown = millis(paused(since, now)).min(waited);
        add(&mut self.cooldown, cooldown);
        add(&mut self.quota, waited - cooldown);
    }

    /// The parts from the first call until `now`. The time after the last record counts as `disk`; less than a
    /// millisecond counts as `provider`.
    pub(crate) fn split(&self, first: First, now: Time) -> Option<ItemTime> {
        let latency = now.since(first.time()?);
        let [provider, backoff, cooldown, quota] =
            [self.provider, self.backoff, self.cooldown, self.quota]
                .map(|part| Duration::from_millis(part.into()));
        let mut time = ItemTime {
            provider,
            backoff,
            cooldown,
            quota,
            ..ItemTime::default()
        };
        time.cut_to(latency);
        let rest = latency.saturating_sub(time.total());
        time.disk = Duration::from_millis(millis(rest));
        time.provider += rest - time.disk;
        Some(time)
    }

    fn recorded(&self) -> u64 {
        [self.provider, self.backoff, self.cooldown, self.quota]
            .map(u64::from)
            .iter()
            .sum()
    }

    /// Milliseconds until `until` that no part contains yet.
    fn unrecorded(&self, first: First, until: Time) -> u64 {
        let first = first.time();
        first.map_or(0, |first| {
            millis(until.since(first)).saturating_sub(self.recorded())
        })
    }
}

fn add(part: &mut u32, millis: u64) {
    *part = part.saturating_add(u32::try_from(millis).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_nanos(5_000).after(Duration::from_micros(micros))
    }

    fn parts(time: ItemTime) -> [u128; 5] {
        [
            time.quota,
            time.cooldown,
            time.backoff,
            time.provider,
            time.disk,
        ]
        .map(|part| part.as_micros())
    }

    #[test]
    fn each_moment_has_one_name_and_they_add_up() {
        let first = First::from(at(0));
        let mut timer = ItemTimer::default();
        timer.end_call(first, at(1_900));
        // Its provider pauses for 10 ms of the 30 that it waits, and later for 4 of the 20 until it starts.
        timer.start_wait(first, at(11_900), at(31_900));
        let mut asked = None;
        timer.end_wait(first, at(51_900), |from, to| {
            asked = Some((from, to));
            Duration::from_micros(4_700)
        });
        assert_eq!(asked, Some((at(31_000), at(51_900))));
        timer.end_call(first, at(60_000));
        let time = timer.split(first, at(60_000)).unwrap();
        assert_eq!(parts(time), [16_000, 14_000, 20_000, 10_000, 0]);
        assert_eq!(time.total(), Duration::from_micros(60_000));
        let later = timer.split(first, at(65_300)).unwrap();
        assert_eq!(parts(later), [16_000, 14_000, 20_000, 10_300, 5_000]);
    }

    #[test]
    fn an_interrupted_wait_counts_up_to_its_end() {
        let first = First::from(at(0));
        let mut timer = ItemTimer::default();
        timer.end_call(first, at(2_000));
        timer.start_wait(first, at(5_000), at(9_000));
        let time = timer.split(first, at(4_000)).unwrap();
        assert_eq!(parts(time), [0, 2_000, 0, 2_000, 0]);
        assert_eq!(ItemTimer::default().split(First::default(), at(1)), None);
    }

    #[test]
    fn parts_that_fill_a_time_add_up_in_whole_milliseconds() {
        let mut time = ItemTime::default();
        (time.provider, time.backoff) =
            (Duration::from_micros(7_900), Duration::from_micros(2_600));
        let filled = |whole| parts(time.filling(Duration::from_millis(whole)));
        assert_eq!(filled(10), [0, 0, 2_000, 8_000, 0]);
        assert_eq!(filled(50), [41_000, 0, 2_000, 7_000, 0]);
        assert_eq!(filled(8), [0, 0, 1_000, 7_000, 0]);
        assert_eq!(filled(3), [0, 0, 0, 3_000, 0]);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut time = ItemTime::default();
        (time.provider, time.backoff) = (Duration::from_micros(7_900), Duration::from_secs(1));
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, r#"{"backoff":1000,"provider":7}"#);
        let read: ItemTime =
            serde_json::from_str(r#"{"backoff":1000,"provider":7,"rest":1}"#).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_waiting_item_keeps_little() {
        assert!(size_of::<ItemTimer>() <= 16);
    }
}
