//! A thousand callers at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::{Answer, Desk};
use super::openai::{CHAT, unlimited};
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
    let address = desk.server().address();
    let mut callers: Vec<TcpStream> = (0..CALLERS)
        .map(|n| {
            let message = json!({"role": "user", "content": format!("Question {n}.")});
            let body = json!({"model": "sim-1", "messages": [message]}).to_string();
            let length = body.len();
            let mut stream = TcpStream::connect(address).unwrap();
            let request = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    desk.sim.release();
    for (n, stream) in callers.iter_mut().enumerate() {
        let limit = Duration::from_secs(120);
        stream.set_read_timeout(Some(limit)).unwrap();
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
            let (url, text) = (desk.url(CHAT), &text);
            let agent = desk.agent();
            scope.spawn(move || {
                let message = json!({"role": "user", "content": text});
                let body = json!({"model": "sim-1", "messages": [message], "stream": true});
                let request = agent.post(url).content_type("application/json");
                Answer::of(request.send(body.to_string()).unwrap()).is(200)
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
