//! Random operations on batches, and what store and model must agree on about them.

use std::cmp::Reverse;

use super::*;

pub(super) struct ModelBatch {
    no: BatchNo,
    process: ProcessId,
    /// When its process began: another may get the same id later.
    serial: u64,
    name: &'static str,
    step: u8,
    pub(super) worker: Option<WorkerId>,
    record: String,
    /// Where filling it goes on.
    next: Option<i64>,
}

impl Model {
    pub(super) fn batch_step(&mut self) {
        match self.below(21) {
            0..3 => self.open_batch(),
            3..9 => self.with_batch(Self::fill),
            9..11 => self.with_batch(Self::save),
            11..14 => self.adopt(),
            14..16 => self.with_batch(Self::put_back),
            16..17 => self.with_batch(Self::close),
            17..18 => self.cancel_some(),
            18..19 => self.look_at_waiting(),
            19..20 => self.look_at_items(),
            _ => self.look_for_jobs(),
        }
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let all: Vec<WorkerId> = self.workers.iter().flatten().map(|(no, _)| *no).collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }

    /// Does something with a batch, mostly as its owner.
    fn with_batch(&mut self, act: fn(&mut Self, usize, WorkerId)) {
        if let Some(stranger) = self.any_worker().filter(|_| !self.batches.is_empty()) {
            let at = self.below(self.batches.len());
            let owner = self.batches[at].worker.filter(|_| self.below(5) > 0);
            act(self, at, owner.unwrap_or(stranger));
        }
    }

    fn any_store(&mut self) -> Arc<Store> {
        let handle = self.below(2);
        self.store(handle)
    }

    /// Whether the worker may; otherwise nothing has happened.
    fn may<T: std::fmt::Debug>(
        &self,
        at: usize,
        worker: WorkerId,
        done: Result<T, Error>,
    ) -> Option<T> {
        if self.batches[at].worker == Some(worker) {
            return Some(done.unwrap());
        }
        assert!(done.unwrap_err().is_marked(Mark::ClaimLost));
        None
    }

    fn process_of(&self, batch: &ModelBatch) -> Option<&ModelProcess> {
        let known = self.processes.get(&batch.process)?;
        (known.serial == batch.serial).then_some(known)
    }

    fn inside(&self, no: BatchNo) -> Vec<usize> {
        let jobs = self.jobs.iter().enumerate();
        let inside = jobs.filter(|(_, job)| job.state == State::AtProvider(no));
        inside.map(|(at, _)| at).collect()
    }

    fn key_of(&self, at: usize) -> i64 {
        self.jobs[at].last.unwrap().job
    }

    fn open_batch(&mut self) {
        let Some(worker) = self.any_worker() else {
            return;
        };
        let (process, store) = (self.any_process(), self.any_store());
        let (name, step) = (LANES[self.below(3)], self.below(8) as u8 / 7);
        let opened = store.open_batch(worker, process, &lane(name, step), "new", self.wall());
        let Some(known) = self.processes.get(&process) else {
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
            return;
        };
        let no = opened.unwrap();
        assert!(no.0 > self.newest_batch, "a number is given once");
        self.newest_batch = no.0;
        self.batches.push(ModelBatch {
            no,
            process,
            serial: known.serial,
            name,
            step,
            worker: Some(worker),
            record: "new".to_owned(),
            next: None,
        });
    }

