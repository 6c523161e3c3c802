//! Many large replies at once, with little memory.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::{Desk, Running, all_ids, eventually, good, simulator};
use super::fake::{Fake, reply};

/// Calls whose replies are large.
const CALLS: usize = 24;
/// Size of the text of each reply.
const MIB: usize = 4;

/// A server that answers all calls at once, and one more when `go_on` is released.
fn server(go_on: Arc<Barrier>) -> Fake {
    let all = Barrier::new(CALLS);
    let large = reply(json!({"content": "large ".repeat((MIB << 20) / 6)}));
    let last = format!("prompt {CALLS}");
    Fake::answering(move |body| {
        if body["messages"][0]["content"] == *last {
            go_on.wait();
            reply(json!({"content": "small"}))
        } else {
            all.wait();
            large.clone()
        }
    })
}

/// The program requests all of them at once, with memory for few. Each is saved, and the peak memory is that of a
/// few replies.
#[test]
fn large_replies_wait_for_memory_and_are_saved() {
    let desk = Desk::new();
    desk.prompts("in.jsonl", CALLS + 1);
    let go_on = Arc::new(Barrier::new(2));
    let server = server(go_on.clone());
    let calls = CALLS + 1;
    let mut command = server.run(&desk, &format!("-j {calls} --max-memory 1M"));
    command.env("RATE_LIMIT_BURST_SIZE", "100");
    // The C library keeps freed memory for each thread, except pieces above this size.
    command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    let running = Running::start(&mut command);
    let large = (CALLS * (MIB << 20)) as u64;
    let saved = || std::fs::metadata(desk.path("out.jsonl")).is_ok_and(|out| out.len() > large);
    assert!(eventually(saved), "{}", running.said());
    let kib = running.peak_memory().unwrap() as usize;
    go_on.wait();
    let said = running.wait().expect(0).stderr;
    let warned = said.matches("raise the memory limit").count();
    assert_eq!(warned, 1, "{said}");
    assert_eq!(desk.ids("out.jsonl"), all_ids(calls));
    // Without the limit, bodies and decoded texts would take twice the size of all replies.
    let all = CALLS * MIB;
    assert!(kib / 1024 < all + all / 3, "{kib} KiB for {all} MiB");
}

/// Prompts that are themselves large.
const PROMPTS: usize = 20;

#[test]
fn large_prompts_wait_until_there_is_memory_for_them() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(200)));
    let line = |i| {
        let text = format!("large {i} ").repeat((1 << 20) / 8);
        format!("{{\"id\":\"i-{i}\",\"prompt\":\"{text}\"}}\n")
    };
    desk.input((0..PROMPTS).map(line).collect::<String>());
    let words = format!("in.jsonl -o out.jsonl -j {PROMPTS} --max-memory 40M");
    let mut command = desk.against(&sim, &words);
    command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    let (ended, kib) = Running::start(&mut command).wait_with_peak();
    ended.expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(PROMPTS));
    assert!(kib / 1024 < 75, "{kib} KiB");
}

#[test]
fn a_prompt_for_which_there_is_never_enough_memory_is_refused_with_its_line() {
    let (desk, sim) = (Desk::new(), good());
    let large = format!("{{\"id\":\"b\",\"prompt\":\"{}\"}}\n", "x".repeat(2 << 20));
    desk.input(format!("{{\"id\":\"a\",\"prompt\":\"x\"}}\n{large}"));
    let run = |flags: &str| desk.run(&sim, &format!("in.jsonl -o out.jsonl {flags}"));
    run("--max-memory 3M")
        .ends(2, "in.jsonl:2: found a prompt of 2097")
        .tells("at most 1048576, 1/3 of the memory limit (--max-memory SIZE)");
    run("--max-memory 3M --bad-rows skip").expect(3);
    assert_eq!(sim.stats().calls, 1);
    run("--max-memory 10M").expect(0);
    assert_eq!(sim.stats().calls, 2);
}
