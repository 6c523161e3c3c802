//! Prometheus metrics of the queue.

use crate::base::{Day, Error, Timestamp};
use crate::observe::metrics::Metrics;

use super::host::JobQueue;

impl Metrics {
    /// Updates the metrics of the queue's jobs and batches; call it before the metrics are written.
    ///
    /// | series | content |
    /// |---|---|
    /// | `batchwright_items` | all stored jobs by state |
    /// | `batchwright_cost_usd`, `batchwright_unpriced_items` | what these have cost, and those of unknown cost |
    /// | `batchwright_queue_length` | jobs that wait for their start, by priority |
    /// | `batchwright_batches` | batches at providers or being submitted, by provider and state |
    /// | `batchwright_oldest_batch_age_seconds` | age of the oldest of these batches, by provider |
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn observe_queue(&self, queue: &JobQueue) -> Result<(), Error> {
        let totals = queue.totals()?;
        let jobs = totals.jobs;
        let items = [
            jobs.completed,
            jobs.failed,
            jobs.cancelled,
            jobs.pending,
            jobs.in_progress,
            jobs.at_provider,
        ];
        let waiting = queue.waiting_by_priority()?;
        let batches = queue.batches(None)?;
        self.set_items(items, totals.cost_usd, totals.unpriced);
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
        let rows = spent.iter();
        self.set_month_costs(rows.map(|row| (&*row.model, row.calls, row.tokens, row.cost_usd)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ProcessId;
    use crate::queue::job::Job;

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
    fn processes_make_no_series_of_their_own_and_the_length_is_told_by_priority() {
        let (queue, metrics) = (JobQueue::in_memory().unwrap(), Metrics::new());
        let text = || {
            metrics.observe_queue(&queue).unwrap();
            metrics.text().unwrap()
        };
        let enqueue = || {
            let process = ProcessId::new();
            let jobs = [3, 9, 3].map(|priority| Job::new("k", &1).unwrap().priority(priority));
            queue.enqueue(process, &jobs).unwrap();
            process
        };
        let first = enqueue();
        let series = text().lines().count();
        let others: Vec<ProcessId> = (0..49).map(|_| enqueue()).collect();
        let told = text();
        assert_eq!(told.lines().count(), series, "{told}");
        let has = |text: &str, line: &str| {
            assert!(text.contains(&format!("\n{line}\n")), "{line} {text}")
        };
        has(&told, "batchwright_items{state=\"pending\"} 150");
        has(&told, "batchwright_queue_length{priority=\"3\"} 100");
        has(&told, "batchwright_queue_length{priority=\"9\"} 50");
        let samples = told.lines().filter(|line| !line.starts_with('#'));
        let labels = samples.filter_map(|line| line.split_once('{')?.1.split_once('}'));
        for label in labels.flat_map(|(labels, _)| labels.split(',')) {
            let (name, _) = label.split_once('=').unwrap();
            assert!(LABELS.contains(&name), "{name}");
        }
        queue.cancel(first).unwrap();
        queue.delete(others[0]).unwrap();
        let told = text();
        has(&told, "batchwright_items{state=\"pending\"} 144");
        has(&told, "batchwright_items{state=\"cancelled\"} 3");
        for other in &others[1..] {
            queue.cancel(*other).unwrap();
        }
        assert!(!text().contains("batchwright_queue_length{"));
    }
}
