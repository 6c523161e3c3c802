//! A queue on a disk that fills up, if the test may mount a small one.

#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::queue::{WorkerScale, WorkerSettings};
use batchwright::{Context, Error, Handler, Job, ProcessId, Progress, RunningJob, Worker};
use parking_lot::Mutex;

use super::common::{Running, SmallDisk, eventually, simulator};
use super::queue::{adds_up, database, on_queue, plain, queue, status, submit};

const KIND: &str = "long";

fn jobs(n: usize) -> Vec<Job> {
    let job = |i: usize| Job::new(KIND, &i).unwrap().item_id(format!("i-{i}"));
    (0..n).map(job).collect()
}

/// Results that soon fill a disk, and the number of calls.
fn long(calls: &Arc<AtomicUsize>) -> Handler {
    let calls = calls.clone();
    Handler::new(move |_: &RunningJob, _: &Context| {
        calls.fetch_add(1, Ordering::SeqCst);
        Ok("x".repeat(8_000))
    })
}

/// The last problem that a worker reported.
fn listen(worker: Worker) -> (Worker, Arc<Mutex<Option<String>>>) {
    let trouble = Arc::new(Mutex::new(None));
    let heard = trouble.clone();
    let hear = move |progress: &Progress| heard.lock().clone_from(&progress.trouble);
    (worker.notifier(Arc::new(hear)), trouble)
}

fn hears_of_full_disk(trouble: &Mutex<Option<String>>) -> bool {
    let full = |text: &String| text.contains("the disk is full");
    eventually(|| trouble.lock().as_ref().is_some_and(full))
}

#[test]
fn submit_reports_a_full_disk_and_leaves_no_jobs() {
    // The shared-memory file does not fit, the log does not fit, or the prompts do not fit.
    for room in [24, 60, 200] {
        let Some(disk) = SmallDisk::new("data", 2048) else {
            return;
        };
        let desk = &disk.desk;
        desk.prompts("in.jsonl", 4_000);
        disk.leave(room);
        let ended = plain(desk, "submit in.jsonl").expect(1);
        assert_eq!(ended.stdout, "");
        ended.says("the disk is full").says("free some room");
        disk.make_room();
        assert!(status(desk, "").is_empty());
        submit(desk, "in.jsonl");
        assert_eq!(status(desk, "")[0]["pending"], 4_000);
    }
}

#[test]
fn the_program_reports_a_full_disk_and_nothing_is_billed_twice() {
    let Some(disk) = SmallDisk::new("data", 16384) else {
        return;
    };
    let desk = &disk.desk;
    let sim = simulator(batchwright_simulate::SimConfig::default().answer("x".repeat(8_000)));
    const JOBS: usize = 200;
    desk.prompts("in.jsonl", JOBS);
    submit(desk, "in.jsonl");
    disk.leave(400);
    let url = sim.base_url();
    let words = format!("work --provider local --base-url {url} --model sim-1 -j 3 --until-empty");
    let running = Running::start(&mut on_queue(desk, &words));
    running.hears("the disk is full");
    running.hears("no new jobs start until it works");
    let calls = sim.stats().calls;
    let [now] = &status(desk, "")[..] else {
        panic!()
    };
    adds_up(now);
    let saved = now["completed"].as_u64().unwrap();
    assert!(
        calls < JOBS as u64 && calls <= saved + 3,
        "{calls}, {saved}"
    );
    disk.make_room();
    running.wait().expect(0);
    assert_eq!(sim.stats().calls, JOBS as u64);
    assert_eq!(status(desk, "")[0]["completed"], JOBS);
}

#[test]
fn a_worker_that_ends_on_a_full_disk_keeps_no_job_from_the_next_one_of_its_process() {
    let Some(disk) = SmallDisk::new("data", 16384) else {
        return;
    };
    let queue = queue(&disk.desk);
    let process = ProcessId::new();
    const JOBS: usize = 100;
    queue.enqueue(process, jobs(JOBS)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let worker = || {
        Worker::new(&queue)
            .context(&Context::new().with_grace(Duration::ZERO))
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(2)))
            .until_empty(true)
            .handle(KIND, long(&calls))
    };
    disk.leave(200);
    let (first, trouble) = listen(worker());
    let running = first.start().unwrap();
    assert!(hears_of_full_disk(&trouble));
    let report = running.stop().unwrap();
    let unsaved = report.unsaved.len();
    // Zero, if copying the log has freed some space meanwhile.
    assert!(unsaved <= 2, "{unsaved}");
    let counts = queue.process(process).unwrap().unwrap().counts;
    let open = counts.pending + counts.in_progress;
    assert!(open >= unsaved as u64, "{counts:?}");
    assert_eq!(open + counts.completed, JOBS as u64, "{counts:?}");
    disk.make_room();
    worker().run().unwrap();
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(counts.completed, JOBS as u64, "{counts:?}");
    assert_eq!(calls.load(Ordering::SeqCst), JOBS + unsaved);
    for result in queue.get_results(process) {
        let id = result.unwrap().job_id;
        assert_eq!(queue.job(id).unwrap().unwrap().crashes, 0);
    }
}

#[test]
fn unfinished_changes_wait_for_free_space() {
    let Some(disk) = SmallDisk::new("data", 16384) else {
        return;
    };
    let queue = queue(&disk.desk);
    let process = ProcessId::new();
    let broken = jobs(4_000).into_iter().map(Ok).chain([Err("the end")]);
    assert!(queue.try_enqueue_iter(process, broken).is_err());
    // As if the command had crashed directly after it completed the submission.
    let conn = rusqlite::Connection::open(database(&disk.desk)).unwrap();
    conn.execute("UPDATE processes SET chore = 1, sealed = total", [])
        .unwrap();
    drop(conn);
    let worker = Worker::new(&queue).until_empty(true);
    let (worker, trouble) = listen(worker);
    disk.leave(64);
    let running = worker.start().unwrap();
    assert!(hears_of_full_disk(&trouble));
    disk.make_room();
    let report = running.join().unwrap();
    assert!(report.stop.is_none(), "{:?}", report.stop);
    let quick = Handler::new(|_: &RunningJob, _: &Context| Ok::<_, Error>(1));
    Worker::new(&queue)
        .until_empty(true)
        .handle(KIND, quick)
        .run()
        .unwrap();
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(counts.completed, 4_000);
}

/// Only what frees the space waits for space; the answer does not.
#[test]
fn a_process_is_deleted_on_a_full_disk() {
    let Some(disk) = SmallDisk::new("data", 16384) else {
        return;
    };
    let queue = queue(&disk.desk);
    let process = ProcessId::new();
    queue.enqueue_iter(process, jobs(4_000)).unwrap();
    disk.leave(64);
    assert_eq!(queue.delete(process).unwrap(), 4_000);
    assert!(queue.process(process).unwrap().is_none());
    disk.make_room();
    Worker::new(&queue).until_empty(true).run().unwrap();
    let conn = rusqlite::Connection::open(database(&disk.desk)).unwrap();
    let left: i64 = conn
        .query_row("SELECT count(*) FROM jobs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}
