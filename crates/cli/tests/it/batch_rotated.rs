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

/// The variable for the key.
fn variable(at: &Dialect) -> String {
    match at.name {
        "gemini" => "GOOGLE_API_KEY".into(),
        name => format!("{}_API_KEY", name.to_uppercase()),
    }
}

#[test]
fn batches_of_a_rotated_key_are_collected_with_the_new_key() {
    each(&[&OPENAI, &ANTHROPIC, &GEMINI], |at| {
        let site = Site::new(at, slow(), ITEMS);
        site.kill_at(BatchPoint::StatusArrived, || {});
        let key = variable(at);
        // Its address differs from that of the batch, so the key is not sent there.
        let mut elsewhere = site.desk.command(["work", "--until-empty"]);
        let elsewhere = elsewhere.env(&key, "another").ended();
        elsewhere.ends(4, "its key is not set here");

        let mut work = site.command("work --until-empty");
        work.env(&key, "another").ended().expect(0);
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
