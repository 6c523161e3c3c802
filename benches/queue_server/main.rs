//! Throughput of the queue on a database server, compared with plain SQL on the same server.
//!
//! `scripts/with-servers cargo bench --bench queue_server --features mysql`; benches/README.md says more. Workers are
//! processes of their own. Without a server it measures nothing.

mod delay;
mod plain;

use std::env;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use batchwright::progress::Timestamp;
use batchwright::queue::{MysqlOptions, Store, WorkerScale, WorkerSettings};
use batchwright::unstable::{ClaimOutcome, ClaimRequest, Settlement};
use batchwright::{Handler, Job, JobQueue, ProcessId, Worker};
use serde_json::value::to_raw_value;

/// Jobs per transaction.
const GROUP: usize = 100;
/// Bytes of a job's payload.
const PAYLOAD: usize = 200;
/// Calls in flight of one worker process.
const SLOTS: usize = 100;
/// Duration of a call that is not instant.
const CALL: Duration = Duration::from_millis(20);
/// Interval at which the benchmark counts completed jobs.
const LOOK: Duration = Duration::from_millis(20);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["worker", place, call] => return work(place, call),
        ["plain-worker", address] => return plain::work(address),
        _ => {}
    }
    let Ok(address) = env::var("BATCHWRIGHT_TEST_MYSQL") else {
        eprintln!("skipped: run it within scripts/with-servers");
        return;
    };
    // `cargo test` runs it without `--bench`, to see that it works.
    let scale = if args.contains(&"--bench") { 20 } else { 1 };
    let wanted = args.iter().copied().find(|arg| !arg.starts_with('-'));
    let is_wanted = |part: &str| wanted.is_none_or(|wanted| part.contains(wanted));
    let bench = Bench { address, scale };
    println!("| metric | server | plain SQL | ratio |\n|---|---|---|---|");
    if is_wanted("enqueue") {
        bench.enqueue();
    }
    if is_wanted("cycle") {
        bench.cycles();
    }
    if is_wanted("claim") {
        bench.claims();
    }
}

struct Bench {
    address: String,
    /// Scale of the measurement: 20 for figures, 1 for a smoke test.
    scale: usize,
}

fn jobs(count: usize) -> Vec<Job> {
    let payload = to_raw_value(&"x".repeat(PAYLOAD)).expect("a string is JSON");
    (0..count)
        .map(|_| Job::raw("noop", payload.clone()))
        .collect()
}

fn open(address: &str) -> Arc<Store> {
    Arc::new(Store::on_server(MysqlOptions::new(address)).expect("the server is there"))
}

/// A worker process: it ends when nothing is left.
fn work(place: &str, call: &str) {
    let call = Duration::from_millis(call.parse().expect("a number of milliseconds"));
    let queue = JobQueue::on(open(place));
    let handler = Handler::new(move |_, _| {
        thread::sleep(call);
        Ok(())
    });
    let report = Worker::new(&queue)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(SLOTS)))
        .handle("noop", handler)
        .until_empty(true)
        .run();
    report.expect("the worker runs");
}

fn spawn(args: &[&str]) -> Child {
    let program = env::current_exe().expect("this program has a path");
    Command::new(program)
        .args(args)
        .spawn()
        .expect("it can be started")
}

/// Jobs per second, from the first that `done` reports to the last of `all`.
fn rate(all: u64, done: impl Fn() -> u64) -> f64 {
    let (mut began, mut first) = (None, 0);
    loop {
        let now = done();
        if now >= all {
            let began: Instant = began.unwrap_or_else(Instant::now);
            return (all - first) as f64 / began.elapsed().as_secs_f64().max(0.001);
        }
        if now > 0 && began.is_none() {
            (began, first) = (Some(Instant::now()), now);
        }
        thread::sleep(LOOK);
    }
}

fn row(metric: &str, ours: f64, plain: f64) {
    println!(
        "| {metric} | {ours:.0} | {plain:.0} | {:.2} |",
        ours / plain
    );
}

impl Bench {
    /// The address of a proxy with this delay, with table names that no other measurement uses.
    fn server(&self, delay: Duration) -> String {
        let (user, rest) = self.address.split_once('@').expect("a user and a host");
        let (host, database) = rest.split_once('/').expect("a host and a database");
        let host = if delay.is_zero() {
            host.to_owned()
        } else {
            delay::proxy(host, delay)
        };
        format!("{user}@{host}/{database}")
    }

    /// Number of jobs: fewer if each takes longer.
    fn count(&self, delay: Duration) -> usize {
        let thousands = 2 * self.scale / (1 + 2 * delay.as_millis() as usize);
        thousands.max(1) * 1_000
    }

