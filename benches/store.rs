//! What the queue's store costs: adding jobs, a claim with its settling, and the whole life of a job.

use std::path::Path;
use std::time::{Duration, SystemTime};

use batchwright::progress::Timestamp;
use batchwright::queue::{SqliteOptions, Store};
use batchwright::unstable::{ClaimOutcome, ClaimRequest, ClaimedJob, Settlement, WorkerId};
use batchwright::{Job, ProcessId};
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use serde_json::value::{RawValue, to_raw_value};
use tempfile::TempDir;

const GROUP: usize = 100;

/// A store in a folder of its own, and a worker on its list.
struct Bench {
    store: Store,
    worker: WorkerId,
    nothing: Box<RawValue>,
    _folder: TempDir,
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn jobs(n: usize) -> Vec<Job> {
    let payload = to_raw_value(&"x".repeat(200)).expect("a string is JSON");
    (0..n).map(|_| Job::raw("noop", payload.clone())).collect()
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = Path::new(folder.path()).join("llm_jobs.db");
        let store = Store::open(&path, SqliteOptions::default()).expect("the file is new");
        Self {
            worker: store.register_worker().expect("the store takes workers"),
            store,
            nothing: to_raw_value(&()).expect("nothing is JSON"),
            _folder: folder,
        }
    }

    fn insert(&self, process: ProcessId, jobs: Vec<Job>) {
        let ids = self.store.insert(process, jobs, true, now());
        ids.expect("there is room");
    }

    fn claim(&self, most: usize) -> Vec<ClaimedJob> {
        let wanted = ClaimRequest {
            most,
            idle: true,
            processes: &[],
            open: &mut |_| (usize::MAX, 1),
        };
        let claims = self.store.claim(self.worker, wanted, now());
        claims.expect("the worker is on the list").jobs
    }

    fn settle(&self, claimed: &[ClaimedJob], outcome: &ClaimOutcome) {
        let end = |job: &ClaimedJob| Settlement {
            charge: None,
            lost: 0,
            receipt: job.receipt,
            calls: 1,
            outcome: outcome.clone(),
        };
        let ends: Vec<_> = claimed.iter().map(end).collect();
        let changed = self.store.settle(&ends, now()).expect("there is room");
        assert!(!changed.is_empty());
    }

    fn completed(&self) -> ClaimOutcome {
        ClaimOutcome::Completed {
            result: self.nothing.clone(),
            spent: None,
        }
    }

    fn consume(&self, process: ProcessId) {
        let found = self.store.peek(process, None, GROUP, usize::MAX);
        let found = found.expect("the store can be read");
        let receipts: Vec<_> = found.iter().map(|delivery| delivery.receipt).collect();
        let deleted = self.store.ack(&receipts, now()).expect("there is room");
        assert_eq!(deleted, GROUP as u64);
    }
}

fn enqueue(group: &mut BenchmarkGroup<'_, WallTime>) {
    let bench = Bench::new();
    let process = ProcessId::new();
    group.bench_function("enqueue", |b| {
        let slice = || jobs(GROUP);
        let add = |jobs| bench.insert(process, jobs);
        b.iter_batched(slice, add, BatchSize::SmallInput);
    });
}

fn claim_and_settle(group: &mut BenchmarkGroup<'_, WallTime>) {
    let bench = Bench::new();
    let process = ProcessId::new();
    let completed = bench.completed();
    group.bench_function("claim and settle", |b| {
        let slice = || bench.insert(process, jobs(GROUP));
        let work = |()| {
            let claimed = bench.claim(GROUP);
            assert_eq!(claimed.len(), GROUP);
            bench.settle(&claimed, &completed);
        };
        b.iter_batched(slice, work, BatchSize::PerIteration);
    });
}

fn full_cycle(group: &mut BenchmarkGroup<'_, WallTime>) {
    let bench = Bench::new();
    let completed = bench.completed();
    group.bench_function("full cycle", |b| {
        let slice = || jobs(GROUP);
        let live = |jobs| {
            let process = ProcessId::new();
            bench.insert(process, jobs);
            let claimed = bench.claim(GROUP);
            assert_eq!(claimed.len(), GROUP);
            bench.settle(&claimed, &completed);
            bench.consume(process);
        };
        b.iter_batched(slice, live, BatchSize::SmallInput);
    });
}

fn groups(c: &mut Criterion) {
    let mut group = c.benchmark_group("store, groups of 100");
    group
        .throughput(Throughput::Elements(GROUP as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    enqueue(&mut group);
    claim_and_settle(&mut group);
    full_cycle(&mut group);
    group.finish();
}

criterion_group!(benches, groups);
criterion_main!(benches);