    fn fill(&mut self, at: usize, worker: WorkerId) {
        let sizes = [0, 1, 3, u64::MAX];
        let (most, bytes, store) = (self.below(5), sizes[self.below(4)], self.any_store());
        let ModelBatch { no, next, .. } = self.batches[at];
        let after = if self.below(2) == 0 { next } else { None };
        let filled = store.fill_batch(worker, no, after, most, bytes, self.wall());
        let Some(filled) = self.may(at, worker, filled) else {
            return;
        };
        let batch = &self.batches[at];
        let open = self.process_of(batch).is_some_and(|known| !known.cancelled);
        let start = after.map_or(0, |key| (key + 1) as u64 & u64::from(u32::MAX));
        let fits = |job: &ModelJob| {
            open && job.process == batch.process
                && job.state == State::Pending
                && (job.name, job.step) == (batch.name, batch.step)
                && job.due <= self.now
                && job.order.1 >= start
        };
        let due: Vec<usize> = (0..self.jobs.len())
            .filter(|at| fits(&self.jobs[*at]))
            .collect();
        // Each has a payload of one byte, and an empty batch takes one in any case.
        let room = bytes.max(u64::from(self.inside(no).is_empty()));
        let taken = (due.len().min(most) as u64).min(room) as usize;
        assert_eq!(filled.jobs, taken as u64);
        assert_eq!(filled.next.is_some(), due.len() > taken);
        self.batches[at].next = filled.next;
        for at in &due[..taken] {
            self.jobs[*at].state = State::AtProvider(no);
        }
        self.receive(no, &due[..taken]);
    }

    /// Compares what is in a batch; of the new ones the claims have risen.
    fn receive(&mut self, no: BatchNo, new: &[usize]) {
        let store = self.any_store();
        let seen = store.batch_jobs(no, None, usize::MAX, usize::MAX).unwrap();
        let ids: Vec<usize> = seen.iter().map(|job| self.index[&job.job_id]).collect();
        assert_eq!(ids, self.inside(no));
        for (at, job) in ids.into_iter().zip(&seen) {
            assert_eq!(u64::from(job.receipt.number()), self.jobs[at].order.1);
            if new.contains(&at) {
                self.note_claim(at, job.receipt);
            }
            assert_eq!(self.jobs[at].last, Some(job.receipt));
        }
        if let Some(last) = seen.last() {
            let half = &seen[seen.len() / 2];
            let mut wanted = vec![last.receipt, half.receipt];
            wanted.dedup();
            let numbers = wanted.iter().map(JobReceipt::number).chain([u32::MAX]);
            let numbers: Vec<u32> = numbers.collect();
            let found = store.batch_jobs_by(no, &numbers).unwrap();
            assert!(found.iter().map(|job| job.receipt).eq(wanted));
            let key = Some(half.receipt.job);
            let behind = store.batch_jobs(no, key, 2, 1).unwrap();
            let expected = seen.get(seen.len() / 2 + 1).map(|job| job.receipt);
            let behind = behind.iter().map(|job| job.receipt);
            assert!(behind.eq(expected));
        }
    }

    fn save(&mut self, at: usize, worker: WorkerId) {
        let (no, record) = (self.batches[at].no, self.below(1_000).to_string());
        let saved = self.any_store().save_batch(worker, no, &record);
        if self.may(at, worker, saved).is_some() {
            self.batches[at].record = record;
        }
    }

    fn adopt(&mut self) {
        let Some(worker) = self.any_worker() else {
            return;
        };
        let odd = self.below(2) as i64;
        let only = (self.below(3) == 0).then(|| self.any_process());
        let mut mine = |batch: &StoredBatch| batch.no.0 % 2 == odd;
        let store = self.any_store();
        let adopted = store.adopt_batches(worker, &mut mine, only.as_slice());
        let mut expected = Vec::new();
        for at in 0..self.batches.len() {
            let batch = &self.batches[at];
            let of = self.process_of(batch).map(|_| batch.process);
            let wanted = batch.no.0 % 2 == odd && (only.is_none() || of == only);
            if batch.worker.is_none() && wanted {
                self.batches[at].worker = Some(worker);
                expected.push(self.seen(&self.batches[at]));
            }
        }
        assert_eq!(timeless(adopted.unwrap()), expected);
    }

    /// Does it with the first handle, which may give up halfway, and once more.
    fn twice<T>(&mut self, mut work: impl FnMut(&Store, Timestamp) -> T) -> (T, T) {
        let chunks = self.below(4) as i64;
        self.db.abandon_after(chunks);
        let once = work(&self.store(0), self.wall());
        self.db.abandon_after(None);
        (once, work(&self.store(0), self.wall()))
    }

