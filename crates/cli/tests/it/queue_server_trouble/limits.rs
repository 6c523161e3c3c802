//! Workers on several machines share the limit of a provider through Redis, also while Redis fails.

use std::time::{Duration, Instant};

use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::super::common::{Desk, PATIENCE, Running, simulator};
use super::mariadb::MariaDb;
use super::redis::Redis;
use super::{Queue, SLOTS, all_completed, prompts, wanted};

/// The workers of a queue, each with a separate data folder, like workers on several machines.
pub fn machines(queue: &Queue, sim: &Simulator, number: usize, words: &str) -> Vec<Running> {
    let work = |nth| {
        let words = format!("--until-empty --data-dir machine{nth} {words}");
        queue.work(sim, &words)
    };
    (0..number).map(work).collect()
}

/// Number of calls by which workers may exceed the rate when Redis crashes, restarts or is emptied: the calls that were
/// granted in advance, and those of one second.
const EXTRA: f64 = 110.0;

#[test]
fn no_limit_is_exceeded_when_redis_is_emptied_or_starts_again() {
    if !wanted() {
        return;
    }
    let (desk, jobs) = (Desk::new(), 1_200);
    let (server, mut redis) = (MariaDb::primary(), Redis::new());
    let queue = Queue::at(&desk, &[server.place()]).with(&redis);
    // The provider only counts calls and rejects none.
    let sim = simulator(SimConfig::default());
    prompts(&desk, jobs);
    let process = queue.submit();
    let workers = machines(&queue, &sim, 4, "--rpm 6000");
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
    check("with Redis", 250);
    redis.empty();
    check("after it was emptied", 500);
    redis.kill();
    check("while it is away", 750);
    redis.start();
    check("after it has started again", 1_000);
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
    let (server, redis) = (MariaDb::primary(), Redis::new());
    let queue = Queue::at(&desk, &[server.place()]).with(&redis);
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

/// A provider fails all calls of eight workers. Each slot makes at most two calls until all workers know of the outage.
/// Then one call of all workers probes, after 1, 2, 4 and then every 8 seconds.
#[test]
#[ignore = "takes half a minute"]
fn one_call_of_all_machines_probes_a_provider_that_is_down() {
    if !wanted() {
        return;
    }
    let (desk, jobs, number) = (Desk::new(), 400, 8);
    let (server, redis) = (MariaDb::primary(), Redis::new());
    let queue = Queue::at(&desk, &[server.place()]).with(&redis);
    let latency = Duration::from_millis(100);
    let down = SimConfig::default()
        .latency(latency)
        .trouble(Trouble::Error500, 1.0)
        .trouble_times(Trouble::Error500, None);
    let sim = simulator(down);
    prompts(&desk, jobs);
    let process = queue.submit();
    let workers = machines(&queue, &sim, number, "");
    assert!(sim.wait_until(|stats| stats.calls > 0, PATIENCE));
    // The test has to wait: it counts the calls of a fixed time.
    std::thread::sleep(Duration::from_secs(14));
    let stats = sim.stats();
    let (calls, port) = (stats.calls, sim.addr().port());
    let heard = stats.first_call_ms / 1_000 + 4;
    let late: u64 = stats.accepted_per_second.iter().skip(heard as usize).sum();
    eprintln!("{calls} calls of {number} workers in 14 s, {late} of them after 4 s");
    assert!(calls <= 2 * number as u64 * SLOTS + 4, "{stats:?}");
    assert!(late <= 3, "{stats:?}");
    drop(sim);
    let sim = simulator(SimConfig::default().port(port));
    for worker in workers {
        worker.wait().expect(0);
    }
    eprintln!("{} calls after it was back", sim.stats().calls);
    all_completed(&queue.outcomes(&process, jobs));
}
