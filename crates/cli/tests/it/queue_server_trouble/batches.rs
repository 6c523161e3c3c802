//! Batches of a queue on a database server that workers on several machines create and reconcile.

use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig, Simulator};

use super::super::batch_site::{ANTHROPIC, Dialect, GEMINI, OPENAI, PACE, XAI};
use super::super::common::{Desk, PATIENCE, Running, each, simulator};
use super::mariadb::MariaDb;
use super::{Queue, all_completed, prompts, wanted};

/// A provider, and a queue in separate tables.
struct Site<'a> {
    at: &'static Dialect,
    sim: Simulator,
    queue: Queue<'a>,
}

impl<'a> Site<'a> {
    fn new(
        at: &'static Dialect,
        desk: &'a Desk,
        server: &MariaDb,
        batches: BatchConfig,
        items: usize,
    ) -> Self {
        let config = SimConfig::default().batches(batches);
        let config = match at.vendor {
            Some(vendor) => config.vendor(vendor),
            None => config,
        };
        prompts(desk, items);
        let mut queue = Queue::at(desk, &[server.place()]);
        queue.address += &format!("?tables=q_{}", at.name);
        Self {
            at,
            sim: simulator(config),
            queue,
        }
    }

    fn work(&self, words: &str, folder: &str) -> Running {
        let (name, sim, path) = (self.at.name, self.sim.addr(), self.at.path);
        let mut command = self.queue.command(&format!(
            "work {words} --log-level info --provider {name} --base-url http://{sim}{path} --model sim-1 --data-dir {folder}"
        ));
        command
            .env(self.at.key, "k")
            .env("BATCHWRIGHT_BULK_STRATEGY", "batch")
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", PACE.poll)
            .env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", PACE.reconcile);
        Running::start(&mut command)
    }

    /// The provider billed each request of these batches once.
    fn bought_once(&self, batches: u64, items: u64) {
        let (stats, name) = (self.sim.batch_stats(), self.at.name);
        assert_eq!(stats.bought_twice, 0, "{name} {stats:?}");
        assert_eq!(stats.started, batches, "{name} {stats:?}");
        assert_eq!(stats.items_finished, items, "{name} {stats:?}");
    }
}

/// A worker crashes after the provider created its batch and before the reply arrived. A worker on another machine
/// finds the batch at the provider.
#[test]
#[ignore = "takes half a minute"]
fn another_machine_finds_a_batch_whose_worker_crashed_before_the_reply() {
    if !wanted() {
        return;
    }
    let server = MariaDb::primary();
    each(&[&OPENAI, &XAI, &GEMINI, &ANTHROPIC], |at| {
        let (desk, items) = (Desk::new(), 8);
        let site = Site::new(at, &desk, &server, BatchConfig::default(), items);
        let process = site.queue.submit();
        let pause = site.sim.pause_at(BatchPoint::CreateDone, 1);
        let killed = site.work("", "one");
        assert!(pause.wait(PATIENCE), "{}: {}", at.name, killed.said());
        drop(killed);
        drop(pause);
        let other = site.work("", "two");
        // The lease of the crashed worker must end first.
        site.queue.finished(&process, items as u64);
        other.signal("TERM");
        other.wait().expect(0);
        all_completed(&site.queue.outcomes(&process, items));
        site.bought_once(1, items as u64);
    });
}

/// Two machines create batches one after the other. The batches differ only in time of creation and size. The replies
/// to the first two do not arrive.
#[test]
#[ignore = "takes half a minute"]
fn two_machines_create_batches_that_look_alike_one_after_the_other() {
    if !wanted() {
        return;
    }
    let (server, desk, items, batches) = (MariaDb::primary(), Desk::new(), 5, 6);
    let config = BatchConfig::default().lost_creates(2);
    let site = Site::new(&ANTHROPIC, &desk, &server, config, items);
    let processes: Vec<String> = (0..batches).map(|_| site.queue.submit()).collect();
    for worker in ["one", "two"].map(|folder| site.work("--until-empty", folder)) {
        worker.wait().expect(0);
    }
    for process in processes {
        all_completed(&site.queue.outcomes(&process, items));
    }
    // The batches have the same prompts, so each batch is billed once for each prompt.
    let stats = site.sim.batch_stats();
    assert_eq!(stats.started, batches, "{stats:?}");
    assert_eq!(stats.items_finished, batches * items as u64, "{stats:?}");
}
