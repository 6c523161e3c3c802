//! A worker that is killed before and after every step of a batch, lost replies, delayed batches and lists that lag
//! behind: in all cases each needed batch is billed once.

use std::time::Duration;

use batchwright::{Job, ProcessId, Request};
use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig};
use serde_json::json;

use super::batch_runs::{WORDS, batch, clean, with};
use super::batch_site::{KINDS, OPENAI, Site};
use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, all_ids, each, eventually};

const ITEMS: usize = 12;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(millis(100))
}

/// A batch that was made with a key in a header, at an address that only a flag has named.
#[test]
fn a_cancelled_batch_is_ended_by_the_displayed_command_with_its_header() {
    const HEADER: &str = "Authorization: Bearer sk-right-0123456789";
    // A cancelled batch ends within a tenth of that.
    let long = BatchConfig::default().duration(Duration::from_secs(20));
    let config = SimConfig::default().api_key("sk-right-0123456789");
    let site = Site::with(&OPENAI, config.batches(long), ITEMS);
    let created = site.sim.pause_at(BatchPoint::StatusArrived, 1);
    let mut worker = site.command("work --until-empty");
    worker
        .args(["--header", HEADER])
        .env_remove("OPENAI_API_KEY");
    let worker = Running::start(&mut worker);
    assert!(created.wait(PATIENCE), "{}", worker.said());
    drop(worker);
    let id = site.process.to_string();
    let shown = format!("--provider openai --base-url {}", site.url());
    let ended = site
        .desk
        .command(["cancel", &id, "--wait", "300ms"])
        .ended();
    ended
        .says("not over yet")
        .tells(&format!("work --until-empty {shown}"));
    assert_eq!(site.sim.batch_stats().cancels, 0);
    let mut worker = site.command("work --until-empty");
    worker
        .args(["--header", HEADER])
        .env_remove("OPENAI_API_KEY");
    worker.ended().expect(0).hides("sk-right");
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
    site.queue.enqueue_iter(small, (0..50).map(job)).unwrap();
    let done = |process| {
        let process = site.queue.process(process).unwrap();
        process.unwrap().counts.completed
    };
    assert!(eventually(|| done(small) == 50));
    assert_eq!(done(site.process), 0, "the large one was not slow");
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
        let gone = quick().retention(Duration::ZERO);
        let site = Site::new(at, gone, MISSING);
        let retry = format!("retry {}", site.process);
        let work = |strategy: &str, code, says: &str| {
            let mut command = site.command("work --until-empty --json");
            command.env(IMPATIENT.0, IMPATIENT.1);
            command.env("BATCHWRIGHT_BULK_STRATEGY", strategy);
            command.ended().ends(code, says)
        };
        for _ in 0..2 {
            let ended = work("batch", 4, "24 billed results are missing for");
            let ended = ended.says("; batchwright cancel abandons them");
            let report = ended.json();
            report.has(json!({"batches_uncollected": 1, "failed": 0, "calls": 0}));
            assert_eq!(site.counts().at_provider, MISSING as u64, "{}", at.name);
        }
        let status = site.desk.plain("status").expect(0);
        status.shows(": uncollected, ");
        status.shows("; batchwright cancel abandons them");
        let json = site.desk.plain("status --json").expect(0).json();
        json.has(json!({"/processes/0/batches/0/uncollected/requests": 24}));
        // `retry` requeues nothing as a side effect.
        let retried = site.desk.plain(&retry).ends(0, "not requeued: ");
        retried.tells("to abandon them first");
        assert_eq!(site.counts().at_provider, MISSING as u64);

        let mut cancel = site.desk.command(["cancel", &site.process.to_string()]);
        let address = at.key.replace("API_KEY", "BASE_URL");
        let address = address.replace("GOOGLE", "GOOGLE_GEMINI");
        cancel.env(at.key, "k").env(address, site.url());
        let ended = cancel.ended().expect(0);
        ended.says("its missing results are abandoned, although they were billed");
        assert_eq!(site.counts().cancelled, MISSING as u64, "{}", at.name);
        site.paid_once();
        site.took(1);
        let again = "24 jobs requeued; jobs that were sent before are sent and billed again";
        site.desk.plain(&retry).ends(0, again);
        work("sync", 0, "");
        assert_eq!(site.answers(), MISSING, "{}", at.name);
        assert_eq!(site.sim.stats().calls, MISSING as u64);
    });
}

#[test]
fn a_run_stores_partial_results_and_the_same_command_collects_the_rest() {
    let (desk, sim) = (Desk::with(30), with(quick().short_downloads(2)));
    let run = |wait: &str| batch(&desk, &sim, WORDS).env(IMPATIENT.0, wait).ended();
    run("1ms")
        .ends(4, "are incomplete: 20 of 30 can be read")
        .says("10 billed results are missing for")
        .tells("run the same command in this folder");
    assert_eq!(desk.ids("out.jsonl").len(), 20);
    run("20s").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(30));
    let stats = sim.batch_stats();
    assert_eq!((stats.created, stats.bought_twice), (1, 0), "{stats:?}");
    clean(&desk);
}
