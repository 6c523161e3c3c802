//! Workers on several machines divide the limit of a provider.

use std::time::Instant;

use batchwright_simulate::{SimConfig, Simulator};

use super::super::common::{Desk, PATIENCE, Running, good, simulator};
use super::super::queue_server::Server;
use super::Queue;

/// The workers of a queue, each with a separate data folder, like workers on several machines.
fn machines(queue: &Queue, sim: &Simulator, number: usize, words: &str) -> Vec<Running> {
    let work = |nth| {
        queue.work(
            sim,
            &format!("--until-empty --data-dir machine{nth} {words}"),
        )
    };
    (0..number).map(work).collect()
}

const JOBS: usize = 1_200;

/// A queue with these jobs.
fn submitted<'a>(desk: &'a Desk, server: Server) -> (Queue<'a>, String) {
    desk.prompts("in.jsonl", JOBS);
    let queue = Queue::on(desk, server);
    let process = queue.submit();
    (queue, process)
}

#[test]
fn no_limit_is_exceeded_by_workers_that_start_one_after_the_other() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::new();
    let (queue, process) = submitted(&desk, server);
    // The provider only counts calls and rejects none.
    let sim = good();
    let mut workers = machines(&queue, &sim, 2, "--rpm 6000");
    let calls = |more_than: u64| {
        assert!(sim.wait_until(|stats| stats.calls > more_than, PATIENCE));
        (sim.stats().calls, Instant::now())
    };
    let mut since = calls(0);
    // Calls since the last event, and the number that the limit allows: the rate, the burst, and the calls of one second.
    let mut check = |event: &str, until: u64| {
        let now = calls(until);
        let made = (now.0 - since.0) as f64;
        let took = now.1 - since.1;
        let allowed = 100.0 * took.as_secs_f64() + 110.0;
        assert!(made <= allowed, "{event}: {made} in {took:?}");
        since = now;
    };
    check("2 workers", 250);
    workers.push(queue.work(&sim, "--until-empty --data-dir machine2 --rpm 6000"));
    check("3 workers", 1_000);
    for worker in workers {
        worker.wait().expect(0);
    }
    queue.all_completed(&process, JOBS);
}

/// Eight workers detect an unknown limit from replies. Until then the provider rejects few calls.
#[test]
#[ignore = "takes a minute"]
fn a_limit_that_replies_report_is_used_by_all_and_few_calls_are_refused() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::new();
    let (queue, process) = submitted(&desk, server);
    let sim = simulator(SimConfig::default().rpm(1_200).burst(20));
    let workers = machines(&queue, &sim, 8, "");
    assert!(sim.wait_until(|stats| stats.answered >= JOBS as u64, 4 * PATIENCE));
    for worker in workers {
        worker.wait().expect(0);
    }
    queue.all_completed(&process, JOBS);
    let stats = sim.stats();
    assert!(stats.refused <= JOBS as u64 / 200, "{stats:?}");
}
