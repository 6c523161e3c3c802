//! Batches: what goes into one, whose it is, how it is divided, and what comes back.

use super::*;

/// The lane of jobs that name none.
pub(super) fn lane() -> JobLane {
    JobLane {
        kind: "test".to_owned(),
        name: None,
        step: 0,
    }
}

impl Hand<'_> {
    pub(super) fn begin(&self, process: ProcessId) -> BatchNo {
        let opened = self.store.open_batch(self.id, process, &lane(), "{}", T);
        opened.unwrap()
    }

    pub(super) fn fill(&self, batch: BatchNo, now: Timestamp) -> BatchFill {
        let filled = self
            .store
            .fill_batch(self.id, batch, None, usize::MAX, u64::MAX, now);
        filled.unwrap()
    }

    /// A batch with all jobs of a process that are due.
    pub(super) fn batch(&self, process: ProcessId) -> BatchNo {
        let batch = self.begin(process);
        self.fill(batch, T);
        batch
    }

    fn adopt(&self) -> Vec<StoredBatch> {
        let adopted = self.store.adopt_batches(self.id, &mut |_| true, &[]);
        adopted.unwrap()
    }

    fn give_back(&self, batch: BatchNo, after: Option<i64>) -> u64 {
        let back = self.store.give_back(self.id, batch, after, T);
        back.unwrap()
    }
}

pub(super) fn inside(store: &Store, batch: BatchNo) -> Vec<ClaimedJob> {
    store
        .batch_jobs(batch, None, usize::MAX, usize::MAX)
        .unwrap()
}

fn batch(store: &Store, no: BatchNo) -> StoredBatch {
    let mut all = store.batches(None).unwrap();
    all.retain(|batch| batch.no == no);
    all.remove(0)
}

pub(super) fn a_batch_takes_what_is_due_up_to_its_size(open: Open<'_>) {
    let db = open();
    let sized = |name: &str, bytes: usize| {
        let text = format!("\"{}\"", "é".repeat((bytes - 2) / 2));
        Job::raw("test", json(&text)).item_id(name)
    };
    let all = vec![
        sized("big", 200),
        sized("a", 10),
        job("of another lane").lane("x"),
        sized("b", 20),
        sized("c", 30),
    ];
    let process = enqueue(db.store(), all);
    enqueue(db.store(), jobs(&["of another process"]));
    db.two
        .insert(process, jobs(&["late"]), true, at(9))
        .unwrap();
    let worker = db.worker();
    let no = worker.begin(process);
    let put = |after, most, bytes| {
        let filled = db
            .two
            .fill_batch(worker.id, no, after, most, bytes, at(5))
            .unwrap();
        let jobs = inside(&db.two, no);
        let names: Vec<String> = named(&jobs).iter().map(|&name| name.to_owned()).collect();
        (filled, names.join(" "))
    };
    let (first, names) = put(None, 9, 100);
    assert_eq!(first.jobs, 1, "one in any case");
    assert_eq!(names, "big");
    let (full, _) = put(first.next, 9, 9);
    assert_eq!(full.jobs, 0, "but only one");
    let (second, names) = put(full.next, 9, 59);
    assert_eq!(second.jobs, 2);
    assert_eq!(names, "big a b");
    let (none, _) = put(second.next, 0, 99);
    assert!(none.jobs == 0 && none.next.is_some());
    let (last, names) = put(none.next, 1, 99);
    assert_eq!((last.jobs, last.next), (1, None));
    assert_eq!(names, "big a b c");
    let counts = db.counts(process);
    assert_eq!((counts.at_provider, counts.pending), (4, 2));
    assert_eq!(counts.total, 6);
    let seen = batch(&db.two, no);
    assert_eq!((seen.jobs, seen.process_id), (4, Some(process)));
    assert_eq!((seen.worker, seen.created_at), (Some(worker.id), T));
    assert_eq!(*seen.lane, lane());
    db.sound();
}

