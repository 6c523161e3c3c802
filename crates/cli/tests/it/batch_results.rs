//! Missing results of an ended batch, through the real program: they stay at the provider, every command reports
//! that, and only the user abandons them.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::BatchConfig;
use serde_json::json;

use super::batch_runs::{SHORT, WORDS, batch, clean, with};
use super::batch_site::{KINDS, Site};
use super::common::{Desk, Has, RunToEnd, all_ids, each};

const ITEMS: usize = 24;

/// A worker that ends when all is done does not wait for missing results.
const IMPATIENT: (&str, &str) = ("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "75ms");

#[test]
fn missing_results_stay_uncollected_until_the_user_abandons_them() {
    each(&KINDS, |at| {
        let batches = BatchConfig::default().duration(SHORT);
        let gone = batches.retention(Duration::from_millis(1));
        let site = Site::new(at, gone, ITEMS);
        let work = || {
            let mut command = site.command("work --until-empty --json");
            command.env(IMPATIENT.0, IMPATIENT.1);
            command.ended().expect(4)
        };
        for _ in 0..2 {
            let ended = work();
            let report = ended.json();
            report.has(json!({"batches_uncollected": 1, "failed": 0, "calls": 0}));
            let ended = ended.says("24 billed results are missing for");
            ended.says("; batchwright cancel abandons them");
            let counts = site.counts();
            assert_eq!(counts.at_provider, ITEMS as u64, "{} {counts:?}", at.name);
        }
        let status = site.desk.plain("status").expect(0);
        status.shows(": uncollected, ");
        status.shows("; batchwright cancel abandons them");
        let json = site.desk.plain("status --json").expect(0).json();
        let batch = &json["processes"][0]["batches"][0];
        assert_eq!(batch["uncollected"]["requests"], 24, "{batch}");
        // `retry` requeues nothing as a side effect.
        site.desk
            .plain(&format!("retry {}", site.process))
            .ends(0, "not requeued: ")
            .says("to abandon them first");
        assert_eq!(site.counts().at_provider, ITEMS as u64);

        site.queue.cancel(site.process).unwrap();
        let mut worker = site.command("work --until-empty");
        worker.ended().ends(0, "are abandoned");
        assert_eq!(site.counts().cancelled, ITEMS as u64, "{}", at.name);
        site.paid_once();
        site.took(1);
        site.desk
            .plain(&format!("retry {}", site.process))
            .ends(0, "24 jobs requeued: each is sent and billed again");
        let mut sync = site.command("work --until-empty");
        sync.env("BATCHWRIGHT_BULK_STRATEGY", "sync");
        sync.ended().expect(0);
        assert_eq!(site.answers().len(), ITEMS, "{}", at.name);
        assert_eq!(site.sim.stats().calls, ITEMS as u64);
    });
}

#[test]
fn a_run_stores_partial_results_and_the_same_command_collects_the_rest() {
    let batches = BatchConfig::default().duration(SHORT);
    let (desk, sim) = (Desk::with(30), with(batches.short_downloads(2)));
    let run = |wait: &str| {
        let mut command = batch(&desk, &sim, WORDS);
        command.env(IMPATIENT.0, wait);
        command.ended()
    };
    let ended = run("1ms").ends(4, "are incomplete: 20 of 30 can be read");
    let ended = ended.says("10 billed results are missing for");
    ended.says("run the same command in this folder");
    assert_eq!(desk.ids("out.jsonl").len(), 20);
    run("20s").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(30));
    let stats = sim.batch_stats();
    assert_eq!((stats.created, stats.bought_twice), (1, 0), "{stats:?}");
    clean(&desk);
}
