//! Quotas, providers that are unavailable for a while, and signals, through `batchwright work`.

#![cfg(unix)]

use std::process::Stdio;
use std::time::Duration;

use batchwright::queue::JobStatus;
use batchwright::{Job, ProcessId, Request};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::{Desk, NOBODY, RunToEnd, Running, eventually, good, simulator};
use super::queue::{database, on_queue, queue, status, submitted};

fn working(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    let url = sim.base_url();
    let words = format!("work --provider local --base-url {url} {words}");
    Running::start(&mut on_queue(desk, &words))
}

/// Number of claims of all jobs, and the maximum of a single job.
fn claims(desk: &Desk) -> (i64, i64) {
    let conn = rusqlite::Connection::open(database(desk)).unwrap();
    let sql = "SELECT sum(claim), max(claim) FROM jobs";
    conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
}

#[test]
fn waiting_for_quota_uses_no_attempt_and_claims_no_further_jobs() {
    const JOBS: usize = 40;
    let (desk, id) = submitted(JOBS);
    let sim = good();
    working(&desk, &sim, "--model sim-1 -j 8 --rpm 1500 --until-empty")
        .wait()
        .expect(0);
    for result in queue(&desk).get_results(id) {
        let result = result.unwrap();
        assert_eq!(result.status, JobStatus::Completed);
        assert_eq!(result.attempts, 1);
    }
    let (sum, most) = claims(&desk);
    assert!(
        sum <= JOBS as i64 + 16 && most <= 4,
        "{sum} claims, {most} of one"
    );
}

#[test]
fn many_rate_limited_calls_fail_no_job() {
    const JOBS: usize = 60;
    let (desk, id) = submitted(JOBS);
    let storm = SimConfig::default()
        .trouble(Trouble::RateLimit, 0.4)
        .retry_after(Duration::from_millis(20));
    let sim = simulator(storm);
    working(&desk, &sim, "--model sim-1 -j 8 --until-empty")
        .wait()
        .expect(0);
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!(counts.completed, JOBS as u64, "{counts:?}");
    let (sum, _) = claims(&desk);
    let refused = sim.stats().calls as i64 - JOBS as i64;
    assert!(
        refused > 0 && sum <= JOBS as i64 + 3 * refused + 16,
        "{sum}, {refused}"
    );
}

#[test]
fn a_model_without_quota_does_not_delay_another() {
    let desk = Desk::new();
    let id = ProcessId::new();
    let job =
        |model: &str, n: usize| Job::from(Request::new(format!("{model} {n}")).with_model(model));
    let slow = (0..100).map(|n| job("slow", n));
    let fast = (0..300).map(|n| job("fast", n));
    let (slow_id, queue) = (ProcessId::new(), queue(&desk));
    queue.enqueue(slow_id, slow.collect::<Vec<_>>()).unwrap();
    queue.enqueue(id, fast.collect::<Vec<_>>()).unwrap();
    let sim = simulator(SimConfig::default().model_rpm("slow", 30).burst(2));
    let running = working(&desk, &sim, "-j 4");
    let counts = |id| queue.process(id).unwrap().unwrap().counts;
    assert!(eventually(|| counts(id).is_finished()));
    assert_eq!(counts(id).completed, 300);
    let behind = counts(slow_id);
    assert_eq!(behind.failed, 0);
    assert!(behind.completed < 30, "{behind:?}");
    // Jobs that were never started were not claimed repeatedly.
    let conn = rusqlite::Connection::open(database(&desk)).unwrap();
    let sql = "SELECT count(*) FROM jobs WHERE claim > 0 AND status = 0";
    let touched: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(touched <= 12, "{touched} jobs were claimed in vain");
    running.signal("TERM");
    running.wait().expect(0);
}

#[test]
#[ignore = "ten seconds"]
fn a_provider_that_is_down_fails_no_job() {
    let (desk, id) = submitted(20);
    let words = format!(
        "work --provider local --base-url {NOBODY} --model sim-1 -j 4 --until-empty --max-retries 0"
    );
    on_queue(&desk, &words).ended().ends(4, "stopped");
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!((counts.pending, counts.failed), (20, 0), "{counts:?}");
}

#[test]
fn a_provider_that_refuses_the_key_fails_no_job() {
    let (desk, id) = submitted(20);
    let sim = simulator(SimConfig::default().api_key("right"));
    let words = format!(
        "work --provider openai --base-url {} --model sim-1 -j 4 --until-empty",
        sim.base_url()
    );
    let mut command = on_queue(&desk, &words);
    command.env("OPENAI_API_KEY", "wrong");
    command.ended().expect(4);
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!((counts.pending, counts.failed), (20, 0), "{counts:?}");
    let mut command = on_queue(&desk, &words);
    command.env("OPENAI_API_KEY", "right");
    command.ended().expect(0);
    assert_eq!(status(&desk, &id.to_string())[0]["completed"], 20);
}

#[test]
fn a_model_that_is_still_loading_is_waited_for() {
    let (desk, id) = submitted(5);
    let sim = simulator(SimConfig::default().loading(Duration::from_millis(1_500)));
    working(&desk, &sim, "--model sim-1 -j 2 --until-empty")
        .wait()
        .expect(0);
    for result in queue(&desk).get_results(id) {
        assert_eq!(result.unwrap().attempts, 1);
    }
}

#[test]
fn a_closed_reader_does_not_disturb_the_end_of_work() {
    let (desk, id) = submitted(3);
    let sim = good();
    let url = sim.base_url();
    let words =
        format!("work --provider local --base-url {url} --model sim-1 --until-empty --json");
    let mut running = Running::start(on_queue(&desk, &words).stdout(Stdio::piped()));
    drop(running.child.stdout.take());
    let ended = running.wait().expect(0);
    ended.hides("panicked");
    assert_eq!(status(&desk, &id.to_string())[0]["completed"], 3);
}

#[test]
fn a_second_signal_ends_work_at_once_and_jobs_are_requeued() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let (desk, id) = submitted(6);
        let sim = simulator(SimConfig::default().latency(Duration::from_secs(20)));
        let running = working(&desk, &sim, "--model sim-1 -j 2 --until-empty");
        assert!(sim.wait_until(|s| s.in_flight == 2, Duration::from_secs(20)));
        running.signal(name);
        running.hears("stopping");
        running.signal(name);
        running.wait().expect(code);
        let counts = queue(&desk).process(id).unwrap().unwrap().counts;
        assert_eq!((counts.pending, counts.in_progress), (6, 0), "{counts:?}");
        for finding in queue(&desk).check().unwrap() {
            assert!(
                finding.verdict <= batchwright::queue::Severity::Note,
                "{finding:?}"
            );
        }
    }
}
