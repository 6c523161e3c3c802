//! A queue on servers that crash and take over from each other, and workers that lose the connection to them.

#![cfg(all(feature = "mysql", feature = "redis"))]

mod limits;
mod mariadb;
mod redis;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::Value;

use super::common::{Desk, PATIENCE, Random, RunToEnd, Running, eventually, id, simulator};
use mariadb::{MariaDb, PASSWORD, USER};
use redis::Redis;

const SLOTS: u64 = 8;

/// Whether servers should be started: without `scripts/with-servers`, these tests print that they were skipped.
fn wanted() -> bool {
    let wanted = std::env::var_os("BATCHWRIGHT_TEST_MYSQL").is_some();
    if !wanted {
        eprintln!("skipped: they start servers of their own only within scripts/with-servers");
    }
    wanted
}

/// A queue as reached from one machine.
struct Queue<'a> {
    desk: &'a Desk,
    address: String,
    redis: Option<String>,
}

impl<'a> Queue<'a> {
    fn at(desk: &'a Desk, places: &[String]) -> Self {
        let address = format!("mysql://{USER}@{}/batchwright", places.join(","));
        Self {
            desk,
            address,
            redis: None,
        }
    }

    fn with(mut self, redis: &Redis) -> Self {
        self.redis = Some(redis.address());
        self
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.desk.command(words.split_whitespace());
        command
            .env("BATCHWRIGHT_STORE", &self.address)
            .env("BATCHWRIGHT_STORE_PASSWORD", PASSWORD)
            .envs(self.redis.iter().map(|redis| ("BATCHWRIGHT_REDIS", redis)));
        command
    }

    fn run(&self, words: &str) -> String {
        self.command(words).ended().expect(0).stdout
    }

    fn submit(&self) -> String {
        self.run("submit in.jsonl -q").trim().to_owned()
    }

    fn work(&self, sim: &Simulator, words: &str) -> Running {
        let url = sim.base_url();
        let words = format!(
            "work --provider local --base-url {url} --model sim-1 --log-level info -j {SLOTS} {words}"
        );
        Running::start(&mut self.command(&words))
    }

    fn counts(&self, process: &str) -> Value {
        let status = self.run(&format!("status {process} --json"));
        let status: Value = serde_json::from_str(&status).unwrap();
        status["processes"][0].clone()
    }

    /// Waits until this number of jobs is completed.
    fn finished(&self, process: &str, jobs: u64) {
        let done = || self.counts(process)["completed"] == jobs;
        assert!(eventually(done), "{}", self.counts(process));
    }

    /// The outcomes of a process; asserts that each item has one.
    fn outcomes(&self, process: &str, jobs: usize) -> BTreeMap<String, Value> {
        let words = format!("results {process} -o {process}.jsonl -q");
        self.command(&words).ended();
        let lines = self.desk.results(&format!("{process}.jsonl"));
        assert_eq!(lines.len(), jobs);
        let outcomes: BTreeMap<String, Value> =
            lines.into_iter().map(|line| (id(&line), line)).collect();
        assert_eq!(outcomes.len(), jobs, "an item has two outcomes");
        outcomes
    }
}

fn all_completed(outcomes: &BTreeMap<String, Value>) {
    for line in outcomes.values() {
        assert_eq!(line["success"], true, "{line}");
    }
}

fn prompts(desk: &Desk, jobs: usize) {
    desk.prompts("in.jsonl", jobs);
}

