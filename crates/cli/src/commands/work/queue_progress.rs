//! What a worker shows of the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use batchwright::progress::Phase;
use batchwright::{Error, JobQueue, ProcessId, Progress, ProgressNotifier};

use crate::args::shared::ShowArgs;
use crate::display::{self, Display};
use crate::format::count;
use crate::run_process;

/// Where all processes stand together, for people.
pub struct Board {
    display: Display,
    quiet: bool,
    queue: JobQueue,
    seen: Mutex<Seen>,
}

struct Seen {
    /// What was finished before this worker began, or was said to be since.
    finished: HashSet<ProcessId>,
    open: HashMap<ProcessId, Progress>,
    next_sum: Instant,
}

/// So many processes are not summed up at each event,
const MANY: usize = 100;
/// but after this time.
const BETWEEN_SUMS: Duration = Duration::from_millis(200);

impl Board {
    pub fn new(show: &ShowArgs, queue: &JobQueue) -> Result<Self, Error> {
        let there = queue.open_processes()?.into_iter();
        let finished = there.filter(|process| process.sealed && process.counts.is_finished());
        Ok(Self {
            display: Display::new(show),
            quiet: show.quiet,
            queue: queue.clone(),
            seen: Mutex::new(Seen {
                finished: finished.map(|process| process.process_id).collect(),
                open: HashMap::new(),
                next_sum: Instant::now(),
            }),
        })
    }

    /// Says a line above the bar.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            display::say(line);
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.display.clear();
    }
}

impl ProgressNotifier for Board {
    fn on_progress(&self, progress: &Progress) {
        let (Some(id), Ok(mut seen)) = (progress.process_id, self.seen.lock()) else {
            return;
        };
        match progress.phase {
            Phase::Deleted => {
                seen.open.remove(&id);
            }
            Phase::Finished => {
                seen.open.remove(&id);
                if seen.finished.insert(id) && !self.quiet {
                    let back = run_process::way_back_of(&self.queue, Some(id));
                    display::say(&finished(progress, back.as_deref()));
                }
            }
            _ => {
                seen.finished.remove(&id);
                seen.open.insert(id, progress.clone());
            }
        }
        // A sum over thousands for each of thousands would take its time.
        let now = Instant::now();
        if seen.open.len() > MANY && now < seen.next_sum {
            return;
        }
        seen.next_sum = now + BETWEEN_SUMS;
        let mut all = seen.open.values();
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
        let done = sum.completed + sum.failed + sum.cancelled;
        let total = sum.total.unwrap_or(done);
        let left = total.saturating_sub(done);
        sum.percent = (total > 0).then(|| done as f64 * 100.0 / total as f64);
        sum.eta =
            (sum.rate > 0.0).then(|| Duration::from_secs_f64((left as f64 / sum.rate).min(1e9)));
        self.display.on_progress(&sum);
    }
}

/// `back`: the command of the run that it belongs to.
fn finished(progress: &Progress, back: Option<&str>) -> String {
    let id = progress
        .process_id
        .map_or_else(String::new, |id| id.to_string());
    let mut line = format!("{id} is finished: {} done", count(progress.completed));
    for (n, what) in [
        (progress.failed, "failed"),
        (progress.cancelled, "cancelled"),
    ] {
        if n > 0 {
            line.push_str(&format!(", {} {what}", count(n)));
        }
    }
    if let Some(back) = back {
        return line + &format!("; its results come to the output of its run by:\n  {back}");
    }
    line.push_str(&format!("; batchwright results {id} -o FILE"));
    if progress.failed > 0 {
        line.push_str(&format!(", or before that: batchwright retry {id}"));
    }
    line
}
