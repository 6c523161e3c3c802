//! The built-in simulator, through the program.

use std::io::{BufRead, BufReader};

use super::common::{Desk, Ended, RunToEnd, Running, all_ids};

/// A simulator as a separate program, and its address.
fn start(desk: &Desk, words: &str) -> (Running, String) {
    let words = format!("simulate --port 0 {words}");
    let mut running = Running::start(&mut desk.command(words.split_whitespace()));
    let mut reader = BufReader::new(running.child.stdout.as_mut().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("ready ").unwrap().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    (running, url)
}

fn run(desk: &Desk, url: &str) -> Ended {
    let words = "run in.jsonl -o out.jsonl -j 2 --provider local --model sim-1 --base-url";
    desk.command(words.split(' ').chain([url])).ended()
}

#[test]
fn the_simulator_serves_a_run_and_prints_its_counts_at_the_end() {
    let desk = Desk::with(12);
    let (simulator, url) = start(&desk, "");
    simulator.hears("try: batchwright run");
    run(&desk, &url).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(12));
    simulator.signal("TERM");
    let ended = simulator.wait().expect(0);
    let row = |name: &str| {
        let mut lines = ended.stderr.lines();
        let row = lines.find_map(|line| line.strip_prefix(name));
        row.unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!((row("calls"), row("answered"), row("paid")), (12, 12, 12));
}
