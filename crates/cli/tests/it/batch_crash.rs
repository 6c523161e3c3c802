//! A worker that is killed before and after every step of a batch, lost replies, delayed batches and lists that lag
//! behind: in all cases each needed batch is billed once.

use std::process::Command;
use std::time::Duration;

use batchwright::{Job, ProcessId, Request};
use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig};
use serde_json::json;

use super::batch_runs::{SHORT, WORDS, batch, clean, with};
use super::batch_site::{KINDS, OPENAI, Site, prompt};
use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, all_ids, each, eventually};

const ITEMS: usize = 12;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(millis(100))
}

const HEADER: &str = "Authorization: Bearer sk-right-0123456789";
const POLL: (&str, &str) = ("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");

/// Lets this worker create a batch, and then kills it.
fn submit(site: &Site, mut worker: Command) {
    let pause = site.sim.pause_at(BatchPoint::StatusArrived, 1);
    let worker = Running::start(&mut worker);
    assert!(pause.wait(PATIENCE), "{}", worker.said());
    drop(worker);
}

fn work_with(site: &Site, header: &str) -> Command {
    let mut command = site.command("work --until-empty");
    command
        .args(["--header", header])
        .env_remove("OPENAI_API_KEY");
    command
}

/// A command without the key, at the same address.
fn keyless(site: &Site, words: &[&str]) -> Command {
    let mut command = site.desk.command(words);
    command
        .env("OPENAI_BASE_URL", site.url())
        .env(POLL.0, POLL.1);
    command
}

#[test]
fn a_batch_created_with_a_header_is_cancelled_only_with_that_header() {
    // A cancelled batch ends within a tenth of that.
    let long = BatchConfig::default().duration(Duration::from_secs(20));
    let config = SimConfig::default().api_key("sk-right-0123456789");
    let site = Site::with(&OPENAI, config.batches(long), ITEMS, prompt);
    submit(&site, work_with(&site, HEADER));
    let id = site.process.to_string();
    let mut without = keyless(&site, &["cancel", &id, "--wait", "300ms"]);
    without.ended().says("not over yet");
    assert_eq!(site.sim.batch_stats().cancels, 0);
    let mut unnamed = keyless(&site, &["cancel", &id, "--header", HEADER]);
    unnamed
        .ended()
        .ends(2, "--header: it applies to one provider only");
    let named = ["cancel", &id, "--provider", "openai", "--header", HEADER];
    let cancelled = keyless(&site, &named).ended().expect(0);
    cancelled.hides("sk-right");
    assert!(site.queue.batches(None).unwrap().is_empty());
    assert_eq!(site.sim.batch_stats().cancels, 1);
}

#[test]
fn a_slow_download_delays_no_other_batch() {
    let site = Site::new(&OPENAI, quick(), 500);
    let slow = site.sim.pause_at(BatchPoint::DownloadHalf, 1);
    let worker = site.start();
    assert!(slow.wait(PATIENCE), "{}", worker.said());
    // A small batch is created, ends and is stored meanwhile.
    let small = ProcessId::new();
    let job = |i: usize| Job::from(Request::new(format!("further {i}")));
    let jobs = (0..50).map(job);
    site.queue.enqueue_iter(small, jobs).unwrap();
    let done = |process| {
        let process = site.queue.process(process).unwrap();
        process.unwrap().counts.completed
    };
    assert!(eventually(|| done(small) == 50));
    assert_eq!(done(site.process), 0, "the large one was not slow");
    assert_eq!(site.sim.batch_stats().downloads, 2);
    slow.release();
    worker.wait().expect(0);
    site.answers();
    site.paid_once();
    site.took(2);
}

#[test]
#[ignore = "takes minutes"]
fn long_batch_120_000_requests() {
    let run = |items, batches| {
        let site = Site::new(&OPENAI, quick(), items);
        let (ended, memory) = site.start().wait_with_peak();
        ended.expect(0);
        site.bought_once();
        site.took(batches);
        println!("{items} requests: {memory} kB of memory at most");
        memory
    };
    let few = run(12_000, 1);
    let many = run(120_000, 3);
    if cfg!(target_os = "linux") {
        assert!(many < few + 32_000, "{few} kB and {many} kB");
    }
}

const MISSING: usize = 24;

/// A worker that ends when all is done does not wait for missing results.
const IMPATIENT: (&str, &str) = ("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "75ms");

#[test]
fn missing_results_stay_uncollected_until_the_user_abandons_them() {
    each(&KINDS, |at| {
        let batches = BatchConfig::default().duration(SHORT);
        let gone = batches.retention(Duration::from_millis(1));
        let site = Site::new(at, gone, MISSING);
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
            assert_eq!(counts.at_provider, MISSING as u64, "{} {counts:?}", at.name);
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
        assert_eq!(site.counts().at_provider, MISSING as u64);

        site.queue.cancel(site.process).unwrap();
        let mut worker = site.command("work --until-empty");
        worker.ended().ends(0, "are abandoned");
        assert_eq!(site.counts().cancelled, MISSING as u64, "{}", at.name);
        site.paid_once();
        site.took(1);
        site.desk
            .plain(&format!("retry {}", site.process))
            .ends(0, "24 jobs requeued: each is sent and billed again");
        let mut sync = site.command("work --until-empty");
        sync.env("BATCHWRIGHT_BULK_STRATEGY", "sync");
        sync.ended().expect(0);
        assert_eq!(site.answers().len(), MISSING, "{}", at.name);
        assert_eq!(site.sim.stats().calls, MISSING as u64);
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

#[test]
fn the_displayed_command_cancels_a_batch_at_a_custom_address() {
    let long = BatchConfig::default().duration(Duration::from_secs(20));
    let site = Site::with(&OPENAI, SimConfig::default().batches(long), ITEMS, prompt);
    submit(&site, site.command("work --until-empty"));
    let id = site.process.to_string();
    let elsewhere = |words: &[&str]| {
        let mut command = site.desk.command(words);
        command.env("OPENAI_API_KEY", "k").env(POLL.0, POLL.1);
        command.ended()
    };
    let shown = format!("--provider openai --base-url {}", site.url());
    elsewhere(&["cancel", &id, "--wait", "300ms"]).says(&shown);
    assert_eq!(site.sim.batch_stats().cancels, 0);
    let words: Vec<&str> = ["cancel", &id]
        .into_iter()
        .chain(shown.split(' '))
        .collect();
    elsewhere(&words).expect(0);
    assert!(site.queue.batches(None).unwrap().is_empty());
    assert_eq!(site.sim.batch_stats().cancels, 1);
}
