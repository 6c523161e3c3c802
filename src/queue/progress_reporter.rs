//! Reports the states of a queue's processes to a notifier.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, ErrorKind, ProcessId, Time, Timestamp, WarnOnce};
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::observe::tracker::Pace;

use super::batch::BatchInfo;
use super::controls::Controls;
use super::job::ProcessState;

/// Interval of checks for changes by others.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A change may become visible this much later than its time, because its transaction waited.
const LATEST_WRITE: Duration = Duration::from_secs(30);

/// The state of a worker at a moment.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Processes that this worker has changed.
    pub changed: Vec<ProcessState>,
    /// Why the store cannot be written at the moment.
    pub stuck: Option<String>,
    /// Why the worker makes no progress at the moment.
    pub trouble: Option<String>,
    pub trouble_kind: Option<ErrorKind>,
    /// How long a server has been loading its model.
    pub loading: Option<Duration>,
    /// What limited the worker in about the last second.
    pub limited_by: Option<&'static str>,
    /// Used slots, and their number.
    pub slots: (usize, usize),
    pub stopping: bool,
}

pub(crate) struct ProgressReporter {
    controls: Arc<Controls>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    tracker: ProcessTracker,
    limited_by: Option<&'static str>,
    /// The last reported state of each process.
    reported: HashMap<ProcessId, ProcessState>,
    /// The last look at what others have changed.
    looked_at: Option<Time>,
    /// When the processes were last read.
    processes_read_at: Option<Timestamp>,
    /// The open batches.
    batches: Vec<BatchInfo>,
    /// The last reported obstacles: the problem, whether a server loads its model, whether the worker stops.
    obstacle: (Option<String>, bool, bool),
    stuck: WarnOnce,
}

const BUDGET: &str = "budget";

/// Whether the next call of a process does not fit its budget.
fn is_over_budget(process: &ProcessState) -> bool {
    let budget = process.budget.as_ref();
    !process.is_finished() && budget.is_some_and(|budget| budget.needed.is_some())
}

impl ProgressReporter {
    pub(crate) fn new(
        controls: Arc<Controls>,
        notifier: Option<Arc<dyn ProgressNotifier>>,
    ) -> Self {
        let mut reporter = Self {
            controls,
            notifier,
            tracker: ProcessTracker::new(),
            limited_by: None,
            reported: HashMap::new(),
            looked_at: None,
            processes_read_at: None,
            batches: Vec::new(),
            obstacle: (None, false, false),
            stuck: WarnOnce::default(),
        };
        reporter.report(Snapshot::default());
        reporter
    }

    /// What limited the worker in about the last second. If it is the number of jobs, and the machine keeps that from
    /// growing, it is the machine. If no job is due, it may be a budget.
    pub(crate) fn limited_by(&self) -> Option<&'static str> {
        let held_by = *self.controls.held_by.lock();
        let limit = self.limited_by?;
        let mut processes = self.reported.values();
        Some(match limit {
            "concurrency" => held_by.unwrap_or(limit),
            "source" if processes.any(is_over_budget) => BUDGET,
            limit => limit,
        })
    }

    pub(crate) fn report(&mut self, mut snapshot: Snapshot) {
        match &snapshot.stuck {
            Some(why) => self
                .stuck
                .warn(format!("{why}; no new jobs start until it works")),
            None => self.stuck.clear(),
        }
        self.limited_by = snapshot.limited_by;
        *self.controls.limited_by.lock() = self.limited_by();
        let Some(notifier) = self.notifier.clone() else {
            return;
        };
        let (now, wall) = (self.controls.clock.now(), self.controls.clock.wall());
        let mut deleted = Vec::new();
        let looked_at = self.looked_at;
        if looked_at.is_none_or(|at| now.since(at) >= LOOK_INTERVAL) {
            self.looked_at = Some(now);
            deleted = self.look_at_processes(&mut snapshot, wall);
            self.look_at_batches(&mut snapshot, wall);
        }
        let obstacle = (
            snapshot.trouble.clone(),
            snapshot.loading.is_some(),
            snapshot.stopping,
        );
        if self.obstacle != obstacle {
            self.obstacle = obstacle;
            // A problem changes no process, but concerns all that wait.
            self.add_known(&mut snapshot, |process| !process.counts.is_finished());
        }
        for process in deleted {
            let mut progress = self.tracker.progress(&process, now, wall);
            self.tracker.forget(process.process_id);
            // A finished process was reported, and its results were consumed.
            if progress.phase != Phase::Finished {
                progress.phase = Phase::Deleted;
                notifier.on_progress(&progress);
            }
        }
        for process in snapshot.changed {
            let progress = self.tracker.progress(&process, now, wall);
            let mut progress = progress.with_batches(&self.batches);
            if progress.phase != Phase::Finished {
                progress.trouble.clone_from(&snapshot.trouble);
                progress.trouble_kind = snapshot.trouble_kind;
                progress.loading = snapshot.loading;
                progress.limited_by = self.limited_by();
                if is_over_budget(&process) {
                    progress.limited_by = Some(BUDGET);
                }
            }
            if snapshot.stopping && progress.phase == Phase::Running {
                progress.phase = Phase::Stopping;
            }
            self.reported.insert(process.process_id, process);
            notifier.on_progress(&progress);
        }
    }

    /// Adds the processes whose batches have a new state at the provider.
    fn look_at_batches(&mut self, snapshot: &mut Snapshot, wall: Timestamp) {
        let all = self.reported.values().chain(&snapshot.changed);
        if all.map(|process| process.counts.at_provider).max() <= Some(0) {
            return;
        }
        match self.controls.store.batches(None) {
            Ok(batches) => {
                let batches = batches.iter().map(|batch| BatchInfo::new(batch, wall));
                self.batches = batches.collect();
            }
            Err(error) => return log::warn!("cannot read the state of the batches: {error}"),
        }
        // The age counts too, because some providers report nothing else.
        self.add_known(snapshot, |process| process.counts.at_provider > 0);
    }

    /// Adds processes that have not changed.
    fn add_known(&self, snapshot: &mut Snapshot, which: impl Fn(&ProcessState) -> bool) {
        let seen = |id: &ProcessId| snapshot.changed.iter().any(|new| new.process_id == *id);
        let known = self.reported.iter();
        let others = known.filter(|(id, process)| which(process) && !seen(id));
        let others: Vec<ProcessState> = others.map(|(_, process)| process.clone()).collect();
        snapshot.changed.extend(others);
    }

    /// Adds changes by others, and returns the processes that no longer exist. The first check includes all processes.
    fn look_at_processes(&mut self, snapshot: &mut Snapshot, wall: Timestamp) -> Vec<ProcessState> {
        let written = &self.controls.written;
        if !written.swap(false, Ordering::SeqCst) && self.processes_read_at.is_some() {
            return Vec::new();
        }
        // The clock may have been set back.
        let last = self.processes_read_at;
        let since = last.map(|last| before(last.min(wall), LATEST_WRITE));
        let reported = &self.reported;
        let mut changed: HashMap<ProcessId, ProcessState> = HashMap::new();
        let keep_news = |process: ProcessState| {
            let known = reported.get(&process.process_id);
            if known.is_none_or(|known| {
                known.counts != process.counts || known.sealed != process.sealed
            }) {
                changed.insert(process.process_id, process);
            }
        };
        let look = || -> Result<_, Error> {
            let news = match since {
                None => self.controls.store.open_processes()?,
                Some(since) => self.controls.store.changed_processes(since)?,
            };
            news.into_iter().for_each(keep_news);
            self.controls.store.process_ids()
        };
        let there = match look() {
            Ok(there) => there,
            Err(error) => {
                log::warn!("cannot read the state of the queue: {error}");
                // Missed changes are found at the next look.
                written.store(true, Ordering::SeqCst);
                return Vec::new();
            }
        };
        self.processes_read_at = Some(wall);
        let gone = self.reported.extract_if(|id, _| !there.contains(id));
        let gone = gone.map(|(_, process)| process).collect();
        let older = |process: &ProcessState| changed.contains_key(&process.process_id);
        snapshot.changed.retain(|process| !older(process));
        snapshot.changed.extend(changed.into_values());
        // Finished processes that are not checked again are dropped.
        let since = before(wall, LATEST_WRITE);
        self.reported
            .retain(|_, process| !process.is_finished() || process.changed_at >= since);
        gone
    }
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_sub(by))
}

