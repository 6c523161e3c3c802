//! All ways in which a batch can end, for each kind of provider: answered prompts are kept, the others are
//! submitted in the next batch, and nothing is billed twice.

#![cfg(unix)]

use std::time::Duration;

use batchwright::unstable::BatchClient;
use batchwright::{Context, LlmConfig, Secret};
use batchwright_simulate::{BatchConfig, BatchStats, SimConfig};
use serde_json::Value;

use super::batch_site::{
    ALL, ANTHROPIC, AZURE, DEEPINFRA, Dialect, GEMINI, GROQ, KINDS, OPENAI, Site, XAI, prompt,
};
use super::common::{PATIENCE, each};

const ITEMS: usize = 24;

fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(100))
}

pub fn poisoned(
    at: &'static Dialect,
    batches: BatchConfig,
    items: usize,
    poison: &[usize],
) -> Site {
    let batches = batches.poison("arsenic");
    Site::with(at, SimConfig::default().batches(batches), items, |i| {
        let taste = if poison.contains(&i) { " arsenic" } else { "" };
        prompt(i) + taste
    })
}

#[test]
fn failures_of_single_requests_affect_no_other_request() {
    each(&ALL, |at| {
        let site = Site::new(at, quick().item_failures(0.3), ITEMS);
        site.finish(3);
        let answered = site.answers().len() as u64;
        assert!(answered > 0 && answered < ITEMS as u64, "{}", at.name);
        assert_eq!(site.counts().failed, ITEMS as u64 - answered);
        site.paid_once();
        site.took(1);
    });
}

#[test]
fn prompts_without_a_result_are_in_the_next_batch() {
    each(&KINDS, |at| {
        let site = Site::new(at, quick().missing(0.3), ITEMS);
        site.finish(0);
        site.bought_once();
        assert!(site.sim.batch_stats().started > 1, "{}", at.name);
        assert_eq!(site.sim.batch_stats().files_left, 0);
    });
}

/// Number of items in the second of two batches.
fn second(site: &Site) -> u64 {
    site.bought_once();
    site.took(2);
    site.sim.batch_stats().batches[1].items
}

#[test]
fn the_next_batch_finishes_an_expired_one() {
    each(&KINDS, |at| {
        let half = Site::new(at, quick().expire_first(1, 0.5), ITEMS);
        half.finish(0);
        let share = if at.name == GEMINI.name { 1 } else { 2 };
        assert_eq!(second(&half), (ITEMS / share) as u64, "{}", at.name);
        let none = Site::new(at, quick().expire_first(1, 0.0), ITEMS);
        none.finish(0);
        assert_eq!(second(&none), ITEMS as u64, "{}", at.name);
    });
}

#[test]
fn the_next_batch_finishes_one_that_was_cancelled_elsewhere() {
    // At Gemini, the finished results of a cancelled batch may be billed and lost.
    each(&[&OPENAI, &GROQ, &XAI, &ANTHROPIC], |at| {
        let slow = BatchConfig::default().duration(Duration::from_secs(3));
        let site = Site::new(at, slow, ITEMS);
        let worker = site.start();
        let some = |s: &BatchStats| s.statuses > 0 && s.items_finished > 0;
        assert!(site.sim.wait_for_batches(some, PATIENCE));
        let somebody = LlmConfig::new(at.name).model("sim-1").base_url(site.url());
        let somebody = somebody.api_key(Secret::new("k")).batch_client().unwrap();
        let id = &site.sim.batch_stats().batches[0].id;
        somebody.cancel(id, &Context::new()).unwrap();
        worker.wait().expect(0);
        let rest = second(&site);
        let stats = site.sim.batch_stats();
        assert_eq!(rest, ITEMS as u64 - stats.batches[0].finished, "{stats:?}");
        assert!(rest > 0 && rest < ITEMS as u64, "{}", at.name);
    });
}

#[test]
fn only_a_line_named_by_the_provider_fails() {
    each(&[&OPENAI, &GROQ, &DEEPINFRA, &AZURE], |at| {
        let site = poisoned(at, quick(), 300, &[117]);
        one_fails(&site, 1);
    });
}

#[test]
fn an_unnamed_faulty_line_is_halved_until_few_requests_are_called() {
    each(&[&OPENAI, &XAI, &GEMINI], |at| {
        let site = poisoned(at, quick().hide_lines(true), 300, &[117]);
        site.finish(0)
            .says("they are called one by one, at the price of calls");
        let (stats, calls) = (site.sim.batch_stats(), site.sim.stats());
        assert_eq!(
            (site.answers().len(), stats.bought_twice),
            (300, 0),
            "{}",
            at.name
        );
        assert_eq!(
            (stats.items_finished, calls.calls),
            (225, 75),
            "{}",
            at.name
        );
    });
    let site = poisoned(&ANTHROPIC, quick(), 300, &[117]);
    one_fails(&site, 0);
}

fn one_fails(site: &Site, most: u64) {
    site.finish(3);
    one_failed(site, most);
}

/// One prompt failed, the others were answered, and it took more than one and at most `most` submissions.
#[track_caller]
pub fn one_failed(site: &Site, most: u64) {
    let name = site.at.name;
    assert_eq!(site.answers().len(), site.items - 1, "{name}");
    assert_eq!(site.counts().failed, 1, "{name}");
    site.paid_once();
    let stats = site.sim.batch_stats();
    let further = stats.creates - 1;
    println!(
        "{name}, {} items: {further} further submissions",
        site.items
    );
    assert!(further <= most, "{name} {further}");
    assert_eq!(stats.files_left, 0, "{name}");
}

#[test]
fn a_full_queue_at_the_provider_costs_no_attempt() {
    // Gemini's rejection requires minutes of waiting; xAI has no such limit.
    each(&[&OPENAI, &GROQ, &ANTHROPIC], |at| {
        let site = Site::new(at, quick().enqueued_tokens(60), ITEMS);
        site.finish(0);
        site.bought_once();
        let stats = site.sim.batch_stats();
        assert!(
            stats.started > 1 && stats.creates > stats.started,
            "{stats:?}"
        );
        assert_eq!(stats.files_left, 0, "{}", at.name);
        for result in site.queue.get_results(site.process) {
            let line: Value = serde_json::from_str(&result.unwrap().line()).unwrap();
            assert_eq!(line["attempts"], 1, "{} {line}", at.name);
        }
    });
}

#[test]
fn odd_results_are_detected_and_resend_nothing() {
    let all = [
        quick().duplicates(7).strangers(7),
        quick().cut_downloads(2),
        quick().short_downloads(1),
        quick().cut_downloads(1).short_downloads(1),
        // The right number of lines, but some of the wrong items.
        quick().short_downloads(1).strangers(12),
    ];
    for (n, batches) in all.iter().enumerate() {
        each(&KINDS, |at| {
            let site = Site::new(at, batches.clone(), ITEMS);
            let ended = site.finish(0);
            site.bought_once();
            site.took(1);
            if n == 0 {
                let stderr = &ended.stderr;
                assert!(stderr.contains("7 repeated lines"), "{} {stderr}", at.name);
                assert!(stderr.contains("7 lines of unknown requests"), "{stderr}");
            }
        });
    }
}
