//! Workers on several machines divide the limit of a provider.

use std::time::Instant;

use batchwright_simulate::{SimConfig, Simulator};

use super::super::common::{Desk, PATIENCE, Running, simulator};
use super::mariadb::MariaDb;
use super::{Queue, all_completed, prompts, wanted};

/// The workers of a queue, each with a separate data folder, like workers on several machines.
pub fn machines(queue: &Queue, sim: &Simulator, number: usize, words: &str) -> Vec<Running> {
    let work = |nth| {
        let words = format!("--until-empty --data-dir machine{nth} {words}");
        queue.work(sim, &words)
    };
    (0..number).map(work).collect()
}

/// Number of calls by which workers may exceed the rate: the burst, and the calls of one second.
const EXTRA: f64 = 110.0;

#[test]
fn no_limit_is_exceeded_by_workers_that_start_one_after_the_other() {
    if !wanted() {
        return;
    }
    let (desk, jobs) = (Desk::new(), 1_200);
    let server = MariaDb::primary();
    let queue = Queue::at(&desk, &[server.place()]);
    // The provider only counts calls and rejects none.
    let sim = simulator(SimConfig::default());
    prompts(&desk, jobs);
    let process = queue.submit();
    let mut workers = machines(&queue, &sim, 2, "--rpm 6000");
    let calls = |more_than: u64| {
        assert!(
            sim.wait_until(|stats| stats.calls > more_than, PATIENCE),
            "{:?}",
            queue.counts(&process)
        );
        (sim.stats().calls, Instant::now())
    };
    let mut since = calls(0);
    // Calls since the last event, and the number that the limit allows.
    let mut check = |event: &str, until: u64| {
        let now = calls(until);
        let made = (now.0 - since.0) as f64;
        let took = now.1 - since.1;
        let allowed = 100.0 * took.as_secs_f64();
        eprintln!("{event}: {made} calls, {allowed:.0} allowed in {took:?}");
        assert!(made <= allowed + EXTRA, "{event}: {made} in {took:?}");
        since = now;
    };
    check("2 workers", 250);
    let third = "--until-empty --data-dir machine2 --rpm 6000";
    workers.push(queue.work(&sim, third));
    check("3 workers", 1_000);
    for worker in workers {
        worker.wait().expect(0);
    }
    all_completed(&queue.outcomes(&process, jobs));
}

/// Eight workers detect an unknown limit from replies. Until then the provider rejects few calls.
#[test]
#[ignore = "takes a minute"]
fn a_limit_that_replies_report_is_used_by_all_and_few_calls_are_refused() {
    if !wanted() {
        return;
    }
    let (desk, jobs) = (Desk::new(), 1_200);
    let server = MariaDb::primary();
    let queue = Queue::at(&desk, &[server.place()]);
    let sim = simulator(SimConfig::default().rpm(1_200).burst(20));
    prompts(&desk, jobs);
    let process = queue.submit();
    let workers = machines(&queue, &sim, 8, "");
    assert!(sim.wait_until(|stats| stats.answered >= jobs as u64, 4 * PATIENCE));
    for worker in workers {
        worker.wait().expect(0);
    }
    all_completed(&queue.outcomes(&process, jobs));
    let stats = sim.stats();
    let seconds = (stats.last_call_ms - stats.first_call_ms) as f64 / 1000.0;
    let used = jobs as f64 / (20.0 * seconds + 20.0);
    eprintln!(
        "{jobs} jobs in {seconds:.1} s: {:.1} % of the limit used, {} calls refused, by second {:?}",
        100.0 * used,
        stats.refused,
        stats.refused_per_second
    );
    assert!(stats.refused <= jobs as u64 / 200, "{stats:?}");
}
