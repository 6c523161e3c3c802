//! Workers that crash or are suspended at random moments: every job ends once, and is billed again only if it was
//! in flight when its worker crashed.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use batchwright::queue::{JobStatus, Severity};
use batchwright::{Context, Handler, Job, JobQueue, ProcessId, Request, RunningJob, Worker};
use batchwright_simulate::{SimConfig, Simulator};

use super::batch_runs::home_queue;
use super::common::{Desk, PATIENCE, Random, Running, eventually, simulator};
use super::job_types::working;
use super::queue::{database, queue, status, submitted};

const SLOTS: u64 = 8;

fn enqueue(queue: &JobQueue, jobs: usize) -> ProcessId {
    let process = ProcessId::new();
    let job = |i: usize| Job::from(Request::new(format!("prompt {i}")).with_id(format!("i-{i}")));
    queue.enqueue_iter(process, (0..jobs).map(job)).unwrap();
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
    let jobs_of_all = (counts.completed, counts.total);
    assert_eq!(jobs_of_all, (jobs as u64, jobs as u64), "{counts:?}");
    let mut seen = HashSet::new();
    let consumed = queue.consume(process, |results| {
        for result in results {
            assert_eq!(result.status, JobStatus::Completed, "{result:?}");
            assert!(seen.insert(result.item_id.clone()), "{result:?}");
        }
        Ok::<(), batchwright::Error>(())
    });
    assert_eq!((consumed.unwrap(), seen.len()), (jobs as u64, jobs));
}

/// Two workers, one of which at a time is killed or suspended, at moments that the seed determines.
fn chaos(seed: u64, jobs: usize, blows: u64) {
    let mut random = Random(seed);
    let desk = Desk::new();
    let few = Duration::from_millis(20);
    let sim = simulator(SimConfig::default().latency(few).jitter(few).seed(seed));
    let queue = home_queue(&desk);
    let process = enqueue(&queue, jobs);
    let mut workers = [work(&desk, &sim, ""), work(&desk, &sim, "")];
    let counts = || queue.process(process).unwrap().unwrap().counts;
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
        let now = counts();
        let sum = now.pending + now.in_progress + now.finished() + now.at_provider;
        let counted = (sum, now.failed);
        assert_eq!(counted, (now.total, 0), "seed {seed}, blow {blow}: {now:?}");
    }
    let is_finished = || eventually(|| counts().is_finished());
    assert!(is_finished() || is_finished(), "seed {seed}: no end");
    drop(workers);
    all_done(&queue, process, jobs);
    let stats = sim.stats();
    let few = stats.paid_twice <= kills * SLOTS;
    assert!(few, "seed {seed}: {kills} kills, {stats:?}");
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
fn a_second_signal_ends_work_at_once_and_jobs_are_requeued() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let (desk, id) = submitted(6);
        let sim = simulator(SimConfig::default().latency(PATIENCE));
        let running = working(&desk, &sim, "-j 2 --until-empty");
        assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
        running.signal(name);
        running.hears("stopping");
        running.signal(name);
        running.wait().expect(code);
        let counts = queue(&desk).process(id).unwrap().unwrap().counts;
        assert_eq!((counts.pending, counts.in_progress), (6, 0), "{counts:?}");
        for finding in queue(&desk).check().unwrap() {
            assert!(finding.verdict <= Severity::Note, "{finding:?}");
        }
    }
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
    let sound = queue(&desk);
    let job = |i: usize| Job::new("count", &"x".repeat(i % 3_000)).unwrap();
    sound.enqueue_iter(id, (0..300).map(job)).unwrap();
    sound.enqueue(ProcessId::new(), [job(1)]).unwrap();
    sound.cancel(id).unwrap();
    sound.retry_failed(id).unwrap();
    drop(sound);
    let sound = std::fs::read(database(&desk)).unwrap();
    let size = sound.len() as u64;
    let mut refused = 0;
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut bytes = sound.clone();
        match seed % 4 {
            0 => bytes.truncate(random.below(size) as usize),
            1 => {
                // A page with other contents.
                let page = 1 + random.below(size / 4096 - 1) as usize;
                bytes[page * 4096..(page + 1) * 4096].fill(random.below(256) as u8);
            }
            kind => {
                for _ in 0..if kind == 2 { 4 } else { 200 } {
                    bytes[100 + random.below(size - 100) as usize] ^= 1 << random.below(8);
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
    let sim = simulator(SimConfig::default());
    sim.hold();
    let first = working(&desk, &sim, "-j 2");
    assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
    std::fs::remove_dir_all(desk.path("data/llm_jobs.db.workers")).unwrap();
    drop(first);
    sim.release();
    working(&desk, &sim, "--until-empty").wait().expect(0);
    assert_eq!(status(&desk, &id.to_string())[0]["completed"], 2);
}