    fn put_back(&mut self, at: usize, worker: WorkerId) {
        let no = self.batches[at].no;
        let mut back = self.inside(no);
        let after = (self.below(2) == 0 && !back.is_empty()).then(|| back.remove(0));
        let after = after.map(|at| self.key_of(at));
        let (_, reported) = self.twice(|store, now| store.give_back(worker, no, after, now));
        if let Some(reported) = self.may(at, worker, reported) {
            assert!(reported <= back.len() as u64);
            self.unload(at, &back);
        }
    }

    fn unload(&mut self, batch: usize, back: &[usize]) {
        let known = self.process_of(&self.batches[batch]);
        let stopped = known.is_none_or(|known| known.cancelled);
        for at in back {
            let job = &mut self.jobs[*at];
            job.state = [State::Pending, State::Cancelled][usize::from(stopped)];
        }
    }

    fn close(&mut self, at: usize, worker: WorkerId) {
        let no = self.batches[at].no;
        let (once, again) = self.twice(|store, now| store.close_batch(worker, no, now));
        // What is closed is nobody's.
        let closed = if once.is_ok() {
            assert_eq!(again.unwrap_err().kind(), ErrorKind::Invalid);
            once
        } else {
            again
        };
        if self.may(at, worker, closed).is_some() {
            self.unload(at, &self.inside(no));
            self.batches.remove(at);
        }
    }

    fn cancel_some(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let mut ids = Vec::new();
        let mut expected = 0;
        for _ in 0..self.below(9) {
            let near = self.below(self.jobs.len().min(60));
            let at = self.jobs.len() - 1 - near;
            let job = &mut self.jobs[at];
            ids.push(job.id);
            if matches!(job.state, State::Held | State::Pending) {
                job.state = State::Cancelled;
                expected += 1;
            }
        }
        let (store, now) = (self.any_store(), self.wall());
        let other = foreign(self.jobs[self.jobs.len() - 1].id);
        assert_eq!(store.cancel_jobs(&[other], now).unwrap(), 0);
        assert_eq!(store.cancel_jobs(&ids, now).unwrap(), expected);
    }

    fn look_at_waiting(&mut self) {
        let only = (self.below(3) == 0).then(|| self.any_process());
        let (store, now) = (self.any_store(), self.wall());
        assert!(store.waiting_jobs("other", &[], now).unwrap().is_empty());
        let seen = store.waiting_jobs("k", only.as_slice(), now).unwrap();
        let told = |of: WaitingJobs| (of.process_id, of.lane.name.clone(), of.due, of.next);
        let seen = seen.into_iter().map(told);
        let mut lengths: BTreeMap<Reverse<u8>, u64> = BTreeMap::new();
        let mut groups: BTreeMap<(ProcessId, &str), Vec<&ModelJob>> = BTreeMap::new();
        for job in self.jobs.iter().filter(|job| job.state == State::Pending) {
            *lengths.entry(Reverse(job.priority)).or_default() += 1;
            let cancelled = self.is_cancelled(job.process);
            let wanted = only.is_none_or(|only| only == job.process);
            if job.step == 0 && wanted && !cancelled {
                groups.entry((job.process, job.name)).or_default().push(job);
            }
        }
        let mut expected = Vec::new();
        for ((process, name), jobs) in groups {
            let oldest = jobs.iter().map(|job| job.order).min();
            let (due, later): (Vec<&ModelJob>, Vec<&ModelJob>) =
                jobs.into_iter().partition(|job| job.due <= self.now);
            let ranks = due.iter().map(|job| (Reverse(job.priority), job.due));
            let first = ranks.min();
            let next = later.iter().map(|job| Timestamp(job.due)).min();
            let reported = (process, Some(name.to_owned()), due.len() as u64, next);
            expected.push(((first.is_none(), first, next, oldest), reported));
        }
        expected.sort();
        let expected = expected.into_iter().map(|(_, reported)| reported);
        assert!(seen.eq(expected));
        let lengths = lengths.into_iter().map(|(of, jobs)| (of.0, jobs));
        assert!(store.waiting_by_priority().unwrap().into_iter().eq(lengths));
    }

