//! Workers that crash or are suspended at random moments: every job ends once, and is billed again only if it was
//! in flight when its worker crashed.

#![cfg(unix)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use batchwright::queue::JobStatus;
use batchwright::{Job, JobQueue, ProcessId, Request};
use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, HOME, PATIENCE, Random, Running, eventually, simulator};

const SLOTS: u64 = 8;

fn queue(desk: &Desk) -> JobQueue {
    JobQueue::open(&desk.path(HOME).join("llm_jobs.db")).unwrap()
}

fn enqueue(queue: &JobQueue, jobs: usize) -> ProcessId {
    let process = ProcessId::new();
    let job = |i: usize| Job::from(Request::new(format!("prompt {i}")).with_id(format!("i-{i}")));
    let added = queue.enqueue_iter(process, (0..jobs).map(job));
    assert_eq!(added.unwrap(), jobs as u64);
    process
}

fn work(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    let url = sim.base_url();
    let fixed =
        format!("work --provider local --base-url {url} --model sim-1 -q -j {SLOTS} {words}");
    Running::start(&mut desk.command(fixed.split_whitespace()))
}

/// Every job of the process is completed, each item once.
fn all_done(queue: &JobQueue, process: ProcessId, jobs: usize) {
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(counts.completed, jobs as u64, "{counts:?}");
    assert_eq!(counts.total, jobs as u64, "{counts:?}");
    let mut seen = HashMap::new();
    let consumed = queue.consume(process, |results| {
        for result in results {
            assert_eq!(result.status, JobStatus::Completed, "{result:?}");
            *seen.entry(result.item_id.clone().unwrap()).or_insert(0) += 1;
        }
        Ok::<(), batchwright::Error>(())
    });
    assert_eq!(consumed.unwrap(), jobs as u64);
    assert_eq!(seen.len(), jobs);
    assert!(seen.values().all(|times| *times == 1));
}

/// Two workers, one of which at a time is killed or suspended, at moments that the seed determines.
fn chaos(seed: u64, jobs: usize, blows: u64) {
    let mut random = Random(seed);
    let desk = Desk::new();
    let few = Duration::from_millis(20);
    let sim = simulator(SimConfig::default().latency(few).jitter(few).seed(seed));
    let queue = queue(&desk);
    let process = enqueue(&queue, jobs);
    let mut workers = [work(&desk, &sim, ""), work(&desk, &sim, "")];
    let mut kills = 0;
    for blow in 0..blows {
        let until = sim.stats().calls + random.below(jobs as u64 / blows) + 1;
        sim.wait_until(|s| s.calls > until || s.calls >= jobs as u64, PATIENCE);
        std::thread::sleep(Duration::from_micros(random.below(5000)));
        let at = random.below(2) as usize;
        if random.below(4) == 0 {
            // A suspended worker keeps its jobs.
            workers[at].signal("STOP");
            // Sometimes for longer than it takes to detect a crashed worker.
            let most = if random.below(8) == 0 { 2000 } else { 100 };
            std::thread::sleep(Duration::from_millis(random.below(most)));
            workers[at].signal("CONT");
        } else {
            workers[at].signal("KILL");
            workers[at] = work(&desk, &sim, "");
            kills += 1;
        }
        let counts = queue.process(process).unwrap().unwrap().counts;
        let sum = counts.pending + counts.in_progress + counts.finished() + counts.at_provider;
        assert_eq!(sum, counts.total, "seed {seed}, blow {blow}: {counts:?}");
        assert_eq!(counts.failed, 0, "seed {seed}, blow {blow}");
    }
    let finished = || {
        queue
            .process(process)
            .unwrap()
            .unwrap()
            .counts
            .is_finished()
    };
    let end = Instant::now() + 2 * PATIENCE;
    while !finished() {
        assert!(Instant::now() < end, "seed {seed}: it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(workers);
    all_done(&queue, process, jobs);
    let stats = sim.stats();
    let most = kills * SLOTS;
    assert!(
        stats.paid_twice <= most,
        "seed {seed}: {kills} kills, {stats:?}"
    );
    assert_eq!(stats.calls, jobs as u64 + stats.paid_twice, "seed {seed}");
}

#[test]
fn killed_and_suspended_workers_finish_every_job_once() {
    chaos(1, 600, 12);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_kills_and_suspensions_lose_no_job() {
    chaos(2, 5000, 100);
    chaos(3, 5000, 100);
}

#[test]
fn a_suspended_worker_keeps_its_jobs() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let queue = queue(&desk);
    let process = enqueue(&queue, SLOTS as usize);
    sim.hold();
    let sleeper = work(&desk, &sim, "");
    assert!(sim.wait_until(|s| s.calls == SLOTS, PATIENCE));
    sleeper.signal("STOP");
    let stat = format!("/proc/{}/stat", sleeper.child.id());
    assert!(eventually(
        || std::fs::read_to_string(&stat).is_ok_and(|s| s.contains(") T "))
    ));
    sim.release();
    // Another one finds no work, for longer than it takes to detect a crashed worker.
    work(&desk, &sim, "--until-empty").wait().expect(0);
    std::thread::sleep(Duration::from_millis(1500));
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(counts.in_progress, SLOTS);
    sleeper.signal("CONT");
    assert!(eventually(|| queue
        .process(process)
        .unwrap()
        .unwrap()
        .counts
        .is_finished()));
    sleeper.signal("TERM");
    sleeper.wait().expect(0);
    assert_eq!(sim.stats().calls, SLOTS);
    all_done(&queue, process, SLOTS as usize);
}
