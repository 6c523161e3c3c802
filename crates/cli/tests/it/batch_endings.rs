//! All ways in which a batch can end, for each kind of provider: answered prompts are kept, the others are
//! submitted in the next batch, and nothing is billed twice.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig};

use super::batch_site::{ALL, ANTHROPIC, Dialect, GEMINI, OPENAI, Site, XAI, prompt};
use super::common::each;

const ITEMS: usize = 24;

fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(100))
}

/// A site with a faulty line.
fn poisoned(at: &'static Dialect, batches: BatchConfig) -> Site {
    let batches = batches.poison("arsenic");
    Site::with(at, SimConfig::default().batches(batches), 300, |i| {
        let taste = if i == 117 { " arsenic" } else { "" };
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
fn an_unnamed_faulty_line_is_halved_until_few_requests_are_called() {
    each(&[&OPENAI, &XAI, &GEMINI], |at| {
        let site = poisoned(at, quick().hide_lines(true));
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
    let site = poisoned(&ANTHROPIC, quick());
    site.finish(3);
    assert_eq!((site.answers().len(), site.counts().failed), (299, 1));
    site.paid_once();
    site.took(1);
}