    fn tables(&self, address: &str) -> String {
        let tables = ProcessId::new().to_string().replace('-', "");
        format!("{address}?tables=q{}", &tables[..20])
    }

    fn enqueue(&self) {
        for delay in [0, 1, 5].map(Duration::from_millis) {
            let count = self.count(delay);
            let address = self.server(delay);
            let store = open(&self.tables(&address));
            let began = Instant::now();
            insert(&store, ProcessId::new(), count, GROUP);
            let ours = count as f64 / began.elapsed().as_secs_f64();
            plain::create(&self.address);
            let began = Instant::now();
            plain::enqueue(&address, count);
            let plain = count as f64 / began.elapsed().as_secs_f64();
            row(
                &format!("enqueue in groups of {GROUP}, jobs/s, {delay:?} each way"),
                ours,
                plain,
            );
        }
    }

    fn cycles(&self) {
        for delay in [0, 1, 5].map(Duration::from_millis) {
            let address = self.server(delay);
            for workers in [1, 2, 4, 8] {
                let plain = self.plain_cycle(&address, workers, self.count(delay));
                for call in [Duration::ZERO, CALL] {
                    let ours = self.cycle(&address, workers, call, self.count(delay));
                    let ideal = (workers * SLOTS) as f64 / call.as_secs_f64();
                    let of = if call.is_zero() { plain } else { ideal };
                    let what = if call.is_zero() { "" } else { " (ideal)" };
                    let metric = format!(
                        "claim, finish{what}, jobs/s, {workers} workers, calls of {call:?}, {delay:?} each way"
                    );
                    row(&metric, ours, of);
                }
            }
        }
    }

    fn cycle(&self, address: &str, workers: usize, call: Duration, count: usize) -> f64 {
        let here = self.tables(&self.address);
        let tables = here.split_once('?').expect("it names tables").1;
        let store = open(&here);
        let process = ProcessId::new();
        insert(&store, process, count, 1_000);
        let place = format!("{address}?{tables}");
        let call = call.as_millis().to_string();
        let workers = (0..workers).map(|_| spawn(&["worker", &place, &call]));
        let workers: Vec<Child> = workers.collect();
        let rate = rate(count as u64, || {
            let state = store.process(process).expect("the server is there");
            state.expect("the process is there").counts.completed
        });
        end(workers);
        rate
    }

    fn plain_cycle(&self, address: &str, workers: usize, count: usize) -> f64 {
        plain::create(&self.address);
        plain::enqueue(&self.address, count);
        let workers = (0..workers).map(|_| spawn(&["plain-worker", address]));
        let workers: Vec<Child> = workers.collect();
        let rate = rate(count as u64, || plain::results(&self.address));
        end(workers);
        rate
    }

    /// Measures a claim of 10 jobs in a queue with this many jobs.
    fn claims(&self) {
        let store = open(&self.tables(&self.address));
        let process = ProcessId::new();
        let mut filled = 0;
        for rows in [10_000, 100_000, 1_000_000].map(|rows| rows / 20 * self.scale) {
            insert(&store, process, rows - filled, 1_000);
            filled = rows;
            let (median, p99) = claim_times(&store, 10 * self.scale);
            println!("| claim of 10 among {rows} jobs, ms | p50 {median:.2}, p99 {p99:.2} | | |");
        }
    }
}

fn insert(store: &Store, process: ProcessId, count: usize, group: usize) {
    for _ in 0..count / group {
        let added = store.insert(process, jobs(group), true, now());
        added.expect("there is room");
    }
}

fn end(workers: Vec<Child>) {
    for mut worker in workers {
        assert!(worker.wait().expect("it was started").success());
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Median and 99th percentile, in milliseconds, of claims. Each claim is released afterwards.
fn claim_times(store: &Store, rounds: usize) -> (f64, f64) {
    let worker = store.register_worker().expect("it takes workers");
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let wanted = ClaimRequest {
                most: 10,
                idle: true,
                processes: &[],
                open: &mut |_| (usize::MAX, 1),
            };
            let began = Instant::now();
            let claimed = store
                .claim(worker, wanted, now())
                .expect("it is listed")
                .jobs;
            let took = began.elapsed().as_secs_f64() * 1_000.0;
            let back = |receipt| Settlement {
                charge: None,
                lost: 0,
                receipt,
                calls: 0,
                outcome: ClaimOutcome::Snooze { due_at: None },
            };
            let back: Vec<_> = claimed.iter().map(|job| back(job.receipt)).collect();
            store.settle(&back, now()).expect("there is room");
            took
        })
        .collect();
    store
        .unregister_worker(worker, now())
        .expect("it is listed");
    times.sort_by(f64::total_cmp);
    (times[rounds / 2], times[rounds * 99 / 100])
}
