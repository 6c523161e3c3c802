//! Commands that are killed in the middle: the next command, or a worker, finishes what they had begun.

#![cfg(unix)]

use std::sync::Arc;
use std::time::Duration;

use batchwright::queue::Severity;
use batchwright::testing::ScriptedClient;
use batchwright::{Job, ProcessId, Request};

use super::common::{Desk, Running};
use super::queue::{adds_up, database, on_queue, plain, queue, status, worker};

fn enqueued(jobs: usize) -> (Desk, ProcessId) {
    let desk = Desk::new();
    let id = ProcessId::new();
    let job = |i: usize| Job::from(Request::new(format!("prompt {i}")).with_id(format!("i-{i}")));
    queue(&desk).enqueue_iter(id, (0..jobs).map(job)).unwrap();
    (desk, id)
}

/// Starts a command and kills it after a while.
fn kill_after(desk: &Desk, words: &str, millis: u64) {
    let running = Running::start(&mut on_queue(desk, words));
    std::thread::sleep(Duration::from_millis(millis));
    drop(running);
    status(desk, "").iter().for_each(adds_up);
    for finding in queue(desk).check().unwrap() {
        assert!(
            finding.verdict < Severity::Bad,
            "{words}, {millis}: {finding:?}"
        );
    }
}

/// The processes whose change is not completed.
fn halfway(desk: &Desk) -> i64 {
    let conn = rusqlite::Connection::open(database(desk)).unwrap();
    let count = "SELECT COUNT(*) FROM processes WHERE chore <> 0";
    conn.query_row(count, [], |row| row.get(0)).unwrap()
}

fn idle_worker(desk: &Desk) {
    let client = Arc::new(ScriptedClient::new());
    worker(desk, &client).run().unwrap();
}

fn killed_in_the_middle(jobs: usize, step: usize) {
    let (desk, id) = enqueued(jobs);
    let total = jobs as u64;
    for millis in (10..150).step_by(step) {
        kill_after(&desk, &format!("cancel {id}"), millis);
        kill_after(&desk, &format!("retry {id}"), millis);
    }
    // Unfinished changes are completed first.
    plain(&desk, &format!("cancel {id}")).expect(0);
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!((counts.cancelled, counts.total), (total, total));
    kill_after(&desk, &format!("retry {id}"), 60);
    plain(&desk, &format!("retry {id}")).expect(0);
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!(counts.pending, total, "{counts:?}");
    kill_after(&desk, &format!("cancel {id}"), 60);
    plain(&desk, &format!("cancel {id}")).expect(0);
    kill_after(&desk, &format!("cancel {id} --delete"), 60);
    idle_worker(&desk);
    if queue(&desk).process(id).unwrap().is_some() {
        plain(&desk, &format!("cancel {id} --delete")).expect(0);
    }
    assert!(queue(&desk).open_processes().unwrap().is_empty());
    assert_eq!(halfway(&desk), 0);
}

#[test]
fn a_command_that_was_killed_is_finished_by_the_next() {
    killed_in_the_middle(5_000, 70);
}

#[test]
#[ignore = "half a minute"]
fn commands_that_were_killed_are_finished_by_the_next() {
    killed_in_the_middle(100_000, 10);
}
