//! The built-in simulator, through the program.

use std::io::{BufRead, BufReader};

use super::common::{Desk, Running, all_ids};

#[test]
fn the_simulator_serves_a_run_and_prints_its_counts_at_the_end() {
    let desk = Desk::with(12);
    let mut simulator = Running::start(&mut desk.command(["simulate", "--port", "0"]));
    let mut line = String::new();
    let stdout = simulator.child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("ready ").unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    simulator.hears("try: batchwright run");
    let run = "run in.jsonl -o out.jsonl -j 2 --provider local --model sim-1 --base-url";
    desk.plain(&format!("{run} {url}")).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(12));
    simulator.signal("TERM");
    let said = simulator.wait().expect(0).stderr;
    for name in ["calls", "answered", "paid"] {
        let mut rows = said.lines();
        let count = rows.find_map(|row| row.strip_prefix(name)).unwrap();
        assert_eq!(count.trim(), "12", "{name}");
    }
}
