//! Quotas, providers that are unavailable for a while, and signals, through `batchwright work`.

#![cfg(unix)]

use std::time::Duration;

use batchwright::queue::JobStatus;
use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, RunToEnd, Running, good, simulator};
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
