//! The example that submits at night and collects in the morning, killed in between.

#![cfg(unix)]

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig, Simulator};
use serde_json::Value;

use super::common::{Desk, PATIENCE, Running, simulator};
use super::example_durable::program;

const LINES: usize = 40;

fn start(desk: &Desk, sim: &Simulator, program: &Path, words: &[&str]) -> Running {
    let mut command = desk.other(program, words);
    command
        .env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_MODEL", "sim-1")
        .env("OPENAI_API_KEY", "any")
        .env("OPENAI_BASE_URL", sim.base_url())
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");
    Running::start(&mut command)
}

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
    let night = start(&desk, &sim, &program, &["night", "lines.txt"]);
    assert!(created.wait(PATIENCE));
    night.signal("KILL");
    night.wait();
    drop(created);
    let night = start(&desk, &sim, &program, &["night", "lines.txt"]);
    let night = night.wait().expect(0);
    let going_on = format!("going on with {LINES} prompts of before");
    assert!(night.stdout.contains(&going_on), "{}", night.stdout);
    let id = sim.batch_stats().batches[0].id.clone();
    let named = format!("batch {id} at openai: ");
    assert!(night.stdout.contains(&named), "{}", night.stdout);

    let half = sim.pause_at(BatchPoint::DownloadHalf, 1);
    let morning = start(&desk, &sim, &program, &["morning"]);
    assert!(half.wait(PATIENCE));
    morning.signal("KILL");
    morning.wait();
    drop(half);
    let morning = start(&desk, &sim, &program, &["morning"]).wait().expect(0);
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
    let again = start(&desk, &sim, &program, &["morning"]).wait().expect(0);
    assert_eq!(again.stdout, "nothing was handed over\n");
    start(&desk, &sim, &program, &["night", "lines.txt"])
        .wait()
        .expect(0);
    assert_eq!(sim.batch_stats().created, 2);
}
