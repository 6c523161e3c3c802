//! Workers that are told of work through Redis. `scripts/with-servers` brings the servers; without them these tests say
//! that they were skipped.

use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;

use super::Tables;
use crate::base::{Context, ProcessId};
use crate::hub::{RedisHub, RedisOptions};
use crate::queue::handler::{Handler, RunningJob};
use crate::queue::host::JobQueue;
use crate::queue::job::Job;
use crate::queue::scale::WorkerScale;
use crate::queue::settings::WorkerSettings;
use crate::queue::store::StoreDatabase;
use crate::queue::store::mysql::MysqlStore;
use crate::queue::worker::Worker;

const PATIENCE: Duration = Duration::from_secs(180);

/// Where the servers are; `None`, and a line that says so, without them.
fn addresses() -> Option<(String, String)> {
    let mysql = super::address()?;
    let redis = std::env::var("BATCHWRIGHT_TEST_REDIS").ok();
    if redis.is_none() {
        eprintln!("skipped: BATCHWRIGHT_TEST_REDIS names no server; see scripts/with-servers");
    }
    Some((mysql, redis?))
}

/// A store as another machine has it.
fn machine(tables: &Tables, redis: &str) -> (std::sync::Arc<MysqlStore>, JobQueue) {
    let hub = RedisHub::new(RedisOptions::new(redis)).unwrap();
    let store = std::sync::Arc::new(tables.open().with_redis(&hub));
    (store.clone(), JobQueue::on(store))
}

fn await_hearing(store: &MysqlStore) {
    let began = Instant::now();
    while !store.hears_others() {
        store.version().unwrap();
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_elsewhere_begins_at_once_with_what_was_enqueued() {
    let Some((mysql, redis)) = addresses() else {
        return;
    };
    let tables = Tables::new(mysql);
    let (_, here) = machine(&tables, &redis);
    let (store, there) = machine(&tables, &redis);
    let (begun, begins) = unbounded();
    let handler = Handler::new(move |_: &RunningJob, _: &Context| {
        begun.send(Instant::now()).unwrap();
        Ok(())
    });
    let ctx = Context::new();
    // So that nothing but news wakes it.
    let settings = WorkerSettings::default().poll_interval(Duration::from_secs(600));
    let settings = settings.scale(WorkerScale::fixed(2));
    let worker = Worker::new(&there)
        .handle("test", handler)
        .settings(settings)
        .context(&ctx);
    let worker = worker.start().unwrap();
    await_hearing(&store);
    let mut took = Vec::new();
    for _ in 0..40 {
        here.enqueue(ProcessId::new(), [Job::new("test", &1).unwrap()])
            .unwrap();
        let enqueued = Instant::now();
        let began: Instant = begins.recv_timeout(PATIENCE).unwrap();
        took.push(began.saturating_duration_since(enqueued));
    }
    took.sort();
    println!(
        "from the end of enqueue here to the start of the job there: {:?} in the middle, {:?} at most",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    worker.stop().unwrap();
}

#[test]
fn a_version_is_read_again_when_others_have_written_and_only_then() {
    let Some((mysql, redis)) = addresses() else {
        return;
    };
    let tables = Tables::new(mysql);
    let (_, here) = machine(&tables, &redis);
    let (store, there) = machine(&tables, &redis);
    await_hearing(&store);
    let before = store.version().unwrap();
    let mut seen = Some(before);
    let wait = |seen: &mut Option<u64>| there.wait_for_change(seen, PATIENCE / 8);
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || {
            wait(&mut seen);
            seen
        });
        here.enqueue(ProcessId::new(), [Job::new("test", &1).unwrap()])
            .unwrap();
        assert_ne!(waits.join().unwrap(), Some(before));
    });
    assert_ne!(store.version().unwrap(), before);
}
