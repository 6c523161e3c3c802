//! Runs that end early: signals, errors that affect all items, a changed input.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use batchwright_simulate::{SimConfig, Trouble};

use super::common::{Desk, PATIENCE, RunToEnd, all_ids, good, ids_in_order, simulator};

#[test]
fn the_first_signal_lets_calls_in_flight_finish_and_starts_no_more() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        if name == "HUP" && survives_hangups() {
            continue;
        }
        let (desk, sim) = (Desk::with(20), good());
        let words = "in.jsonl -o out.jsonl -j 3";
        let running = desk.held(&sim, words, 3);
        running.signal(name);
        running.hears("stopping: calls in flight have up to 30 s to finish");
        sim.release();
        let ended = running.wait().ends(code, "what finished is saved");
        assert_eq!(sim.stats().calls, 3);
        assert_eq!(desk.results("out.jsonl").len(), 3);
        let mut lines = ended.stderr.lines();
        lines.find(|line| line.contains("to go on")).unwrap();
        let resume = lines.next().unwrap();
        assert!(resume.contains(env!("CARGO_BIN_EXE_batchwright")));
        assert!(resume.contains(words), "{resume}");
        ended.tells("3 completed, 0 failed, 17 pending");
        desk.run(&sim, words).expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(20));
        assert_eq!(sim.stats().paid_twice, 0);
    }
}

/// Whether `nohup` has started the tests: then the programs that they start survive a hangup too.
fn survives_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[test]
fn the_second_signal_ends_calls_that_hang() {
    let (desk, sim) = (Desk::with(20), good());
    let words = "in.jsonl -o out.jsonl -j 3";
    desk.run(&sim, &format!("{words} --max-items 5")).expect(0);
    let before = desk.read("out.jsonl");
    let running = desk.held(&sim, words, 3);
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let ended = running.wait().ends(130, "3 cut off in flight");
    ended.tells("15 pending");
    assert_eq!((desk.read("out.jsonl"), sim.stats().calls), (before, 8));
}

#[test]
fn a_signal_ends_waits_for_retries_and_limits() {
    let slow = Duration::from_secs(600);
    let waiting = SimConfig::default()
        .trouble(Trouble::RateLimit, 1.0)
        .retry_after(slow);
    let (desk, sim) = (Desk::with(5), simulator(waiting));
    let running = desk.start(&sim, "in.jsonl -o out.jsonl -j 2");
    assert!(sim.wait_until(|s| s.refused >= 1 && s.in_flight == 0, PATIENCE));
    running.signal("INT");
    running.wait().ends(130, "5 pending");
    assert_eq!(desk.read("out.jsonl"), "");
}

#[test]
fn a_refused_key_stops_at_once() {
    for flags in ["", "--on-error continue", "--on-error stop"] {
        let desk = Desk::with(30);
        let sim = simulator(SimConfig::default().api_key("right"));
        let words = format!("in.jsonl -o out.jsonl -j 3 {flags}");
        let keyed = |key: &str| {
            let mut command = super::batch_runs::command(&desk, &sim, &words);
            command.env("OPENAI_API_KEY", key).ended()
        };
        let ended = keyed("wrong").ends(4, "OPENAI_API_KEY").says("to go on");
        ended.hides("wrong");
        let calls = sim.stats().calls;
        assert!(calls <= 6, "{calls} calls with {flags:?}");
        assert!(desk.results("out.jsonl").len() as u64 <= calls);
        keyed("right").expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(30));
    }
}

#[test]
fn an_input_that_changes_stops_the_run() {
    let (desk, sim) = (Desk::with(10), good());
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 1", 1);
    let at = desk.read("in.jsonl").find("prompt 5").unwrap() as u64;
    let input = OpenOptions::new().write(true).open(desk.path("in.jsonl"));
    input.unwrap().write_all_at(b"PROMPT 5", at).unwrap();
    sim.release();
    running.wait().ends(4, "in.jsonl: changed during the run");
    assert_eq!(desk.order("out.jsonl"), ids_in_order(5));
    assert_eq!(sim.stats().calls, 5);
    desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    assert_eq!(sim.stats().calls, 10);
}
