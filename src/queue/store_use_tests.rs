//! How often a worker uses its store, and what it tells about a store that cannot be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::{Context, Error, ErrorKind, ProcessId};
use crate::engine::limiter::{Limits, QuotaKey};
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::observe::progress::Progress;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobCounts};
use crate::queue::kinds::WorkerSettings;
use crate::queue::scale::WorkerScale;
use crate::queue::store::Store;
use crate::queue::store::sqlite::SqliteOptions;
use crate::queue::worker::Worker;
use crate::testing::ScriptedClient;

/// A queue whose transactions are counted, and fail while the disk is full.
#[derive(Default)]
struct Watched {
    writes: AtomicUsize,
    is_full: AtomicBool,
}

fn watched() -> (JobQueue, Arc<Watched>) {
    watch(Store::in_memory(SqliteOptions::default()).unwrap())
}

fn watch(store: Store) -> (JobQueue, Arc<Watched>) {
    let watched = Arc::<Watched>::default();
    let seen = watched.clone();
    *store.faults.unwritable.lock() = Some(Box::new(move || {
        seen.writes.fetch_add(1, Ordering::SeqCst);
        let is_full = seen.is_full.load(Ordering::SeqCst);
        is_full.then(|| Error::new(ErrorKind::Transient, "the disk is full"))
    }));
    (JobQueue::on(Arc::new(store)), watched)
}

impl Watched {
    fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

fn counts(queue: &JobQueue, process: ProcessId) -> JobCounts {
    queue.process(process).unwrap().unwrap().counts
}

fn prompt(text: &str) -> Job {
    Job::from(Request::new(text).with_id(text))
}

#[track_caller]
fn wait_until(ready: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !ready() {
        assert!(Instant::now() < until, "it does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A scripted client whose calls share a quota.
struct Metered(Arc<ScriptedClient>);

impl LlmClient for Metered {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        self.0.complete(request, ctx)
    }
    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&["metered"])
    }
}

#[test]
fn an_idle_worker_leaves_the_store_alone() {
    let (queue, watched) = watched();
    let running = Worker::new(&queue)
        .completions(Route::new(Arc::new(ScriptedClient::new())))
        .settings(WorkerSettings::default().poll_interval(Duration::from_secs(3600)))
        .start()
        .unwrap();
    wait_until(|| watched.writes() > 1);
    let before = watched.writes();
    thread::sleep(Duration::from_millis(700));
    let writes = watched.writes() - before;
    assert!(writes <= 3, "{writes} although nothing was to be had");
    // The worker still wakes immediately.
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("x")]).unwrap();
    wait_until(|| counts(&queue, process).completed == 1);
    running.stop().unwrap();
}

#[test]
fn jobs_above_the_capacity_of_a_provider_stay_in_the_queue() {
    let (queue, watched) = watched();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    let jobs: Vec<Job> = (0..20).map(|n| prompt(&n.to_string())).collect();
    queue.enqueue(process, jobs).unwrap();
    let one = Limits::default().in_flight(1);
    let running = Worker::new(&queue)
        .completions(Route::limited(Metered(client.clone()), one))
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(8)))
        .start()
        .unwrap();
    assert!(client.wait_for_calls(1));
    let before = watched.writes();
    thread::sleep(Duration::from_millis(1300));
    let claimed = counts(&queue, process).in_progress;
    assert_eq!(claimed, 1, "one call has room");
    let writes = watched.writes() - before;
    assert!(writes < 20, "{writes} transactions while nothing had room");
    assert_eq!(queue.cancel(process).unwrap(), 19);
    client.release();
    wait_until(|| counts(&queue, process).is_finished());
    running.stop().unwrap();
    assert_eq!(client.calls().len(), 1, "nothing is sent after a cancel");
}

/// A worker waits for its limit, and meanwhile others write again and again, as workers of other machines do.
#[test]
fn a_worker_that_waits_for_its_limit_claims_nothing_when_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let open = || Store::open(&path, SqliteOptions::default()).unwrap();
    let (queue, watched) = watch(open());
    let others = JobQueue::on(Arc::new(open()));
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("a"), prompt("b")]).unwrap();
    let client = Arc::new(ScriptedClient::new());
    let limits = Limits::default().requests_per_minute(1.0).burst(1).known();
    let running = Worker::new(&queue)
        .completions(Route::limited(Metered(client.clone()), limits))
        .start()
        .unwrap();
    wait_until(|| counts(&queue, process).completed == 1);
    let before = watched.writes();
    for n in 0..20 {
        let info = ProcessInfo::new().name(n.to_string());
        others.describe(process, &info).unwrap();
        thread::sleep(Duration::from_millis(60));
    }
    let claims = watched.writes() - before;
    assert!(claims < 10, "{claims} while no call could start");
    running.stop().unwrap();
    assert_eq!(client.calls().len(), 1);
}

#[test]
fn store_failures_are_reported_and_cleared() {
    let (queue, watched) = watched();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("x")]).unwrap();
    let told: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let seen = told.clone();
    let notifier = move |progress: &Progress| seen.lock().push(progress.trouble.clone());
    let running = Worker::new(&queue)
        .completions(Route::new(client.clone()))
        .notifier(Arc::new(notifier))
        .start()
        .unwrap();
    assert!(client.wait_for_calls(1));
    watched.is_full.store(true, Ordering::SeqCst);
    client.release();
    let last = || told.lock().last().cloned().flatten();
    wait_until(|| last().as_deref() == Some("the disk is full"));
    watched.is_full.store(false, Ordering::SeqCst);
    wait_until(|| last().is_none());
    wait_until(|| counts(&queue, process).completed == 1);
    running.stop().unwrap();
}
