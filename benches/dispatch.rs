//! What the engine costs per item when the calls cost nothing: plain, with a retry of every item,
//! and with many quotas of which one is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batchwright::client::{QuotaKey, Sent};
use batchwright::{
    Bulk, Context, Error, ErrorKind, LlmClient, Request, Response, RetryPolicy, Route, client_fn,
};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};

const ITEMS: usize = 100_000;
const CONCURRENCY: usize = 8;
const QUOTAS: usize = 16;

fn at_once() -> RetryPolicy {
    RetryPolicy::default().base_delay(Duration::ZERO)
}

fn answer() -> Result<Response, Error> {
    Ok(Response::new("none", ""))
}

fn run(route: Route<'_>, requests: &[Request]) {
    let outcomes = Bulk::new(route)
        .concurrency(CONCURRENCY)
        .collect(requests)
        .expect("nothing stops this run");
    assert!(outcomes.iter().all(|outcome| outcome.is_success()));
}

fn returns_at_once(group: &mut BenchmarkGroup<'_, WallTime>) {
    let requests = vec![Request::new("x"); ITEMS];
    let client = client_fn(|_: &Request, _: &Context| answer());
    group.bench_function("returns at once", |b| {
        b.iter(|| run(Route::new(&client), &requests));
    });
}

fn fails_once(group: &mut BenchmarkGroup<'_, WallTime>) {
    let requests: Vec<_> = (0..ITEMS)
        .map(|i| Request::new("x").with_id(i.to_string()))
        .collect();
    // An item is called twice a run, so after each run every flag is down again.
    let failed: Vec<AtomicBool> = (0..ITEMS).map(|_| AtomicBool::new(false)).collect();
    let client = client_fn(|request: &Request, _: &Context| {
        let id = request.id.as_ref().and_then(|id| id.parse::<usize>().ok());
        if failed[id.expect("ids are numbers")].fetch_xor(true, Ordering::Relaxed) {
            answer()
        } else {
            Err(Error::new(ErrorKind::Transient, "once").with_sent(Sent::Answered))
        }
    });
    group.bench_function("fails once", |b| {
        b.iter(|| run(Route::new(&client).retry(at_once()), &requests));
    });
}

/// Each model has a quota of its own; the first call of the first model is refused.
struct Tenants(AtomicBool);

impl LlmClient for Tenants {
    fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
        if request.model.as_deref() == Some("m0") && !self.0.swap(true, Ordering::Relaxed) {
            let refused = Error::new(ErrorKind::RateLimited, "slow down");
            return Err(refused
                .with_sent(Sent::Answered)
                // Shorter than the run, so that it is the engine that is measured, not the wait.
                .with_retry_after(Some(Duration::from_millis(20))));
        }
        answer()
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        QuotaKey::new(&[request.model.as_deref().unwrap_or_default()])
    }
}

fn one_of_many_paused(group: &mut BenchmarkGroup<'_, WallTime>) {
    let requests: Vec<_> = (0..ITEMS)
        .map(|i| Request::new("x").with_model(format!("m{}", i % QUOTAS)))
        .collect();
    for (name, refuses) in [("16 quotas", false), ("16 quotas, one paused", true)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let client = Tenants(AtomicBool::new(!refuses));
                run(Route::new(&client).retry(at_once()), &requests);
            });
        });
    }
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    group
        .throughput(Throughput::Elements(ITEMS as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    returns_at_once(&mut group);
    fails_once(&mut group);
    one_of_many_paused(&mut group);
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
