//! Batches whose credential is in a header or a renewed token: who may collect and cancel them.

#![cfg(unix)]

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig};

use super::batch_site::{OPENAI, Site, prompt};
use super::common::{PATIENCE, RunToEnd, Running};

const ITEMS: usize = 6;
const HEADER: &str = "Authorization: Bearer sk-right-0123456789";
const POLL: (&str, &str) = ("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");

/// Lets this worker create a batch, and then kills it.
fn submit(site: &Site, mut worker: Command) {
    let pause = site.sim.pause_at(BatchPoint::StatusArrived, 1);
    let worker = Running::start(&mut worker);
    assert!(pause.wait(PATIENCE), "{}", worker.said());
    drop(worker);
}

fn work(site: &Site, header: &str) -> Command {
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
    submit(&site, work(&site, HEADER));
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
