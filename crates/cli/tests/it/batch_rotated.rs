//! Batches whose API key was rotated while they ran, and a database that is briefly unavailable: results at the
//! provider are collected anyway.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint};

use super::batch_site::{ANTHROPIC, Dialect, GEMINI, OPENAI, Site};
use super::common::{HOME, PATIENCE, RunToEnd, each};

const ITEMS: usize = 12;

fn slow() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(400))
}

/// The variables for the key and for the address.
fn variables(at: &Dialect) -> (String, String) {
    let name = match at.name {
        "gemini" => return ("GOOGLE_API_KEY".into(), "GOOGLE_GEMINI_BASE_URL".into()),
        name => name.to_uppercase(),
    };
    (format!("{name}_API_KEY"), format!("{name}_BASE_URL"))
}

#[test]
fn batches_of_a_rotated_key_are_taken_over_with_the_new_key() {
    each(&[&OPENAI, &ANTHROPIC, &GEMINI], |at| {
        let site = Site::new(at, slow(), ITEMS);
        site.kill_at(BatchPoint::StatusArrived, || {});
        let (key, url) = variables(at);
        let work = || {
            let mut command = site.command("work --until-empty");
            command.env(&key, "another");
            command.ended()
        };
        let doctor = |words: &str| {
            let mut command = site.desk.command(words.split_whitespace());
            command.env(&key, "another").env(&url, site.url());
            command.ended()
        };
        work().ends(4, "batches at").says("doctor --adopt-batches");
        let ill = doctor("doctor").expect(1).stdout;
        assert!(ill.contains("batchwright doctor --adopt-batches"), "{ill}");
        doctor("status").ends(0, "batchwright doctor --adopt-batches");

        // Its address differs from that of the batch, so the key is not sent there.
        let mut elsewhere = site.desk.command(["doctor", "--adopt-batches"]);
        let elsewhere = elsewhere.env(&key, "another").ended();
        let refused = elsewhere.expect(1).stdout;
        assert!(refused.contains("not adopted: no key for"), "{refused}");

        let adopted = doctor("doctor --adopt-batches").stdout;
        assert!(
            adopted.contains("adopted with the current key"),
            "{adopted}"
        );
        work().expect(0);
        site.bought_once();
        site.took(1);
    });
}

#[test]
fn the_same_worker_collects_its_batch_after_a_short_database_outage() {
    let site = Site::new(&OPENAI, slow(), ITEMS);
    let there = site.desk.path(HOME).join("llm_jobs.db");
    let away = site.desk.path(HOME).join("away.db");
    let pause = site.sim.pause_at(BatchPoint::StatusArrived, 1);
    let worker = site.start();
    assert!(pause.wait(PATIENCE), "{}", worker.said());
    std::fs::rename(&there, &away).unwrap();
    drop(pause);
    worker.hears("cannot record the state of batch");
    std::fs::rename(&away, &there).unwrap();
    worker.wait().expect(0);
    site.bought_once();
    site.took(1);
}