    /// Pages of jobs: those of a process in order, those of all the newest first.
    fn look_for_jobs(&mut self) {
        let states = [Pending, InProgress, Completed, Failed, Cancelled];
        let filter = JobFilter {
            process: (self.below(2) == 0).then(|| self.any_process()),
            status: states.get(self.below(10)).copied(),
            at_provider: [None, None, Some(true), Some(false)][self.below(4)],
            kind: [None, Some("k"), Some("other")][self.below(3)].map(str::to_owned),
        };
        let fits = |job: &&ModelJob| {
            let shown = job.state.shown();
            shown.is_some()
                && (filter.status.is_none() || filter.status == shown)
                && filter.process.is_none_or(|process| process == job.process)
                && filter.at_provider.is_none_or(|is| is == job.at_provider())
                && filter.kind.as_deref() != Some("other")
        };
        let mut expected: Vec<&ModelJob> = self.jobs.iter().filter(fits).collect();
        expected.sort_by_key(|job| job.order);
        if filter.process.is_none() {
            expected.reverse();
        }
        let expected: Vec<JobId> = expected.iter().map(|job| job.id).collect();
        let (mut seen, mut after) = (Vec::new(), None);
        let most = 1 + self.below(9);
        loop {
            let page = self.db.two.find(&filter, after, most).unwrap();
            assert!(page.jobs.len() <= most);
            seen.extend(page.jobs.iter().map(|job| job.job_id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "{filter:?}");
    }

    fn look_at_items(&mut self) {
        let process = self.any_process();
        let stored = self.jobs.iter().filter(|job| job.process == process);
        let expected: Vec<_> = stored
            .filter_map(|job| Some((job.id, job.state.shown()?, job.at_provider())))
            .collect();
        let mut seen: Vec<(JobId, JobStatus, bool)> = Vec::new();
        loop {
            let last = seen.last().map(|(job, ..)| *job);
            let page = self.db.two.items(process, last, 7).unwrap();
            if page.is_empty() {
                break;
            }
            let page = page.iter();
            seen.extend(page.map(|item| (item.job_id, item.status, item.at_provider)));
        }
        assert_eq!(seen, expected);
    }

    /// What is to be seen of a batch.
    fn seen(&self, batch: &ModelBatch) -> StoredBatch {
        let known = self.process_of(batch);
        StoredBatch {
            no: batch.no,
            process_id: known.map(|_| batch.process),
            lane: Arc::new(lane(batch.name, batch.step)),
            worker: batch.worker,
            stopped_at: known.is_none_or(|known| known.cancelled).then_some(T),
            jobs: self.inside(batch.no).len() as u64,
            record: batch.record.clone(),
            created_at: T,
        }
    }

    pub(super) fn compare_batches(&self) {
        let seen = timeless(self.db.two.batches(None).unwrap());
        let expected: Vec<_> = self.batches.iter().map(|batch| self.seen(batch)).collect();
        assert_eq!(seen, expected);
    }
}

impl ModelJob {
    fn at_provider(&self) -> bool {
        matches!(self.state, State::AtProvider(_))
    }
}

fn lane(name: &str, step: u8) -> JobLane {
    JobLane {
        kind: "k".to_owned(),
        name: Some(name.to_owned()),
        step,
    }
}

/// Batches without the times that the model does not know.
fn timeless(mut batches: Vec<StoredBatch>) -> Vec<StoredBatch> {
    for batch in &mut batches {
        (batch.stopped_at, batch.created_at) = (batch.stopped_at.map(|_| T), T);
    }
    batches
}
