//! Calls that are under way, in the overview.

use std::time::{Duration, Instant};

use super::common::{Answer, Desk, PATIENCE};

#[test]
fn the_overview_counts_calls_that_are_under_way() {
    let desk = Desk::new();
    let calls = || {
        let overview = desk.read("/api/v1/overview");
        overview["worker"]["calls_in_flight"].as_u64().unwrap()
    };
    let until = |expected: u64| {
        let deadline = Instant::now() + PATIENCE;
        while calls() != expected {
            assert!(Instant::now() < deadline, "{:?}", calls());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    desk.sim.hold();
    let lines = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n";
    let request = desk.agent().post(desk.url("/api/v1/processes"));
    Answer::of(request.send(lines).unwrap()).is(201);
    until(2);
    desk.sim.release();
    until(0);
}