pub(super) fn jobs_of_a_batch_come_with_all_that_was_enqueued(open: Open<'_>) {
    let db = open();
    let process = enqueue(
        db.store(),
        vec![
            job("a").request_hash("hash").priority(7).max_retries(2),
            job("b"),
            job("c"),
        ],
    );
    let worker = db.worker();
    let tried = worker.one();
    worker.settle(tried.receipt, retry(T, 0));
    let no = worker.batch(process);
    let all = inside(&db.two, no);
    assert_eq!(named(&all), ["a", "b", "c"]);
    let first = &all[0];
    assert_eq!((first.job_id, first.process_id), (tried.job_id, process));
    assert_eq!(first.request_hash.as_deref(), Some("hash"));
    assert_eq!((first.priority, first.max_retries), (7, Some(2)));
    assert_eq!((first.attempt, first.calls, first.in_doubt), (2, 1, true));
    assert!(first.history.as_ref().unwrap().contains("reset"));
    assert_eq!(first.payload.get(), "{\"a\": 1}");
    assert_eq!((first.due_at, &*first.lane), (T, &lane()));
    assert!(first.receipt.claim > tried.receipt.claim);
    let numbers: Vec<u32> = all.iter().map(|job| job.receipt.number()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let behind = |after, most, bytes| {
        let jobs = db.two.batch_jobs(no, after, most, bytes).unwrap();
        jobs.len()
    };
    let size = first.payload.get().len();
    assert_eq!(behind(None, 9, 0), 1, "one at least");
    assert_eq!(behind(None, 9, 2 * size), 2);
    assert_eq!(behind(Some(first.receipt.job), 9, 9 * size), 2);
    assert_eq!(behind(None, 2, 9 * size), 2);
    worker.settle(all[1].receipt, completed());
    let found = db.two.batch_jobs_by(no, &[2, 77, 1, 0]).unwrap();
    assert_eq!(named(&found), ["c", "a"], "those that are still in it");
    assert!(db.two.batch_jobs_by(BatchNo(99), &[0]).unwrap().is_empty());
    let shown = db.two.job(first.job_id).unwrap().unwrap();
    assert_eq!((shown.status, shown.due_at), (JobStatus::InProgress, None));
}

pub(super) fn a_batch_outlives_its_owner(open: Open<'_>) {
    for dies in [true, false] {
        let mut db = open();
        let process = enqueue(db.store(), jobs(&["a", "b", "c"]));
        let owner = db.worker();
        let (owned, empty) = (owner.batch(process), owner.begin(process));
        let saved = db.two.save_batch(owner.id, owned, "sent");
        saved.unwrap();
        let old = inside(&db.two, owned);
        let heir = Hand::new(&db.two);
        assert!(heir.adopt().is_empty(), "its owner lives");
        let id = owner.id;
        if dies {
            db.one = None;
            assert_eq!(db.two.reclaim(T).unwrap(), 0, "no job ran");
        } else {
            db.store().unregister_worker(id, T).unwrap();
        }
        let free = batch(&db.two, owned);
        assert_eq!((free.worker, free.jobs), (None, 3));
        assert_eq!(db.counts(process).at_provider, 3);
        is_lost(db.two.save_batch(id, owned, "late"));
        is_refused(db.two.adopt_batches(id, &mut |_| true, &[]));
        is_refused(db.two.open_batch(id, process, &lane(), "", T));
        let slow = Hand::new(&db.two);
        let mut slower = |batch: &StoredBatch| {
            let mut one = |other: &StoredBatch| other.no == batch.no && batch.no == empty;
            let quick = db.two.adopt_batches(heir.id, &mut one, &[]).unwrap();
            !quick.is_empty()
        };
        let late = db.two.adopt_batches(slow.id, &mut slower, &[]);
        assert!(late.unwrap().is_empty(), "another one was quicker");
        let mut asked = Vec::new();
        let mut mine = |batch: &StoredBatch| {
            asked.push(batch.no);
            batch.record == "sent"
        };
        let adopt = db.two.adopt_batches(heir.id, &mut mine, &[process]);
        let adopted = adopt.unwrap();
        assert_eq!(asked, [owned], "those that nobody has");
        assert_eq!((adopted.len(), adopted[0].worker), (1, Some(heir.id)));
        let others = [ProcessId::new()];
        let none = db.two.adopt_batches(heir.id, &mut |_| true, &others);
        assert!(none.unwrap().is_empty());
        db.two.unregister_worker(heir.id, T).unwrap();
        let both: Vec<BatchNo> = slow.adopt().iter().map(|batch| batch.no).collect();
        assert_eq!(both, [owned, empty], "oldest first");
        let jobs = inside(&db.two, owned);
        assert!(jobs.iter().all(|job| job.crashes == 0 && !job.lost));
        assert_eq!(heir.settle(old[0].receipt, completed()).len(), 1);
        assert_eq!(db.counts(process).completed, 1);
        db.sound();
    }
}

pub(super) fn a_batch_outlives_its_process(open: Open<'_>) {
    for chunks in [0, 1, 9] {
        let mut db = open();
        let process = enqueue(db.store(), jobs(&["a", "b", "c"]));
        let owner = db.worker();
        let no = owner.batch(process);
        let job = inside(&db.two, no).remove(0);
        db.abandon_after(chunks);
        let whole = chunks == 9 || !db.abandons();
        assert_eq!(db.store().delete(process, T).is_ok(), whole);
        db.abandon_after(None);
        let seen = batch(&db.two, no);
        assert_eq!((seen.process_id, seen.jobs), (None, 0));
        assert!(seen.is_stopped);
        assert_eq!(*seen.lane, lane());
        assert!(inside(&db.two, no).is_empty());
        assert!(db.two.batch_jobs_by(no, &[0, 1, 2]).unwrap().is_empty());
        assert!(owner.settle(job.receipt, completed()).is_empty());
        assert_eq!(owner.give_back(no, None), 0);
        assert_eq!(owner.fill(no, T), BatchFill::default());
        db.sound();
        db.one = None;
        db.two.reclaim(T).unwrap();
        let heir = Hand::new(&db.two);
        let mut ask = |_: &StoredBatch| true;
        let only = db.two.adopt_batches(heir.id, &mut ask, &[process]);
        assert!(only.unwrap().is_empty());
        assert_eq!(heir.adopt().len(), 1);
        db.two.close_batch(heir.id, no, T).unwrap();
        while db.two.maintain(T).unwrap() {}
        assert!(db.two.batches(None).unwrap().is_empty());
        assert!(db.two.processes().unwrap().is_empty());
        db.sound();
    }
}

pub(super) fn what_is_given_back_keeps_its_place(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c", "d", "e", "f", "g"]));
    db.store()
        .insert(process, jobs(&["later"]), true, at(1))
        .unwrap();
    let worker = db.worker();
    let no = worker.batch(process);
    let all = inside(&db.two, no);
    let (_wake, woken) = count_wakes(db.store());
    // Abandoned after a chunk of two, and gone on with.
    let after = Some(all[1].receipt.job);
    db.abandon_after(1);
    let abandoned = db.store().give_back(worker.id, no, after, T);
    db.abandon_after(None);
    let left = if db.abandons() { 3 } else { 0 };
    db.is_abandoned(abandoned);
    assert_eq!(batch(&db.two, no).jobs, 2 + left);
    assert!(woken.swap(0, Ordering::Relaxed) > 0);
    assert_eq!(worker.give_back(no, after), left);
    assert_eq!(worker.give_back(no, None), 2);
    assert_eq!(worker.give_back(no, None), 0);
    assert!(woken.load(Ordering::Relaxed) > 0);
    let again = worker.claim(99, at(8));
    let names = ["a", "b", "c", "d", "e", "f", "g", "later"];
    assert_eq!(named(&again), names);
    let untried = |job: &ClaimedJob| job.attempt == 0 && job.calls == 0 && job.crashes == 0;
    assert!(again.iter().all(untried));
    for job in &all {
        assert!(worker.settle(job.receipt, failed()).is_empty());
    }
    assert_eq!(batch(&db.two, no).jobs, 0);
    db.sound();
}

pub(super) fn two_never_get_one_job(open: Open<'_>) {
    let db = open();
    let all = (0..400).map(|n| job(&n.to_string())).collect();
    let process = enqueue(db.store(), all);
    let fill = |store: &Store| {
        let hand = Hand::new(store);
        let (no, mut after, mut jobs) = (hand.begin(process), None, 0);
        loop {
            let filled = store.fill_batch(hand.id, no, after, 7, 9_999, T);
            let filled = filled.unwrap();
            jobs += filled.jobs;
            after = filled.next;
            if after.is_none() {
                return jobs;
            }
        }
    };
    let claim = |store: &Store| {
        let (hand, mut jobs) = (Hand::new(store), 0);
        loop {
            let given = hand.claim(5, T);
            if given.is_empty() {
                return jobs;
            }
            for job in given {
                let changed = hand.settle(job.receipt, completed());
                assert_eq!(changed.len(), 1, "somebody else had it");
                jobs += 1;
            }
        }
    };
    let (one, two) = (db.store(), &*db.two);
    let taken = std::thread::scope(|scope| {
        let threads = [
            scope.spawn(move || fill(one)),
            scope.spawn(move || fill(two)),
            scope.spawn(move || claim(one)),
            scope.spawn(move || claim(two)),
        ];
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(taken.iter().sum::<u64>(), 400);
    let counts = db.counts(process);
    assert_eq!(counts.at_provider, taken[0] + taken[1]);
    assert_eq!(counts.completed, taken[2] + taken[3]);
    db.sound();
}
