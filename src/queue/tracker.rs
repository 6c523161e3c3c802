//! Progress of processes, from the current and earlier states of their store.

use std::collections::HashMap;

use crate::base::{ProcessId, Time, Timestamp};
use crate::observe::progress::{Phase, Progress};
use crate::observe::tracker::Pace;

use super::job::ProcessState;

/// How fast the jobs of a process end, since it was first seen.
#[derive(Debug)]
struct Seen {
    since: Time,
    pace: Pace,
}

/// Makes [`Progress`] of successive [`ProcessState`]s. Rate and expected end are estimated as those of runs, from the
/// changes since the tracker first saw the process.
#[derive(Debug, Default)]
pub struct ProcessTracker {
    seen: HashMap<ProcessId, Seen>,
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
        let age = wall.since(process.created_at);
        let begin = |pace| Seen { since: now, pace };
        let seen = self.seen.entry(process.process_id).or_insert_with(|| {
            // With a single state, only the average since the start is known.
            let rate = match age.as_secs_f64() {
                age if age > 0.0 => finished as f64 / age,
                _ => 0.0,
            };
            begin(Pace::begun(finished, rate))
        });
        // No job has ended yet, or failed jobs were put back.
        if finished == 0 || finished < seen.pace.settled() {
            *seen = begin(Pace::begun(finished, seen.pace.rate()));
        }
        seen.pace.advance(now.since(seen.since), finished);
        let pace = seen.pace;
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
            in_flight: counts.in_progress,
            elapsed: if done {
                process.changed_at.since(process.created_at)
            } else {
                age
            },
            rate: pace.rate(),
            eta: pace.time_for(left).filter(|_| left > 0),
            input_tokens: process.spent.input_tokens,
            output_tokens: process.spent.output_tokens,
            cost_usd: process.spent.cost_usd,
            unpriced: process.spent.unpriced,
            ..Progress::default()
        }
    }

    /// Drops the states of a process.
    pub fn forget(&mut self, process: ProcessId) {
        self.seen.remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::queue::info::ProcessInfo;
    use crate::queue::job::{JobCounts, Spent};

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
            budget: None,
        }
    }

    /// Progress when as many jobs as given have ended at each second.
    fn progress(done: impl IntoIterator<Item = u64>) -> Progress {
        let mut tracker = ProcessTracker::new();
        let mut last = None;
        for (second, done) in (0..).zip(done) {
            let at = Time::ZERO.after(Duration::from_secs(second));
            last = Some(tracker.progress(&process(1000, done), at, Timestamp(31_000)));
        }
        last.unwrap()
    }

    #[test]
    fn rate_and_expected_end_come_from_what_was_seen() {
        let waits = std::iter::repeat_n(0, 1000);
        let even = |from: u64| (0..30).map(move |second| from + second * 10);
        let cases = [
            (
                "a single state: the average since the start",
                progress([600]),
                20.0,
                20.0,
            ),
            ("an even pace", progress(even(0)), 10.0, 71.0),
            (
                "a pace after many were done",
                progress(even(600)),
                10.0,
                11.0,
            ),
            (
                "a process that waited",
                progress(waits.chain(even(0))),
                10.0,
                71.0,
            ),
            (
                "failed jobs were put back",
                progress(even(500).chain(even(100))),
                10.0,
                61.0,
            ),
        ];
        for (what, last, rate, left) in cases {
            assert!((last.rate - rate).abs() < 1e-9, "{what}: {}", last.rate);
            let eta = last.eta.unwrap().as_secs_f64();
            assert!((eta - left).abs() < 1e-6, "{what}: {eta}");
            assert_eq!(last.elapsed, Duration::from_secs(30));
            assert_eq!(last.phase, Phase::Running);
        }
        let few = progress([0, 1]);
        assert_eq!((few.rate, few.eta), (1.0, None));
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
