//! Prometheus metrics of the queue.

use crate::base::{Day, Error, Timestamp};
use crate::observe::metrics::Metrics;

use super::host::JobQueue;

impl Metrics {
    /// Updates the metrics of the queue's length and its batches; call it before the metrics are written.
    ///
    /// | series | content |
    /// |---|---|
    /// | `batchwright_queue_length` | jobs that wait for their start, by priority |
    /// | `batchwright_batches` | batches at providers or being submitted, by provider and state |
    /// | `batchwright_oldest_batch_age_seconds` | age of the oldest of these batches, by provider |
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn observe_queue(&self, queue: &JobQueue) -> Result<(), Error> {
        let waiting = queue.waiting_by_priority()?;
        let batches = queue.batches(None)?;
        self.set_queue_lengths(&waiting);
        self.set_batches(batches.iter().map(|batch| {
            let named = (batch.provider.as_str(), batch.state.as_str());
            (named, batch.age_seconds)
        }));
        Ok(())
    }

    /// Updates the metrics of what was spent in this month, `batchwright_month_cost_usd`, `batchwright_month_calls` and
    /// `batchwright_month_tokens` by model; call it before the metrics are written. `now` tells the month.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn observe_spent(&self, queue: &JobQueue, now: Timestamp) -> Result<(), Error> {
        let month = Day::of(now).first_of_month();
        let spent = queue.spent_since(Some(month))?;
        let costs = self.month_costs();
        costs.reset();
        for row in spent {
            costs.add(&row.model, row.calls, row.tokens, row.cost_usd);
        }
        Ok(())
    }

    /// Leaves out the items of processes that are no longer in the queue because all their results were consumed. For
    /// programs that run long and count the processes of others.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn forget_ended_processes(&self, queue: &JobQueue) -> Result<(), Error> {
        let counted = self.processes();
        if counted.is_empty() {
            return Ok(());
        }
        let stored = queue.store.process_ids()?;
        for process in counted
            .into_iter()
            .filter(|process| !stored.contains(process))
        {
            self.forget_process(process);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Time;
    use crate::base::id::ProcessId;
    use crate::observe::progress::ProgressNotifier as _;
    use crate::queue::job::{Job, ProcessState};
    use crate::queue::progress_reporter::ProcessTracker;

    /// Labels whose number of values grows neither with processes nor with jobs.
    const LABELS: [&str; 9] = [
        "le",
        "kind",
        "state",
        "priority",
        "error_type",
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "gen_ai_request_model",
        "gen_ai_token_type",
    ];

    #[test]
    fn processes_make_no_series_of_their_own() {
        let (queue, metrics) = (JobQueue::in_memory().unwrap(), Metrics::new());
        let mut tracker = ProcessTracker::new();
        let processes: Vec<ProcessId> = (0..50).map(|_| ProcessId::new()).collect();
        let job = [Job::new("k", &"x").unwrap()];
        queue.enqueue(processes[0], job).unwrap();
        let stored = queue.process(processes[0]).unwrap().unwrap();
        let mut tell = |process_id, completed, failed| {
            let mut state = ProcessState {
                process_id,
                ..stored.clone()
            };
            state.counts.total = 5;
            (state.counts.completed, state.counts.failed) = (completed, failed);
            state.counts.pending = 5 - completed - failed;
            metrics.on_progress(&tracker.progress(&state, Time::ZERO, Timestamp(9)));
        };
        for process in &processes {
            tell(*process, 1, 0);
        }
        let series = metrics.text().unwrap().lines().count();
        for process in &processes {
            tell(*process, 3, 1);
        }
        metrics.observe_queue(&queue).unwrap();
        let text = metrics.text().unwrap();
        let more = text.matches("batchwright_queue_length").count();
        assert_eq!(text.lines().count(), series + more, "{text}");
        let has = |text: &str, line: &str| {
            assert!(text.contains(&format!("\n{line}\n")), "{line} {text}")
        };
        has(&text, "batchwright_items{state=\"completed\"} 150");
        has(&text, "batchwright_items{state=\"failed\"} 50");
        has(&text, "batchwright_items{state=\"pending\"} 50");
        has(&text, "batchwright_success_ratio 0.75");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let labels = samples.filter_map(|line| line.split_once('{')?.1.split_once('}'));
        for label in labels.flat_map(|(labels, _)| labels.split(',')) {
            let (name, _) = label.split_once('=').unwrap();
            assert!(LABELS.contains(&name), "{name}");
        }
        // One of the processes is stored.
        metrics.forget_ended_processes(&queue).unwrap();
        has(
            &metrics.text().unwrap(),
            "batchwright_items{state=\"completed\"} 3",
        );
        queue.delete(processes[0]).unwrap();
        metrics.forget_ended_processes(&queue).unwrap();
        let text = metrics.text().unwrap();
        has(&text, "batchwright_items{state=\"completed\"} 0");
        assert!(!text.contains("\nbatchwright_success_ratio "), "{text}");
    }

    #[test]
    fn the_length_of_the_queue_is_told_by_priority_and_gone_when_it_is_empty() {
        let (queue, metrics) = (JobQueue::in_memory().unwrap(), Metrics::new());
        let process = ProcessId::new();
        let jobs = [3, 9, 3].map(|priority| Job::new("k", &"x").unwrap().priority(priority));
        queue.enqueue(process, &jobs).unwrap();
        let text = |metrics: &Metrics| {
            metrics.observe_queue(&queue).unwrap();
            metrics.text().unwrap()
        };
        let told = text(&metrics);
        for (priority, jobs) in [(3, 2), (9, 1)] {
            let line = format!("batchwright_queue_length{{priority=\"{priority}\"}} {jobs}\n");
            assert!(told.contains(&line), "{told}");
        }
        queue.cancel(process).unwrap();
        let told = text(&metrics);
        assert!(!told.contains("batchwright_queue_length{"), "{told}");
    }
}
