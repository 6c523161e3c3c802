//! A queue whose files are moved, deleted, replaced or damaged.

#![cfg(unix)]

use std::path::Path;
use std::time::Duration;

use batchwright::{Context, Handler, Job, JobQueue, ProcessId, RunningJob, Worker};
use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, Random, simulator};
use super::job_types::working;
use super::queue::{database, queue, status, submitted};

fn slow(latency: Duration) -> Simulator {
    simulator(SimConfig::default().latency(latency))
}

#[test]
fn a_folder_that_was_moved_away_and_back_loses_nothing() {
    const JOBS: usize = 60;
    let (desk, id) = submitted(JOBS);
    let sim = slow(Duration::from_millis(20));
    let running = working(&desk, &sim, "-j 2 --until-empty");
    assert!(sim.wait_until(|s| s.calls > 5, Duration::from_secs(20)));
    std::fs::rename(desk.path("data"), desk.path("away")).unwrap();
    running.hears("was removed while it was open");
    running.hears("no new jobs start");
    let calls = sim.stats().calls;
    assert!(calls < JOBS as u64);
    std::fs::rename(desk.path("away"), desk.path("data")).unwrap();
    running.wait().expect(0);
    assert_eq!(sim.stats().calls, JOBS as u64);
    assert_eq!(status(&desk, &id.to_string())[0]["completed"], JOBS);
}

/// Uses all functions of a queue. The results do not matter, only that each call returns.
fn use_it(path: &Path, id: ProcessId) -> Result<(), batchwright::Error> {
    let queue = JobQueue::open(path)?;
    let _ = queue.check();
    let _ = queue.open_processes();
    let _ = queue.get_results(id).take(2_000).count();
    let ctx = Context::new().with_timeout(Duration::from_millis(300));
    let handler = Handler::new(|_: &RunningJob, _: &Context| Ok(1));
    let worker = Worker::new(&queue)
        .context(&ctx)
        .until_empty(true)
        .handle("count", handler);
    let _ = worker.run();
    let _ = queue.enqueue(id, [Job::new("count", &1)?]);
    let _ = queue.cancel(id);
    let _ = queue.retry_failed(id);
    let _ = queue.consume(id, |_| Ok::<_, batchwright::Error>(()));
    let _ = queue.delete(id);
    Ok(())
}

fn damage(rounds: u64) {
    let desk = Desk::new();
    let id = ProcessId::new();
    {
        let queue = queue(&desk);
        let job = |i: usize| {
            let job = Job::new("count", &"x".repeat(i % 3_000)).unwrap();
            job.item_id(format!("i-{i}"))
        };
        queue
            .enqueue(id, (0..300).map(job).collect::<Vec<_>>())
            .unwrap();
        queue.enqueue(ProcessId::new(), [job(1)]).unwrap();
        queue.cancel(id).unwrap();
        queue.retry_failed(id).unwrap();
    }
    let sound = std::fs::read(database(&desk)).unwrap();
    let mut refused = 0;
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut bytes = sound.clone();
        match seed % 4 {
            0 => bytes.truncate(random.below(sound.len() as u64) as usize),
            1 => {
                // A page with other contents.
                let page = 1 + random.below(sound.len() as u64 / 4096 - 1) as usize;
                bytes[page * 4096..(page + 1) * 4096].fill(random.below(256) as u8);
            }
            kind => {
                for _ in 0..if kind == 2 { 4 } else { 200 } {
                    let at = 100 + random.below(sound.len() as u64 - 100) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
            }
        }
        let folder = desk.path(&format!("damaged-{seed}"));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("llm_jobs.db");
        std::fs::write(&path, bytes).unwrap();
        println!("seed {seed}");
        if let Err(error) = use_it(&path, id) {
            assert!(error.message().contains("llm_jobs.db"), "{error}");
            refused += 1;
        }
    }
    assert!(refused < rounds);
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    damage(12);
}

#[test]
#[ignore = "a minute"]
fn many_damaged_files_are_errors_and_never_panics() {
    damage(400);
}

#[test]
fn jobs_of_a_worker_that_died_without_its_lock_file_are_taken_over() {
    let (desk, id) = submitted(2);
    let sim = slow(Duration::from_millis(300));
    let first = working(&desk, &sim, "-j 2");
    assert!(sim.wait_until(|s| s.in_flight == 2, Duration::from_secs(20)));
    std::fs::remove_dir_all(desk.path("data/llm_jobs.db.workers")).unwrap();
    drop(first);
    working(&desk, &sim, "--until-empty").wait().expect(0);
    assert_eq!(status(&desk, &id.to_string())[0]["completed"], 2);
}