/// The server that accepts writes crashes in the middle of the work, and the other one takes over.
#[test]
fn work_continues_on_the_standby_server() {
    if !wanted() {
        return;
    }
    let (desk, jobs) = (Desk::new(), 400);
    let mut primary = MariaDb::primary();
    let mut replica = MariaDb::replica(&primary);
    let queue = Queue::at(&desk, &[replica.place(), primary.place()]);
    let latency = Duration::from_millis(50);
    let sim = simulator(SimConfig::default().latency(latency));
    prompts(&desk, jobs);
    let process = queue.submit();
    let workers = ["one", "two"]
        .map(|folder| queue.work(&sim, &format!("--until-empty --data-dir {folder}")));
    assert!(sim.wait_until(|stats| stats.calls > 100, PATIENCE));
    primary.kill();
    replica.promote();
    for worker in workers {
        worker.wait().expect(0);
    }
    let outcomes = queue.outcomes(&process, jobs);
    all_completed(&outcomes);
    let stats = sim.stats();
    assert_eq!(stats.paid_twice, 0, "nobody died who had a call in flight");
}

/// Eight workers are killed one after the other, the database is restarted twice and fails over once, Redis is
/// killed once and emptied once, and the provider fails calls. Every job has one outcome, and only calls that were
/// in flight are billed twice.
#[test]
#[ignore = "takes minutes"]
fn killed_workers_and_servers_lose_no_job() {
    if !wanted() {
        return;
    }
    let jobs = std::env::var("BATCHWRIGHT_TEST_JOBS").ok();
    let jobs: usize = jobs.map_or(5_000, |jobs| jobs.parse().unwrap());
    let (desk, mut random) = (Desk::new(), Random(7));
    let mut primary = MariaDb::primary();
    let mut replica = MariaDb::replica(&primary);
    let mut redis = Redis::new();
    let queue = Queue::at(&desk, &[primary.place(), replica.place()]).with(&redis);
    let few = Duration::from_millis(20);
    let config = SimConfig::default()
        .latency(few)
        .jitter(few)
        .trouble(Trouble::Error500, 0.01)
        .trouble(Trouble::Html502, 0.01)
        .trouble(Trouble::Overloaded, 0.005)
        .trouble(Trouble::Drop, 0.005)
        .trouble(Trouble::Truncated, 0.005)
        .trouble(Trouble::BadRequest, 0.01);
    let sim = simulator(config.clone());
    prompts(&desk, jobs);
    let process = queue.submit();
    let start = |nth: usize| queue.work(&sim, &format!("--until-empty --data-dir machine{nth}"));
    let mut workers: Vec<Running> = (0..8).map(start).collect();
    let (blows, since) = (24, Instant::now());
    let mut kills = 0;
    for blow in 1..=blows {
        let until = (jobs as u64) * blow / (blows + 2);
        assert!(
            sim.wait_until(|stats| stats.calls > until, 3 * PATIENCE),
            "blow {blow}: {:?}",
            queue.counts(&process)
        );
        match blow {
            5 => redis.kill(),
            7 => redis.start(),
            17 => redis.empty(),
            8 | 14 => {
                primary.kill();
                primary.start();
            }
            20 => {
                primary.kill();
                replica.promote();
            }
            _ => {
                let nth = random.below(workers.len() as u64) as usize;
                workers[nth].signal("KILL");
                workers[nth] = start(nth);
                kills += 1;
            }
        }
    }
    for worker in workers {
        let ended = worker.wait();
        assert!(
            matches!(ended.status.code(), Some(0 | 3)),
            "{}",
            ended.stderr
        );
    }
    eprintln!(
        "{jobs} jobs in {:?}, {kills} workers killed",
        since.elapsed()
    );
    for (id, line) in queue.outcomes(&process, jobs) {
        let prompt = id.replace("i-", "prompt ");
        let refused = config.plan(&prompt) == Some(Trouble::BadRequest);
        assert_eq!(line["success"], !refused, "{line}");
    }
    let stats = sim.stats();
    let uncertain =
        ["drop", "truncated"].map(|name| stats.by_trouble.get(name).copied().unwrap_or(0));
    let uncertain: u64 = uncertain.iter().sum();
    eprintln!(
        "{} calls, {} paid twice, {uncertain} of them uncertain",
        stats.calls, stats.paid_twice
    );
    assert!(stats.paid_twice <= kills * SLOTS + uncertain, "{stats:?}");
}
