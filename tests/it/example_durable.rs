//! The example of an application that embeds the queue, killed at random moments.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use batchwright::JobQueue;
use batchwright_simulate::{SimConfig, Simulator};
use rusqlite::Connection;

use super::common::{Desk, PATIENCE, Random, Running, simulator};

const SLOTS: u64 = 8;

/// The path of an example program. `cargo test --test it` alone does not build examples, and an earlier build may
/// have left another version; if the program is up to date, this takes no time. The features are those of a plain
/// `cargo test` of the workspace, because others would build the library once more.
pub fn program(example: &str) -> PathBuf {
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

fn start(desk: &Desk, sim: &Simulator, program: &Path) -> Running {
    let mut command = desk.other(program, ["app", "documents.txt"]);
    command
        .env("BATCHWRIGHT_PROVIDER", "local")
        .env("BATCHWRIGHT_MODEL", "sim-1")
        .env("LOCAL_LLM_BASE_URL", sim.base_url());
    Running::start(&mut command)
}

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
        let running = start(&desk, &sim, &program);
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
    let ended = start(&desk, &sim, &program).wait().expect(0);
    let said = format!("{documents} documents, {documents} with a summary");
    assert!(ended.stdout.contains(&said), "{}", ended.stdout);

    let app = Connection::open(desk.path("app/app.db")).unwrap();
    let mut read = app
        .prepare("SELECT text, summary, error FROM documents JOIN summaries ON id = document")
        .unwrap();
    let mut rows = read.query([]).unwrap();
    let mut count = 0;
    while let Some(row) = rows.next().unwrap() {
        let text: String = row.get(0).unwrap();
        let summary: String = row.get(1).unwrap();
        assert!(summary.contains(&text), "{text:?}: {summary:?}");
        count += 1;
    }
    assert_eq!(count, documents);
    let queue = JobQueue::open(&desk.path("app/llm_jobs.db")).unwrap();
    assert!(queue.open_processes().unwrap().is_empty());
    let stats = sim.stats();
    assert!(stats.paid >= documents, "{stats:?}");
    assert!(stats.paid_twice <= kills * SLOTS, "{stats:?}");
}
