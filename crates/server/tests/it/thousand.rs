//! A thousand callers at once.

use std::io::Read;
use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::Desk;
use super::openai::{CHAT, question, sent, unlimited};
use super::openai_direct::wait_for_jobs;

const CALLERS: usize = 1_000;
const AT_ONCE: u64 = 16;

#[test]
fn a_thousand_callers_at_once_are_all_answered_and_each_is_paid_for_once() {
    let sim = SimConfig::default()
        .latency(Duration::from_millis(20))
        .max_parallel(AT_ONCE);
    let desk = Desk::prepared(sim, |store| {
        use batchwright::config::ConfigStore;
        store
            .set("llm.sync_concurrency", &AT_ONCE.to_string())
            .unwrap();
    });
    // No call ends before all callers are there.
    desk.sim.hold();
    let mut callers = Vec::new();
    for n in 0..CALLERS {
        let question = question(&format!("Question {n}."));
        callers.push(sent(&desk, "connection: close\r\n", &question));
    }
    desk.sim.release();
    for (n, stream) in callers.iter_mut().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{n}: {answer}");
        assert!(answer.contains("chat.completion"), "{n}: {answer}");
    }
    let stats = desk.sim.stats();
    assert_eq!((stats.calls, stats.answered), (1_000, 1_000));
    assert!(stats.max_in_flight <= AT_ONCE, "{stats:?}");
}

#[test]
fn calls_that_wait_hold_no_memory_of_their_bodies() {
    const CALLS: usize = 12;
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    // Four bodies of this length are received at a time.
    let text = "x".repeat(1500 << 10);
    std::thread::scope(|scope| {
        let calls = [(); CALLS].map(|()| {
            scope.spawn(|| {
                let mut body = question(&text);
                body["stream"] = json!(true);
                desk.post(CHAT, &body).is(200)
            })
        });
        // All of them wait for the provider, which answers none.
        wait_for_jobs(&desk, CALLS);
        assert_eq!(desk.sim.stats().answered, 0);
        desk.sim.release();
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!(answer.header("content-type"), Some("text/event-stream"));
            assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
        }
    });
}
