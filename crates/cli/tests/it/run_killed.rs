//! Killed runs in batches: the next run resumes, and nothing is billed twice.

use std::time::Duration;

use batchwright_simulate::SimConfig;

use super::batch_runs::*;
use super::common::{Desk, PATIENCE, Random, all_ids, simulator, *};

#[test]
fn a_run_killed_while_it_enqueues_adopts_the_queued_prompts() {
    const N: usize = 6000;
    let (desk, sim) = (Desk::with(N), taking(SHORT));
    let running = start(&desk, &sim, WORDS);
    let store = queue(&desk);
    let halfway = || {
        let now = store.open_processes().unwrap();
        now.first().is_some_and(|now| !now.sealed)
    };
    assert!(eventually(halfway));
    kill(running);
    let there = store.process(only_process(&desk)).unwrap().unwrap();
    drop(store);
    assert!(!there.sealed && there.counts.total > 7, "{there:?}");
    desk.input(prompt_lines(N).replace("\"prompt 7\"", "\"edited\""));
    let ended = run(&desk, &sim, "in.jsonl -o out.jsonl --json").expect(0);
    let told = ended.json();
    assert_eq!(told["attached"], there.counts.total - 1);
    assert_eq!(told["submitted"], N as u64 - there.counts.total + 1);
    whole(&desk, &sim, "out.jsonl", N);
}

/// Kills a run repeatedly at moments that the seed determines, and then lets it finish. `different`: prompts that are
/// not equal to others.
pub fn killed(seed: u64, input: &str, different: usize, kills: u64, flags: &str) -> Desk {
    const CONCURRENCY: u64 = 4;
    let (mut random, desk) = (Random(seed), Desk::new());
    let few = Duration::from_millis(4);
    let sim = simulator(SimConfig::default().jitter(few).seed(seed));
    desk.write("in.jsonl", input);
    let words = format!("in.jsonl -o out.jsonl -j {CONCURRENCY} -q {flags}");
    let mut done = 0;
    let mut happened = 0;
    for _ in 0..kills {
        let until = sim.stats().calls + random.below(different as u64 / kills);
        let mut running = desk.start(&sim, &words);
        let exit = &mut running.child;
        sim.wait_until(
            |s| s.calls > until || exit.try_wait().unwrap().is_some(),
            PATIENCE,
        );
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        running.signal("KILL");
        happened += u64::from(running.wait().status.code().is_none());
        let text = desk.read("out.jsonl");
        let whole = text.matches('\n').count();
        assert!(whole >= done, "seed {seed}: a settled line is gone");
        done = whole;
    }
    desk.run(&sim, &words).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(input.lines().count()));
    let stats = sim.stats();
    let most = happened * CONCURRENCY;
    assert!(stats.paid_twice <= most, "seed {seed}: {stats:?}");
    assert!(happened * 2 > kills, "seed {seed}: {happened} kills");
    assert_eq!(stats.calls, different as u64 + stats.paid_twice);
    desk.run(&sim, &words).expect(0);
    assert_eq!(sim.stats().calls, stats.calls);
    desk
}

#[test]
fn killed_runs_lose_nothing_and_repeat_at_most_calls_in_flight() {
    killed(1, &prompt_lines(200), 200, 4, "");
    killed(2, &prompt_lines(200), 200, 4, "--ordered");
    killed(3, &prompt_lines(100), 100, 2, "--fsync");
}

#[test]
#[ignore = "takes about a minute"]
fn many_killed_runs_lose_nothing() {
    for seed in 10..40 {
        let flags = ["", "--ordered", "--fsync"][seed as usize % 3];
        killed(seed, &prompt_lines(1000), 1000, 20, flags);
    }
}

/// Kills a run while it sorts its finished output.
#[test]
fn a_run_killed_while_compacting_keeps_every_result() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let items = 1000;
    desk.prompts("in.jsonl", items);
    desk.run(&sim, "in.jsonl -o out.jsonl -j 4 -q").expect(0);
    let mut random = Random(7);
    for _ in 0..6 {
        let running = desk.start(&sim, "in.jsonl -o out.jsonl -q --ordered");
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        running.signal("KILL");
        running.wait();
        assert_eq!(desk.ids("out.jsonl"), all_ids(items));
    }
    let words = "in.jsonl -o out.jsonl -q --ordered";
    desk.run(&sim, words).expect(0);
    assert_eq!(desk.order("out.jsonl"), super::common::ids_in_order(items));
    assert_eq!(sim.stats().calls, items as u64);
    let left = std::fs::read_dir(desk.path("")).unwrap().count();
    assert_eq!(left, 2, "nothing is left beside the two files");
}
