//! Workers that are told of work through Redis. `scripts/with-servers` brings the servers; without them these tests say
//! that they were skipped.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;

use crate::base::ProcessId;
use crate::queue::host::JobQueue;
use crate::queue::hub::{RedisHub, RedisOptions};
use crate::queue::job::Job;
use crate::queue::store::{Store, WorkSignal};

use super::Tables;

const PATIENCE: Duration = Duration::from_secs(180);

/// A store as another machine has it.
fn machine(tables: &Tables, redis: &str) -> Arc<Store> {
    let hub = RedisHub::new(RedisOptions::new(redis)).unwrap();
    Arc::new(tables.open().with_redis(&hub))
}

#[test]
fn a_worker_elsewhere_hears_of_what_was_enqueued() {
    let (Some(mysql), Some(redis)) = (super::address(), crate::queue::hub::tests::address()) else {
        return;
    };
    let tables = Tables::new(mysql);
    let here = JobQueue::on(machine(&tables, &redis));
    let there = machine(&tables, &redis);
    let (tell, told) = unbounded();
    let signal: Arc<WorkSignal> = Arc::new(move || tell.send(()).unwrap_or_default());
    there.on_work(Arc::downgrade(&signal));
    // It is told once when it begins to listen: there may be work.
    told.recv_timeout(PATIENCE).unwrap();
    for _ in 0..40 {
        let jobs = [Job::new("test", &1).unwrap()];
        here.enqueue(ProcessId::new(), jobs).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
    }
}
