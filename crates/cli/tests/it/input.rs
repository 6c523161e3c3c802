//! Standard input as JSON lines or text.

use super::common::{Desk, good, id, results};
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
fn a_bad_line_of_standard_input_is_found_before_anything_is_sent() {
    let (desk, sim) = (Desk::new(), good());
    let lines = "{\"id\":\"a\",\"prompt\":\"one\"}\n{\"id\":\"a\",\"prompt\":\"two\"}\n";
    super::program::fed(&mut desk.against(&sim, "- -o out.jsonl"), lines).ends(
        2,
        "(standard input):2: found the id \"a\", which line 1 has already",
    );
    assert_eq!(sim.stats().calls, 0);
}
