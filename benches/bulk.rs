//! Whole runs: the engine alone by concurrency, and against a provider on loopback beside a bare
//! loop of threads over the same libraries.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::thread;
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

/// The same calls without an engine: nothing is retried, limited or counted.
fn bare_loop(agent: &ureq::Agent, url: &str) -> usize {
    let (to_workers, tasks) = crossbeam_channel::bounded::<usize>(2 * CONNECTIONS);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let tasks = tasks.clone();
                scope.spawn(move || {
                    let answered = |i: &usize| !bare_call(agent, url, *i).is_empty();
                    tasks.iter().filter(answered).count()
                })
            })
            .collect();
        (0..ITEMS).for_each(|i| to_workers.send(i).expect("the workers are there"));
        drop(to_workers);
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no call panics"))
            .sum()
    })
}

fn bare_call(agent: &ureq::Agent, url: &str, i: usize) -> String {
    let message = serde_json::json!({"role": "user", "content": format!("prompt {i}")});
    let body = serde_json::json!({"model": "sim-1", "messages": [message]}).to_string();
    let mut reply = agent
        .post(url)
        .header("content-type", "application/json")
        .send(body.as_str())
        .expect("loopback answers");
    let bytes = reply.body_mut().read_to_vec().expect("the body is whole");
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("the body is JSON");
    let text = value["choices"][0]["message"]["content"].as_str();
    text.expect("there is an answer").to_owned()
}

fn loopback(c: &mut Criterion) {
    let mut group = c.benchmark_group("loopback");
    group
        .throughput(Throughput::Elements(ITEMS as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    let sim = Simulator::start(SimConfig::default().track(false)).expect("a free port");
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
    // Sizes as in the crate's own transport, so that only the engine differs.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .proxy(None)
        .input_buffer_size(16 * 1024)
        .output_buffer_size(16 * 1024)
        .max_idle_connections(CONNECTIONS)
        .max_idle_connections_per_host(CONNECTIONS)
        .build()
        .into();
    let url = format!("{}/chat/completions", sim.base_url());
    group.bench_function("bare loop", |b| {
        b.iter(|| assert_eq!(bare_loop(&agent, &url), ITEMS));
    });
    group.finish();
}

criterion_group!(benches, engine, loopback);
criterion_main!(benches);
