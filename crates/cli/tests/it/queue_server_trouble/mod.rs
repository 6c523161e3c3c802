//! A queue on servers that take over from each other, and workers on several machines.

#![cfg(feature = "redis")]

mod limits;
mod mariadb;
mod redis;

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, PATIENCE, RunToEnd, Running, all_ids, simulator};
use super::queue_server::Server;
use mariadb::{MariaDb, PASSWORD, USER};

/// A queue as reached from one machine.
struct Queue<'a> {
    desk: &'a Desk,
    server: Server,
    redis: Option<String>,
}

impl<'a> Queue<'a> {
    fn on(desk: &'a Desk, server: Server) -> Self {
        let redis = None;
        Self {
            desk,
            server,
            redis,
        }
    }

    fn command(&self, words: &str) -> Command {
        let command = self.desk.command(words.split_whitespace());
        let mut command = self.server.on(command);
        command.envs(self.redis.iter().map(|redis| ("BATCHWRIGHT_REDIS", redis)));
        command
    }

    fn submit(&self) -> String {
        let id = self
            .command("submit in.jsonl -q")
            .ended()
            .expect(0)
            .process();
        id.to_string()
    }

    fn work(&self, sim: &Simulator, words: &str) -> Running {
        let url = sim.base_url();
        let words = format!(
            "work --provider local --base-url {url} --model sim-1 --log-level info -j 8 {words}"
        );
        Running::start(&mut self.command(&words))
    }

    /// Asserts that each item of a process has been answered once.
    fn all_completed(&self, process: &str, jobs: usize) {
        let words = format!("results {process} -o {process}.jsonl -q");
        self.command(&words).ended().expect(0);
        assert_eq!(self.desk.ids(&format!("{process}.jsonl")), all_ids(jobs));
    }
}

/// The server that accepts writes crashes in the middle of the work, and the other one takes over.
#[test]
fn work_continues_on_the_standby_server() {
    if Server::new().is_none() {
        return;
    }
    const JOBS: usize = 400;
    let desk = Desk::with(JOBS);
    let mut primary = MariaDb::primary();
    let replica = MariaDb::replica(&primary);
    let places = [replica.place(), primary.place()].join(",");
    let server = Server {
        address: format!("mysql://{USER}@{places}/batchwright"),
        password: PASSWORD.to_owned(),
    };
    let queue = Queue::on(&desk, server);
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(50)));
    let process = queue.submit();
    let workers = ["one", "two"]
        .map(|folder| queue.work(&sim, &format!("--until-empty --data-dir {folder}")));
    assert!(sim.wait_until(|stats| stats.calls > 100, PATIENCE));
    primary.kill();
    replica.promote();
    for worker in workers {
        worker.wait().expect(0);
    }
    queue.all_completed(&process, JOBS);
    let stats = sim.stats();
    assert_eq!(stats.paid_twice, 0, "nobody died who had a call in flight");
}
