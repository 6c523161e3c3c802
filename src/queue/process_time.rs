//! How the wall time of a process was spent.

use crate::base::Timestamp;
use crate::engine::time_split::TimeSplit;

/// How the wall time of a process was spent, from when its first job was enqueued up to a time.
///
/// Workers report their time when they record ends, and each moment counts once. The worker's own [`TimeSplit`] divides
/// the time up to an end; before that no worker processed the process, and its jobs were `queued`. The parts add up
/// exactly to the time from [`since`](Self::since) to [`until`](Self::until).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessTime {
    /// The parts, in whole milliseconds.
    pub split: TimeSplit,
    /// Start of the parts: when the first job was enqueued, or when all jobs of a finished process were requeued.
    pub since: Timestamp,
    /// End of the parts.
    pub until: Timestamp,
    /// The longest part of the last report: a name of [`TimeSplit::named`], or `"nothing"`.
    pub limited_by: &'static str,
}

impl ProcessTime {
    /// A record without any report.
    pub fn new(since: Timestamp) -> Self {
        Self {
            split: TimeSplit::default(),
            since,
            until: since,
            limited_by: "nothing",
        }
    }

    /// Adds a worker's report of the time up to `now`. If it is longer than the unreported time, all parts are
    /// reduced pro rata; if it is shorter, the rest counts as `queued`.
    pub fn tell(&mut self, worked: &TimeSplit, now: Timestamp) {
        let new = worked.filling(now.since(self.until));
        self.until = self.until.max(now);
        if !new.total().is_zero() {
            self.split += new;
            let longest = new.named().into_iter().max_by_key(|(_, part)| *part);
            self.limited_by = longest.map_or("nothing", |(name, _)| name);
        }
    }

    /// Skips the time up to `now`: all jobs had ended, and some were requeued.
    pub fn resume(&mut self, now: Timestamp) {
        let idle = now.since(self.until);
        (self.since, self.until) = (self.since.after(idle), self.until.after(idle));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::cancel::Context;
    use crate::base::clock::Clock;
    use crate::base::id::ProcessId;
    use crate::queue::handler::{Handler, RunningJob};
    use crate::queue::host::JobQueue;
    use crate::queue::job::Job;
    use crate::queue::worker::Worker;
    use crate::testing::ManualClock;

    fn worked(quota: u64, provider: u64) -> TimeSplit {
        let mut worked = TimeSplit::default();
        worked.quota = Duration::from_micros(quota * 1000);
        worked.provider = Duration::from_micros(provider * 1000);
        worked
    }

    fn millis(time: &ProcessTime) -> [u128; 3] {
        let split = &time.split;
        [split.queued, split.quota, split.provider].map(|part| part.as_millis())
    }

    #[test]
    fn each_moment_is_told_of_once_and_the_parts_add_up() {
        let mut time = ProcessTime::new(Timestamp(1_000));
        // No worker was active for 700 ms.
        time.tell(&worked(100, 200), Timestamp(2_000));
        assert_eq!(millis(&time), [700, 100, 200]);
        // Another worker reports the same time, and 100 ms more.
        time.tell(&worked(1_000, 3_000), Timestamp(2_100));
        assert_eq!(millis(&time), [700, 125, 275]);
        assert_eq!(time.limited_by, "provider");
        // The clock was set back.
        time.tell(&worked(5, 5), Timestamp(1_500));
        assert_eq!(millis(&time), [700, 125, 275]);
        time.tell(&TimeSplit::at_provider(), Timestamp(9_999));
        let whole = time.until.since(time.since);
        assert_eq!((time.split.total(), whole.as_millis()), (whole, 8_999));
        assert_eq!(time.split.queued.as_millis(), 700);
    }

    #[test]
    fn a_worker_tells_where_the_time_went() {
        let clock = Arc::new(ManualClock::new());
        let queue = JobQueue::in_memory().unwrap().clock(clock.clone());
        let process = ProcessId::new();
        queue
            .enqueue(process, [Job::new("slow", &1).unwrap()])
            .unwrap();
        clock.advance(Duration::from_secs(10));
        let waiting = queue.process(process).unwrap().unwrap();
        let so_far = waiting.time_until(clock.wall());
        assert_eq!(so_far.split.queued.as_millis(), 10_000);
        let calls = clock.clone();
        let slow = Handler::new(move |_: &RunningJob, _: &Context| {
            calls.advance(Duration::from_secs(2));
            Ok(0)
        });
        let worker = Worker::new(&queue).handle("slow", slow).until_empty(true);
        assert_eq!(worker.run().unwrap().completed, 1);
        clock.advance(Duration::from_secs(50));
        let ended = queue.process(process).unwrap().unwrap();
        let time = ended.time_until(clock.wall());
        assert_eq!(millis(&time), [10_000, 0, 2_000]);
        assert_eq!((time.until, time.limited_by), (ended.changed_at, "queued"));
    }

    #[test]
    fn what_was_never_started_was_queued_until_it_was_cancelled() {
        let clock = Arc::new(ManualClock::new());
        let queue = JobQueue::in_memory().unwrap().clock(clock.clone());
        let process = ProcessId::new();
        queue
            .enqueue(process, [Job::new("k", &1).unwrap()])
            .unwrap();
        clock.advance(Duration::from_secs(3));
        queue.cancel(process).unwrap();
        clock.advance(Duration::from_secs(3));
        let ended = queue.process(process).unwrap().unwrap();
        assert_eq!(millis(&ended.time_until(clock.wall())), [3_000, 0, 0]);
    }

    #[test]
    fn whatever_is_told_the_parts_add_up() {
        let mut time = ProcessTime::new(Timestamp(0));
        for n in 1..2_000_u64 {
            let part = |k: u64| Duration::from_nanos(n.wrapping_mul(k * 7_919_993) % 9_000_000);
            let mut worked = TimeSplit::default();
            (worked.queued, worked.quota, worked.cooldown) = (part(1), part(2), part(3));
            (worked.backoff, worked.provider) = (part(4), part(5));
            (worked.disk, worked.source) = (part(6), part(7));
            time.tell(&worked, Timestamp((n * n % 37 + n * 11) as i64));
            assert_eq!(time.split.total(), time.until.since(time.since));
        }
    }
}
