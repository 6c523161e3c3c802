//! Whole runs: the engine alone by concurrency, and against a provider on loopback.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Duration;

use batchwright::{
    Bulk, Context, LlmClient, LlmConfig, Request, Response, client_fn, execute_bulk_sync,
};
use batchwright_simulate::{SimConfig, Simulator};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};

const ITEMS: usize = 1_000;
const CONNECTIONS: usize = 32;

fn requests() -> Vec<Request> {
    (0..ITEMS)
        .map(|i| Request::new(format!("prompt {i}")))
        .collect()
}

fn no_op() -> impl LlmClient {
    client_fn(|_: &Request, _: &Context| Ok(Response::new("none", "")))
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("bulk");
    group
        .throughput(Throughput::Elements(ITEMS as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let requests = requests();
    let client = no_op();
    for concurrency in [1, 8, 32] {
        let id = BenchmarkId::new("slice", concurrency);
        group.bench_with_input(id, &concurrency, |b, &concurrency| {
            b.iter(|| {
                execute_bulk_sync(&Context::new(), &client, &requests, concurrency)
                    .expect("nothing stops this run")
            });
        });
        let id = BenchmarkId::new("iterator", concurrency);
        group.bench_with_input(id, &concurrency, |b, &concurrency| {
            b.iter(|| {
                let items = (0..ITEMS).map(|i| Request::new(format!("prompt {i}")));
                let summary = Bulk::new(&client)
                    .concurrency(concurrency)
                    .for_each(items, |outcome| {
                        black_box(outcome);
                        ControlFlow::Continue(())
                    })
                    .expect("nothing stops this run");
                assert_eq!(summary.completed, ITEMS as u64);
            });
        });
    }
    group.finish();
}

fn loopback(c: &mut Criterion) {
    let mut group = c.benchmark_group("loopback");
    group
        .throughput(Throughput::Elements(ITEMS as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    let sim = Simulator::start(SimConfig::default()).expect("a free port");
    let client = LlmConfig::new("local")
        .base_url(sim.base_url())
        .model("sim-1")
        .concurrency(CONNECTIONS)
        .client()
        .expect("a local provider needs nothing else");
    let requests = requests();
    group.bench_function("batchwright", |b| {
        b.iter(|| {
            let outcomes = execute_bulk_sync(&Context::new(), &client, &requests, CONNECTIONS)
                .expect("nothing stops this run");
            assert!(outcomes.iter().all(|outcome| outcome.is_success()));
        });
    });
    group.finish();
}

criterion_group!(benches, engine, loopback);
criterion_main!(benches);
