//! Batches: what goes into them, and what comes back.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::progress::Timestamp;
use batchwright::queue::JobLane;
use batchwright::unstable::{BatchFill, BatchNo, ClaimedJob, StoredBatch, WaitingJobs, WorkerId};
use batchwright::{Error, ProcessId};

use super::data::{Batch, Data, Place, Row, invalid, is_among};

/// Jobs with their keys.
type Jobs<'a> = Vec<(i64, &'a Row)>;

impl Data {
    pub fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        let scope = self.scope(processes);
        let mut groups = BTreeMap::<(i64, Arc<JobLane>), Jobs<'_>>::new();
        for (key, row) in &self.jobs {
            let process = self.process_of(*key);
            let process = process.filter(|process| !process.is_cancelled());
            let wanted = process.is_some_and(|process| is_among(scope.as_ref(), Some(process.id)));
            let first_step = row.parts.kind == kind && row.lane.step == 0;
            if wanted && first_step && row.place == Place::Waiting {
                let group = groups.entry((key >> 32, row.lane.clone()));
                group.or_default().push((*key, row));
            }
        }
        let mut all: Vec<_> = groups
            .into_iter()
            .map(|((no, lane), jobs)| {
                let is_due = |row: &Row| row.due_at <= now;
                let due = jobs.iter().filter(|(_, row)| is_due(row));
                let first = due
                    .clone()
                    .map(|(key, row)| (Reverse(row.parts.priority), row.due_at, *key))
                    .min();
                let later = jobs.iter().filter(|(_, row)| !is_due(row));
                let soonest = later.map(|(key, row)| (row.due_at, *key)).min();
                let waiting = WaitingJobs {
                    process_id: self.processes[&no].id,
                    lane,
                    due: due.count() as u64,
                    next: soonest.map(|(due_at, _)| due_at),
                };
                ((first.is_none(), first, soonest), waiting)
            })
            .collect();
        all.sort_by_key(|(rank, _)| *rank);
        Ok(all.into_iter().map(|(_, waiting)| waiting).collect())
    }

    pub fn stored_batches(&self, process: Option<ProcessId>) -> Vec<StoredBatch> {
        let all = self.batches.keys().filter_map(|no| self.stored(*no));
        let scope = process.and_then(|process| self.scope(&[process]));
        let wanted = all.filter(|batch| is_among(scope.as_ref(), batch.process_id));
        wanted.collect()
    }

    pub fn waiting_by_priority(&self) -> Vec<(u8, u64)> {
        let mut counts = BTreeMap::<Reverse<u8>, u64>::new();
        for row in self.jobs.values().filter(|row| row.place == Place::Waiting) {
            *counts.entry(Reverse(row.parts.priority)).or_default() += 1;
        }
        counts.into_iter().map(|(Reverse(of), n)| (of, n)).collect()
    }

    pub fn fill_batch(
        &mut self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        let of = self.owned(worker, batch)?;
        let (no, lane) = (of.process, of.lane.clone());
        let mut fill = BatchFill::default();
        if self.is_stopped(no) {
            return Ok(fill);
        }
        let mut has_any = !self.in_batch(batch, None).is_empty();
        for (key, row) in self.jobs.range_mut(Data::keys(no)) {
            let is_due = row.place == Place::Waiting && row.due_at <= now && row.lane == lane;
            if !is_due || after.is_some_and(|after| *key <= after) {
                continue;
            }
            let size = row.parts.payload.get().len() as u64;
            if fill.jobs >= most as u64 || has_any && fill.bytes + size > bytes {
                fill.next = Some(key - 1);
                break;
            }
            has_any = true;
            row.place = Place::InBatch(batch);
            row.claim += 1;
            fill.jobs += 1;
            fill.bytes += size;
        }
        self.touch(no, now);
        Ok(fill)
    }

    pub fn split_batch(
        &mut self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        new_record: &str,
        old_record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        let old = self.owned(worker, batch)?;
        old.record = old_record.to_owned();
        let half = Batch {
            process: old.process,
            lane: old.lane.clone(),
            worker: Some(worker),
            record: new_record.to_owned(),
            created_at: now,
        };
        let no = BatchNo(self.next());
        self.batches.insert(no, half);
        for (_, row) in self.jobs.range_mut(..at) {
            if row.place == Place::InBatch(batch) {
                row.place = Place::InBatch(no);
            }
        }
        Ok(no)
    }

    pub fn open_batch(
        &mut self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.known(worker)?;
        let process = self.number(process);
        let process = process.ok_or_else(|| invalid("there is no such process"))?;
        let no = BatchNo(self.next());
        let batch = Batch {
            process,
            lane: Arc::new(lane.clone()),
            worker: Some(worker),
            record: record.to_owned(),
            created_at: now,
        };
        self.batches.insert(no, batch);
        Ok(no)
    }

    pub fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        let (mut all, mut size) = (Vec::new(), 0);
        for key in self.in_batch(batch, after) {
            let row = &self.jobs[&key];
            size += row.parts.payload.get().len();
            if all.len() >= most || size > bytes && !all.is_empty() {
                break;
            }
            let process = self.process_of(key);
            all.extend(process.map(|process| row.claimed(key, process.id)));
        }
        Ok(all)
    }

    pub fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error> {
        let found = numbers.iter().filter_map(|number| {
            let no = self.batches.get(&batch)?.process;
            let key = Data::keys(no).start + i64::from(*number);
            let row = self.jobs.get(&key)?;
            let process = self.processes.get(&no)?;
            (row.place == Place::InBatch(batch)).then(|| row.claimed(key, process.id))
        });
        Ok(found.collect())
    }

    /// A batch of this worker.
    pub fn owned(&mut self, worker: WorkerId, no: BatchNo) -> Result<&mut Batch, Error> {
        let found = self.batches.get_mut(&no);
        found
            .filter(|batch| batch.worker == Some(worker))
            .ok_or_else(|| invalid("the batch is not this worker's").with_claim_lost())
    }

    /// The keys of the jobs in a batch, from behind one.
    pub fn in_batch(&self, no: BatchNo, after: Option<i64>) -> Vec<i64> {
        let behind = after.map_or(i64::MIN, |after| after + 1);
        let jobs = self.jobs.range(behind..);
        jobs.filter(|(_, row)| row.place == Place::InBatch(no))
            .map(|(key, _)| *key)
            .collect()
    }

    pub fn stored(&self, no: BatchNo) -> Option<StoredBatch> {
        let batch = self.batches.get(&no)?;
        let process = self.processes.get(&batch.process);
        let stopped_at = match process {
            Some(process) => process.cancelled_at,
            None => Some(Timestamp(i64::MAX)),
        };
        Some(StoredBatch {
            no,
            process_id: process.map(|process| process.id),
            lane: batch.lane.clone(),
            worker: batch.worker,
            is_stopped: stopped_at.is_some(),
            stopped_at,
            jobs: self.in_batch(no, None).len() as u64,
            record: batch.record.clone(),
            created_at: batch.created_at,
        })
    }

    /// Puts jobs of a batch back. Returns how many.
    pub fn unload(
        &mut self,
        no: BatchNo,
        after: Option<i64>,
        due_at: Option<Timestamp>,
        now: Timestamp,
    ) -> u64 {
        let keys = self.in_batch(no, after);
        for key in &keys {
            let cancelled = self.is_stopped(key >> 32);
            if let Some(row) = self.jobs.get_mut(key) {
                row.put_back(due_at, cancelled);
            }
            self.touch(key >> 32, now);
        }
        self.wake_parents(now);
        keys.len() as u64
    }
}
