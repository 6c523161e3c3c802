//! What store and model must agree on: outcomes that are read and deleted, counters, states.

use super::*;

impl Model {
    pub(super) fn consume(&mut self) {
        let process = self.any_process();
        let most = 1 + self.below(5);
        let handle = self.below(2);
        let read = self.store(handle).peek(process, None, most, usize::MAX);
        let read = read.unwrap();
        let ended = self.jobs.iter();
        let ended = ended.filter(|job| job.process == process && job.state.is_final());
        let ids = read.iter().map(|delivery| delivery.result.job_id);
        assert!(ids.eq(ended.map(|job| job.id).take(most)));
        for delivery in &read {
            let at = self.index[&delivery.result.job_id];
            self.deliveries
                .push((at, self.jobs[at].epoch, delivery.receipt));
        }
        let mut receipts = Vec::new();
        let mut gone = 0;
        for _ in 0..self.below(6) {
            let Some(last) = self.deliveries.len().checked_sub(1) else {
                break;
            };
            let near = self.below(last.min(12) + 1);
            let (at, epoch, receipt) = self.deliveries[last - near];
            receipts.push(receipt);
            let job = &mut self.jobs[at];
            if job.epoch != epoch || !job.state.is_final() {
                continue;
            }
            let (process, state) = (job.process, std::mem::replace(&mut job.state, State::Gone));
            gone += 1;
            let known = self.processes.get_mut(&process).unwrap();
            known.counts.consumed += 1;
            match state {
                State::Completed => known.counts.completed += 1,
                State::Failed => known.counts.failed += 1,
                _ => known.counts.cancelled += 1,
            }
            if known.sealed && known.counts.consumed == known.counts.total {
                self.processes.remove(&process);
            }
        }
        let deleted = self.store(handle).ack(&receipts, self.wall());
        assert_eq!(deleted.unwrap(), gone);
    }

    /// Counters, flags, and the status of some jobs.
    pub(super) fn compare(&mut self, all: bool) {
        let seen = self.db.two.open_processes().unwrap();
        let mut known: Vec<(&ProcessId, &ModelProcess)> = self.processes.iter().collect();
        known.sort_by_key(|(_, process)| process.serial);
        assert_eq!(seen.len(), known.len());
        let ids: HashSet<ProcessId> = self.processes.keys().copied().collect();
        assert_eq!(self.db.two.process_ids().unwrap(), ids);
        let changed = self.db.two.changed_processes(self.wall()).unwrap();
        let changed = changed.into_iter().map(|process| process.process_id);
        let (told, mut sum): (HashSet<ProcessId>, _) = (changed.collect(), [0; 8]);
        let mut all_seen = HashMap::new();
        for (seen, (id, known)) in seen.iter().zip(known) {
            let mut counts = known.counts;
            for job in self.jobs.iter().filter(|job| job.process == *id) {
                match job.state {
                    State::Held | State::Pending => counts.pending += 1,
                    State::Running(_) => counts.in_progress += 1,
                    State::AtProvider(_) => counts.at_provider += 1,
                    State::Completed => counts.completed += 1,
                    State::Failed => counts.failed += 1,
                    State::Cancelled => counts.cancelled += 1,
                    State::Gone => {}
                }
            }
            assert_eq!(seen.process_id, *id);
            assert_eq!(seen.counts, counts);
            assert_eq!(seen.info, known.info);
            let flags = (known.sealed, known.cancelled);
            assert_eq!((seen.sealed, seen.cancelled), flags);
            let now = (counts, flags.0, flags.1);
            assert!(self.seen.get(id) == Some(&now) || told.contains(id));
            all_seen.insert(*id, now);
            sum = std::array::from_fn(|at| sum[at] + numbers(&counts)[at]);
        }
        self.seen = all_seen;
        assert_eq!(numbers(&self.db.two.totals().unwrap().jobs), sum);
        let live = self.workers.iter().flatten().count();
        assert_eq!(self.db.two.workers().unwrap().live.len(), live);
        self.compare_batches();
        let looks = if all {
            self.jobs.len()
        } else {
            self.jobs.len().min(2)
        };
        for look in 0..looks {
            let at = if all {
                look
            } else {
                self.below(self.jobs.len())
            };
            let job = &self.jobs[at];
            let seen = self.db.two.job(job.id).unwrap();
            let seen = seen.map(|seen| (seen.status, seen.crashes));
            let expected = job.state.shown().map(|status| (status, job.crashes));
            assert_eq!(seen, expected, "{job:?}");
        }
        if all {
            for finding in self.db.two.check().unwrap() {
                assert!(finding.verdict < Severity::Bad, "{finding:?}");
            }
            self.forget();
        }
    }

    /// What is gone tells nothing any more; late receipts of the last ones stay.
    fn forget(&mut self) {
        let keep = self.receipts.len().saturating_sub(200);
        self.receipts.drain(..keep);
    }
}

fn numbers(jobs: &JobCounts) -> [u64; 8] {
    [
        jobs.total,
        jobs.pending,
        jobs.in_progress,
        jobs.at_provider,
        jobs.completed,
        jobs.failed,
        jobs.cancelled,
        jobs.consumed,
    ]
}
