//! Batches: what goes into one, and whose it is.

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

    pub(super) fn fill(&self, batch: BatchNo, now: Timestamp) {
        let all = (usize::MAX, u64::MAX);
        let filled = self
            .store
            .fill_batch(self.id, batch, None, all.0, all.1, now);
        filled.unwrap();
    }

    /// A batch with all jobs of a process that are due.
    pub(super) fn batch(&self, process: ProcessId) -> BatchNo {
        let batch = self.begin(process);
        self.fill(batch, T);
        batch
    }
}

pub(super) fn inside(store: &Store, batch: BatchNo) -> Vec<ClaimedJob> {
    let all = store.batch_jobs(batch, None, usize::MAX, usize::MAX);
    all.unwrap()
}

pub(super) fn batch(store: &Store, no: BatchNo) -> StoredBatch {
    let mut all = store.batches(None).unwrap();
    all.retain(|batch| batch.no == no);
    all.remove(0)
}

pub(super) fn a_batch_takes_jobs_up_to_its_bytes(open: Open<'_>) {
    let db = open();
    let sized = |(name, bytes): (&str, usize)| {
        let text = format!("\"{}\"", "é".repeat((bytes - 2) / 2));
        Job::raw("test", json(&text)).item_id(name)
    };
    let all = [("big", 200), ("a", 10), ("b", 20), ("c", 30)].map(sized);
    let process = enqueue(db.store(), all.to_vec());
    let worker = db.worker();
    let (no, mut after) = (worker.begin(process), None);
    for (most, bytes, names) in [
        (9, 100, "big"), // One in any case, but only one.
        (9, 9, "big"),
        (9, 59, "big a b"),
        (0, 99, "big a b"),
        (1, 99, "big a b c"),
    ] {
        let filled = db.two.fill_batch(worker.id, no, after, most, bytes, T);
        after = filled.unwrap().next;
        assert_eq!(named(&inside(&db.two, no)).join(" "), names);
        assert_eq!(after.is_none(), names.ends_with('c'));
    }
    db.sound();
}

pub(super) fn a_batch_has_one_owner(open: Open<'_>) {
    let db = open();
    let process = db.enqueue(&["a", "b", "c"]);
    let owner = db.worker();
    let [quick, slow] = [&db.two, &db.two].map(|store| Hand::new(store));
    let adopt = |by: WorkerId, mine: &mut dyn FnMut(&StoredBatch) -> bool| {
        let adopted = db.two.adopt_batches(by, mine, &[process]).unwrap();
        adopted.iter().map(|batch| batch.no).collect::<Vec<_>>()
    };
    let (owned, empty) = (owner.batch(process), owner.begin(process));
    let job = inside(&db.two, owned).remove(0);
    assert!(adopt(quick.id, &mut |_| true).is_empty(), "its owner lives");
    db.store().unregister_worker(owner.id, T).unwrap();
    is_lost(db.two.save_batch(owner.id, owned, "late"));
    is_refused(db.two.adopt_batches(owner.id, &mut |_| true, &[]));
    is_refused(db.two.open_batch(owner.id, process, &lane(), "", T));
    let mut slower = |batch: &StoredBatch| {
        let mut one = |other: &StoredBatch| other.no == batch.no && batch.no == empty;
        !adopt(quick.id, &mut one).is_empty()
    };
    assert!(
        adopt(slow.id, &mut slower).is_empty(),
        "another one was quicker"
    );
    let mut asked = Vec::new();
    let mut mine = |batch: &StoredBatch| {
        asked.push(batch.no);
        true
    };
    assert_eq!(adopt(slow.id, &mut mine), [owned]);
    assert_eq!(asked, [owned], "those that nobody has");
    assert_eq!(quick.settle(job.receipt, completed()).len(), 1);
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
            let filled = store.fill_batch(hand.id, no, after, 7, 9_999, T).unwrap();
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
        let filling = [one, two].map(|store| scope.spawn(move || fill(store)));
        let claiming = [one, two, one, two].map(|store| scope.spawn(move || claim(store)));
        let filled = filling.map(|thread| thread.join().unwrap());
        let claimed = claiming.map(|thread| thread.join().unwrap());
        [filled.iter().sum::<u64>(), claimed.iter().sum()]
    });
    let counts = db.counts(process);
    assert_eq!([counts.at_provider, counts.completed], taken);
    assert_eq!(taken.iter().sum::<u64>(), 400);
    db.sound();
}
