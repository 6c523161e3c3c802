//! Progress of processes, from the current and earlier states of their store.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::base::clock::{Time, Timestamp};
use crate::base::id::ProcessId;
use crate::observe::progress::{Phase, Progress};
use crate::observe::tracker::is_enough;

use super::job::ProcessState;

/// The rate is measured over this time.
const WINDOW: Duration = Duration::from_secs(30);
/// Number of states that are stored for it.
const LOOKS: usize = 64;

/// Makes [`Progress`] of successive [`ProcessState`]s. Rate and expected end follow from the changes of the last 30
/// seconds.
#[derive(Debug, Default)]
pub struct ProcessTracker {
    seen: HashMap<ProcessId, VecDeque<(Time, u64)>>,
}

impl ProcessTracker {
    /// A tracker without any state yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Progress of a process whose state was read at these times.
    pub fn progress(&mut self, process: &ProcessState, now: Time, wall: Timestamp) -> Progress {
        let counts = &process.counts;
        let finished = counts.finished();
        let samples = self.seen.entry(process.process_id).or_default();
        while samples.len() > 1 && now.since(samples[0].0) > WINDOW {
            samples.pop_front();
        }
        let spaced = |last: &(Time, u64)| now.since(last.0) >= WINDOW / LOOKS as u32;
        if samples.back().is_none_or(spaced) {
            samples.push_back((now, finished));
        }
        let (since, before) = samples[0];
        let window = now.since(since).as_secs_f64();
        let age = wall.since(process.created_at).as_secs_f64();
        // With a single state, only the average since the start is known.
        let rate = match window > 0.0 {
            true => finished.saturating_sub(before) as f64 / window,
            false if age > 0.0 => finished as f64 / age,
            false => 0.0,
        };
        let left = counts.total - finished;
        let done = left == 0 && process.sealed;
        if done {
            self.seen.remove(&process.process_id);
        }
        Progress {
            process_id: Some(process.process_id),
            phase: if done {
                Phase::Finished
            } else {
                Phase::Running
            },
            percent: (counts.total > 0).then(|| finished as f64 * 100.0 / counts.total as f64),
            total: Some(counts.total),
            completed: counts.completed,
            failed: counts.failed,
            cancelled: counts.cancelled,
            at_provider: counts.at_provider,
            at_provider_done: None,
            in_flight: counts.in_progress,
            retries: 0,
            elapsed: if done {
                process.changed_at.since(process.created_at)
            } else {
                wall.since(process.created_at)
            },
            rate,
            eta: (rate > 0.0 && left > 0 && is_enough(finished, left))
                .then(|| Duration::from_secs_f64((left as f64 / rate).min(1e9))),
            resumes_in: None,
            input_tokens: process.spent.input_tokens,
            output_tokens: process.spent.output_tokens,
            cost_usd: process.spent.cost_usd,
            limited_by: None,
            learned_limit: None,
            trouble: None,
            trouble_kind: None,
            loading: None,
        }
    }

    /// Drops the states of a process.
    pub fn forget(&mut self, process: ProcessId) {
        self.seen.remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::info::ProcessInfo;
    use crate::queue::job::{JobCounts, Spent};
    use crate::queue::process_time::ProcessTime;

    fn process(total: u64, completed: u64) -> ProcessState {
        ProcessState {
            process_id: ProcessId::from_bytes([7; 16]),
            sealed: true,
            cancelled: false,
            counts: JobCounts {
                total,
                completed,
                pending: total - completed,
                ..JobCounts::default()
            },
            spent: Spent::default(),
            created_at: Timestamp(1000),
            changed_at: Timestamp(31_000),
            info: ProcessInfo::default(),
            time: ProcessTime::new(Timestamp(1000)),
        }
    }

    #[test]
    fn rate_and_expected_end_come_from_the_last_half_minute() {
        let mut tracker = ProcessTracker::new();
        let mut last = None;
        for second in 0..100_u64 {
            // Ten a second at first, one a second in the end.
            let done = if second < 50 {
                second * 10
            } else {
                450 + second
            };
            let at = Time::ZERO.after(Duration::from_secs(second));
            last = Some(tracker.progress(&process(1000, done), at, Timestamp(31_000)));
        }
        let last = last.unwrap();
        assert!((last.rate - 1.0).abs() < 0.05, "{}", last.rate);
        let eta = last.eta.unwrap().as_secs_f64();
        assert!((eta - 451.0).abs() < 25.0, "{eta}");
        assert_eq!(last.elapsed, Duration::from_secs(30));
        assert_eq!(last.phase, Phase::Running);
    }

    #[test]
    fn a_process_with_all_its_outcomes_is_finished() {
        let mut tracker = ProcessTracker::new();
        let end = tracker.progress(&process(5, 5), Time::ZERO, Timestamp(99_000));
        assert_eq!((end.phase, end.percent), (Phase::Finished, Some(100.0)));
        assert_eq!(end.elapsed, Duration::from_secs(30));
        assert!(tracker.seen.is_empty());
    }
}
