//! Standard input as JSON lines or text, which is read to its end.

use std::process::Stdio;

use super::common::{Desk, Running, all_ids, good, id, prompt_line, results};
use super::program::fed;

#[test]
fn standard_input_is_json_lines_or_text() {
    let (desk, sim) = (Desk::new(), good());
    let feed = |text: &str, words: &str| fed(&mut desk.against(&sim, words), text);
    let lines = "{\"id\":\"a\",\"prompt\":\"one\"}\n\n{\"id\":\"b\",\"prompt\":\"two\"}";
    let ended = feed(lines, "- -j 1").expect(0);
    let found = results(&ended.stdout);
    assert_eq!((id(&found[0]), id(&found[1])), ("a".into(), "b".into()));
    let ended = feed("one\ntwo\none\n", "- -j 1").expect(0);
    let found = results(&ended.stdout);
    assert_eq!(found[1]["text"], "echo: two");
    assert_eq!(id(&found[2]), format!("{}-2", id(&found[0])));
    feed("", "- -o none.jsonl").ends(2, "found no prompts");

    let calls = sim.stats().calls;
    feed("one\ntwo\nthree\n", "- -o out.jsonl").expect(0);
    feed("two\nthree\nfour\none\n", "- -o out.jsonl").expect(0);
    assert_eq!(sim.stats().calls, calls + 4, "an output is resumed from");
    assert_eq!(desk.results("out.jsonl").len(), 4);
}

#[test]
fn nothing_is_sent_before_the_end_of_the_input() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "- -o out.jsonl");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.feed(&prompt_line(0));
    running.hears("waiting for the end of the input");
    assert_eq!(sim.stats().calls, 0);
    running.feed(&prompt_line(1));
    drop(running.child.stdin.take());
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

#[test]
fn a_signal_ends_the_program_although_the_read_blocks() {
    let (desk, sim) = (Desk::new(), good());
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = desk.against(&sim, "- -o out.jsonl");
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&prompt_line(0));
        running.hears("waiting for the end of the input");
        let pipe = running.child.stdin.take();
        running.signal(name);
        running.wait().expect(code);
        drop(pipe);
    }
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}
