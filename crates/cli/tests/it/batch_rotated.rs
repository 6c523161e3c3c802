//! Batches whose API key was rotated while they ran, and a database that is briefly unavailable: results at the
//! provider are collected anyway.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint};

use super::batch_site::{ANTHROPIC, Dialect, GEMINI, OPENAI, Site};
use super::common::{RunToEnd, each};

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
