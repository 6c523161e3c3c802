//! The progress of a worker: all open processes of the queue together.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use batchwright::progress::Phase;
use batchwright::{Error, JobQueue, ProcessId, Progress, ProgressNotifier};
use parking_lot::Mutex;

use crate::args::shared::ShowArgs;
use crate::display::{self, Display};
use crate::format::{count, counts};
use crate::queue::run_command;

/// Shows the sum of all open processes, and reports when one is finished.
pub struct QueueProgress {
    display: Display,
    queue: JobQueue,
    known: Mutex<Known>,
}

struct Known {
    /// Processes that were finished before this worker began, or were reported as finished since.
    finished: HashSet<ProcessId>,
    open: HashMap<ProcessId, Progress>,
    next_sum: Instant,
}

/// Minimum time between two sums.
const SUM_INTERVAL: Duration = Duration::from_millis(200);

impl QueueProgress {
    pub fn new(show: &ShowArgs, queue: &JobQueue) -> Result<Self, Error> {
        let there = queue.open_processes()?.into_iter();
        let finished = there.filter(|process| process.sealed && process.counts.is_finished());
        Ok(Self {
            display: Display::new(show),
            queue: queue.clone(),
            known: Mutex::new(Known {
                finished: finished.map(|process| process.process_id).collect(),
                open: HashMap::new(),
                next_sum: Instant::now(),
            }),
        })
    }

    /// Removes the line of progress.
    pub fn clear(&self) {
        self.display.clear();
    }

    /// How users fetch the results; `None` for those of child jobs, which their parent collects.
    fn collect_command(&self, id: ProcessId) -> Option<String> {
        let own = || format!("batchwright results {id} -o FILE");
        match self.queue.process(id) {
            Ok(Some(process)) if process.info.parent.is_none() => {
                Some(run_command(&process.info).unwrap_or_else(own))
            }
            Ok(_) => None,
            Err(_) => Some(own()),
        }
    }
}

impl ProgressNotifier for QueueProgress {
    fn on_progress(&self, progress: &Progress) {
        let Some(id) = progress.process_id else {
            return;
        };
        let mut known = self.known.lock();
        match progress.phase {
            Phase::Deleted => {
                known.open.remove(&id);
            }
            Phase::Finished => {
                known.open.remove(&id);
                if known.finished.insert(id)
                    && let Some(collect) = self.collect_command(id)
                {
                    display::note(finished(id, progress, &collect));
                }
            }
            _ => {
                known.finished.remove(&id);
                known.open.insert(id, progress.clone());
            }
        }
        // Summing up thousands of processes at each of thousands of events would take too long.
        let now = Instant::now();
        if !known.open.is_empty() && now < known.next_sum {
            return;
        }
        known.next_sum = now + SUM_INTERVAL;
        let mut all = known.open.values();
        let Some(mut sum) = all.next().cloned() else {
            return self.display.clear();
        };
        for one in all {
            sum.total = sum.total.zip(one.total).map(|(a, b)| a + b);
            sum.completed += one.completed;
            sum.failed += one.failed;
            sum.cancelled += one.cancelled;
            sum.in_flight += one.in_flight;
            sum.at_provider += one.at_provider;
            sum.at_provider_done = match (sum.at_provider_done, one.at_provider_done) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
            sum.rate += one.rate;
            sum.input_tokens += one.input_tokens;
            sum.output_tokens += one.output_tokens;
            sum.trouble = sum.trouble.take().or(one.trouble.clone());
        }
        // What limits the worker is the same for all, and known best from the latest event.
        if progress.limited_by.is_some() {
            sum.limited_by = progress.limited_by;
            sum.learned_limit = progress.learned_limit;
        }
        let done = sum.completed + sum.failed + sum.cancelled;
        let total = sum.total.unwrap_or(done);
        let left = total.saturating_sub(done);
        sum.percent = (total > 0).then(|| (done as f64 * 1000.0 / total as f64).floor() / 10.0);
        sum.eta =
            (sum.rate > 0.0).then(|| Duration::from_secs_f64((left as f64 / sum.rate).min(1e9)));
        self.display.on_progress(&sum);
    }
}

fn finished(id: ProcessId, progress: &Progress, collect: &str) -> String {
    let others = counts([
        (progress.failed, "failed"),
        (progress.cancelled, "cancelled"),
    ]);
    let done = format!("{id} is finished: {} done", count(progress.completed));
    let line = [vec![done], others].concat().join(", ");
    format!("{line}; to collect its results: {collect}")
}