// Progress of processes, from the current and earlier states of their store.

/// Makes [`Progress`] of successive [`ProcessState`]s. Rate and expected end are estimated as those of runs, from the
/// changes since the tracker first saw the process.
#[derive(Debug, Default)]
pub struct ProcessTracker {
    /// When it was first seen, and how fast its jobs have ended since then.
    seen: HashMap<ProcessId, (Time, Pace)>,
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
        let (since, pace) = self.seen.entry(process.process_id).or_insert_with(|| {
            // With a single state, only the average since the start is known.
            let rate = match age.as_secs_f64() {
                age if age > 0.0 => finished as f64 / age,
                _ => 0.0,
            };
            (now, Pace::begun(finished, rate))
        });
        // No job has ended yet, or failed jobs were put back.
        if finished == 0 || finished < pace.settled() {
            (*since, *pace) = (now, Pace::begun(finished, pace.rate()));
        }
        pace.advance(now.since(*since), finished);
        let pace = *pace;
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
        let seconds = (0..).map(Duration::from_secs).zip(done);
        let states = seconds.map(|(second, done)| {
            let at = Time::ZERO.after(second);
            tracker.progress(&process(1000, done), at, Timestamp(31_000))
        });
        states.last().unwrap()
    }

    #[test]
    fn rate_and_expected_end_come_from_what_was_seen() {
        let waits = std::iter::repeat_n(0, 1000);
        let even = |from: u64| (0..30).map(move |second| from + second * 10);
        for (what, last, rate, left) in [
            ("the average since the start", progress([600]), 20.0, 20.0),
            ("an even pace", progress(even(0)), 10.0, 71.0),
            ("many were done before", progress(even(600)), 10.0, 11.0),
            ("it waited", progress(waits.chain(even(0))), 10.0, 71.0),
            ("put back", progress(even(500).chain(even(100))), 10.0, 61.0),
        ] {
            assert!((last.rate - rate).abs() < 1e-9, "{what}: {}", last.rate);
            let eta = last.eta.unwrap().as_secs_f64();
            assert!((eta - left).abs() < 1e-6, "{what}: {eta}");
            assert_eq!(last.elapsed, Duration::from_secs(30));
            assert_eq!(last.phase, Phase::Running);
        }
        let few = progress([0, 1]);
        assert_eq!((few.rate, few.eta), (1.0, None));
        // With all its outcomes it is finished.
        let mut tracker = ProcessTracker::new();
        let end = tracker.progress(&process(5, 5), Time::ZERO, Timestamp(99_000));
        assert_eq!((end.phase, end.percent), (Phase::Finished, Some(100.0)));
        assert_eq!(end.elapsed, Duration::from_secs(30));
        assert!(tracker.seen.is_empty());
    }
}
