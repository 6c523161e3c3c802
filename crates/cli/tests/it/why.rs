//! `status --why`: how the time of a process was spent.

use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::Value;

use super::common::{Desk, simulator};

const PARTS: [&str; 7] = [
    "queued_ms",
    "quota_ms",
    "cooldown_ms",
    "backoff_ms",
    "provider_ms",
    "disk_ms",
    "source_ms",
];

/// The process submitted last, as `status --json` shows it.
fn last(desk: &Desk) -> Value {
    let shown = desk.plain("status --json").expect(0).stdout;
    let mut shown: Value = serde_json::from_str(&shown).unwrap();
    shown["processes"].as_array_mut().unwrap().pop().unwrap()
}

fn parts(process: &Value) -> [u64; 7] {
    PARTS.map(|part| process["time"][part].as_u64().unwrap())
}

#[test]
fn the_time_split_is_shown_during_the_run_and_after_it() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(50)));
    let work = |limit: &str| {
        let url = sim.base_url();
        let to = format!("--provider local --base-url {url} --model sim-1");
        desk.plain(&format!("work --until-empty {limit} {to}"))
            .expect(0);
    };
    desk.prompts("one.jsonl", 40);
    desk.plain("submit one.jsonl").expect(0);
    let waits = desk.plain("status --why").expect(0).stdout;
    assert!(waits.contains("no worker had any of its jobs"), "{waits}");
    assert!(waits.contains("now: 40 jobs waiting"), "{waits}");
    let before = parts(&last(&desk));
    assert_eq!(before.iter().sum::<u64>(), before[0]);

    work("-j 2");
    let ended = last(&desk);
    let [queued, quota, _, _, provider, ..] = parts(&ended);
    assert!(queued >= before[0] && provider > 0 && quota == 0, "{ended}");
    assert_eq!(parts(&ended), parts(&last(&desk)), "it stands still");
    let why = desk.plain("status --why").expect(0).stdout;
    for words in [": took ", "provider", "now: nothing left to do"] {
        assert!(why.contains(words), "{words} in {why}");
    }

    // A local server gets one call at a time, which is no limit of its rate.
    desk.prompts("slow.jsonl", 20);
    desk.plain("submit slow.jsonl").expect(0);
    work("");
    let [_, quota, _, _, provider, ..] = parts(&last(&desk));
    assert!(quota == 0 && provider > 0, "{}", last(&desk));

    desk.prompts("two.jsonl", 20);
    desk.plain("submit two.jsonl").expect(0);
    work("--rpm 300");
    let [_, quota, ..] = parts(&last(&desk));
    assert!(quota > 0, "{}", last(&desk));
    desk.plain("status --why --watch").expect(2);
}
