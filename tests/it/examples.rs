//! The example programs, killed at random moments and in between.

#![cfg(unix)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use batchwright::JobQueue;
use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig, Simulator};
use rusqlite::Connection;
use serde_json::Value;

use super::common::{Desk, PATIENCE, Random, Running, simulator};

/// Calls at once of the application.
const SLOTS: u64 = 8;
const WORDS: [&str; 2] = ["app", "documents.txt"];
const LINES: usize = 40;

/// The path of an example program. `cargo test --test it` alone does not build examples, and an earlier build may
/// have left another version; if the program is up to date, this takes no time. The features are those of a plain
/// `cargo test` of the workspace, because others would build the library once more.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    // Build scripts would run again if they saw the variables that cargo sets for a test of its package.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--offline", "--example", example])
        .arg("--target-dir")
        .arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    folder.join("examples").join(example)
}

fn start(desk: &Desk, sim: &Simulator, provider: &str, program: &Path, words: &[&str]) -> Running {
    let mut command = desk.other(program, words);
    command
        .env("BATCHWRIGHT_PROVIDER", provider)
        .env("BATCHWRIGHT_MODEL", "sim-1")
        .env("LOCAL_LLM_BASE_URL", sim.base_url())
        .env("OPENAI_API_KEY", "any")
        .env("OPENAI_BASE_URL", sim.base_url())
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");
    Running::start(&mut command)
}

/// An application that embeds the queue.
#[test]
fn each_document_has_its_summary_after_many_kills_of_the_application() {
    let (documents, kills) = (400, 12);
    let program = program("durable_summaries");
    let desk = Desk::new();
    let text = |i: u64| format!("document number {i}.");
    let lines: Vec<String> = (1..=documents).map(text).collect();
    desk.write("documents.txt", lines.join("\n"));
    let few = Duration::from_millis(10);
    let sim = simulator(SimConfig::default().latency(few).jitter(few).seed(4));
    let mut random = Random(4);
    for kill in 0..kills {
        let running = start(&desk, &sim, "local", &program, &WORDS);
        // Every third one is killed while it reads, submits, or collects the results of the previous one.
        if kill % 3 > 0 {
            let until = sim.stats().calls + random.below(documents / kills);
            sim.wait_until(|s| s.calls > until || s.calls >= documents, PATIENCE);
        }
        thread::sleep(Duration::from_micros(random.below(20_000)));
        running.signal("KILL");
        let ended = running.wait();
        assert_eq!(ended.status.code(), None, "it was over: {}", ended.stderr);
    }
    let ended = start(&desk, &sim, "local", &program, &WORDS)
        .wait()
        .expect(0);
    let said = format!("{documents} documents, {documents} with a summary");
    assert!(ended.stdout.contains(&said), "{}", ended.stdout);

    let app = Connection::open(desk.path("app/app.db")).unwrap();
    let count = "SELECT count(*), sum(instr(summary, text) > 0) FROM documents JOIN summaries ON id = document";
    let counts = app.query_row(count, [], |row| Ok([row.get::<_, i64>(0)?, row.get(1)?]));
    assert_eq!(counts.unwrap(), [documents as i64; 2]);
    let queue = JobQueue::open(&desk.path("app/llm_jobs.db")).unwrap();
    assert!(queue.open_processes().unwrap().is_empty());
    let stats = sim.stats();
    assert!(stats.paid >= documents, "{stats:?}");
    assert!(stats.paid_twice <= kills * SLOTS, "{stats:?}");
}

/// It submits at night and collects in the morning.
#[test]
fn every_line_is_billed_once_although_both_programs_are_killed() {
    let program = program("overnight");
    let desk = Desk::new();
    let text = |i: usize| format!("line number {i}.\n");
    desk.write("lines.txt", (1..=LINES).map(text).collect::<String>());
    // Longer than a night, which lists only batches that are not finished.
    let until_morning = BatchConfig::default().duration(Duration::from_secs(3));
    let sim = simulator(SimConfig::default().batches(until_morning));

    // The batch is created, and no program receives the reply.
    let created = sim.pause_at(BatchPoint::CreateDone, 1);
    let night = start(&desk, &sim, "openai", &program, &["night", "lines.txt"]);
    assert!(created.wait(PATIENCE));
    night.signal("KILL");
    night.wait();
    drop(created);
    let night = start(&desk, &sim, "openai", &program, &["night", "lines.txt"]);
    let night = night.wait().expect(0);
    let going_on = format!("going on with {LINES} prompts of before");
    assert!(night.stdout.contains(&going_on), "{}", night.stdout);
    let id = sim.batch_stats().batches[0].id.clone();
    let named = format!("batch {id} at openai: ");
    assert!(night.stdout.contains(&named), "{}", night.stdout);

    let half = sim.pause_at(BatchPoint::DownloadHalf, 1);
    let morning = start(&desk, &sim, "openai", &program, &["morning"]);
    assert!(half.wait(PATIENCE));
    morning.signal("KILL");
    morning.wait();
    drop(half);
    let morning = start(&desk, &sim, "openai", &program, &["morning"])
        .wait()
        .expect(0);
    let said = format!("{LINES} answers are in overnight/answers");
    assert!(morning.stdout.contains(&said), "{}", morning.stdout);

    let mut seen = HashSet::new();
    for i in 1..=LINES {
        let answer = desk.read(&format!("overnight/answers/line-{i}.json"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let words = answer["text"].as_str().unwrap().to_owned();
        assert!(words.contains(text(i).trim_end()), "{words}");
        assert!(seen.insert(words));
    }
    let stats = sim.batch_stats();
    assert_eq!((stats.created, stats.bought_twice), (1, 0));
    assert_eq!(stats.items_accepted, LINES as u64);
    assert_eq!(sim.stats().calls, 0, "no prompt was a call of its own");

    // The next night starts from the beginning.
    let again = start(&desk, &sim, "openai", &program, &["morning"])
        .wait()
        .expect(0);
    assert_eq!(again.stdout, "nothing was handed over\n");
    start(&desk, &sim, "openai", &program, &["night", "lines.txt"])
        .wait()
        .expect(0);
    assert_eq!(sim.batch_stats().created, 2);
}
