//! Standard input that stays open.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::common::{Desk, Running, all_ids, eventually, good, line_count, prompt_line};

#[test]
fn items_are_answered_while_the_input_stays_open() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "- -o out.jsonl -j 2");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let out = desk.path("out.jsonl");
    for i in 0..5 {
        running.feed(&prompt_line(i));
        assert!(eventually(|| line_count(&out) == i + 1), "item {i}");
    }
    drop(running.child.stdin.take());
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
}

#[test]
fn each_answer_is_out_before_the_next_question() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "-");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    for i in 0..3 {
        running.feed(&format!("question {i}\n"));
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("echo: question {i}")), "{line}");
    }
    drop(running.child.stdin.take());
    running.wait().expect(0);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_program_although_the_read_blocks() {
    let (desk, sim) = (Desk::new(), good());
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = desk.against(&sim, "- -o out.jsonl");
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&prompt_line(0));
        assert!(eventually(|| line_count(&desk.path("out.jsonl")) == 1));
        running.hears("provider local");
        running.signal(name);
        let pipe = running.child.stdin.take();
        running.wait().expect(code).says("interrupted");
        drop(pipe);
        assert_eq!(desk.ids("out.jsonl"), ["i-0"]);
    }
    // Nothing at all was ever given.
    let mut command = desk.against(&sim, "-");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.hears("waiting for the input");
    let pipe = running.child.stdin.take();
    running.signal("INT");
    running.wait().expect(130);
    drop(pipe);
}

#[test]
fn a_closed_output_ends_the_program_although_the_read_blocks() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "-");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    drop(running.child.stdout.take());
    running.feed("a question\n");
    let pipe = running.child.stdin.take();
    running.wait().expect(4).says("reader of the results");
    drop(pipe);
}

#[test]
fn a_bounded_number_of_items_ends_although_the_input_stays_open() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "- -o out.jsonl --max-items 2");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.feed(&(0..3).map(prompt_line).collect::<String>());
    let pipe = running.child.stdin.take();
    running.wait().expect(0);
    drop(pipe);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

#[test]
fn a_stream_with_an_output_is_resumed_failed_ones_included() {
    let (desk, sim) = (Desk::new(), good());
    let all: String = (0..4).map(prompt_line).collect();
    let feed = |flags: &str| {
        let mut command = desk.against(&sim, &format!("- -o out.jsonl {flags}"));
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&all);
        drop(running.child.stdin.take());
        running.wait()
    };
    feed("-j 1").expect(0);
    let text = desk.read("out.jsonl");
    let failed = text.replacen("\"success\":true", "\"success\":false", 1);
    desk.write("out.jsonl", &failed);
    feed("--keep-failed").expect(3);
    assert_eq!(desk.read("out.jsonl"), failed);
    assert_eq!(sim.stats().calls, 4);
    feed("--ordered").expect(0);
    assert_eq!(sim.stats().calls, 5);
    assert_eq!(desk.order("out.jsonl"), all_ids(4));
}
