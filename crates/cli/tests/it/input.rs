//! Standard input as JSON lines or text.

use std::process::Stdio;

use super::common::{Desk, Running, good, id, results};
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
    feed("", "- -o none.jsonl").ends(2, "held no prompts");

    let calls = sim.stats().calls;
    feed("one\ntwo\nthree\n", "- -o out.jsonl").expect(0);
    feed("two\nthree\nfour\none\n", "- -o out.jsonl").expect(0);
    assert_eq!(sim.stats().calls, calls + 4, "an output is resumed from");
    assert_eq!(desk.results("out.jsonl").len(), 4);
}

#[test]
fn a_bad_line_of_standard_input_keeps_earlier_results() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "- -o out.jsonl -j 1");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.feed("{\"id\":\"a\",\"prompt\":\"one\"}\n");
    let out = desk.path("out.jsonl");
    assert!(super::common::eventually(|| super::common::line_count(
        &out
    ) == 1));
    running.feed("{\"id\":\"a\",\"prompt\":\"two\"}\n{\"id\":\"c\",\"prompt\":\"three\"}\n");
    drop(running.child.stdin.take());
    running
        .wait()
        .ends(2, "line 1")
        .says("\"a\"")
        .says("standard input");
    assert_eq!(desk.ids("out.jsonl"), ["a"]);
}
