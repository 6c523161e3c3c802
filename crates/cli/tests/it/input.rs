//! What an input may contain, and the messages for invalid inputs.

use std::process::Stdio;

use super::common::{Desk, Ended, Running, good, id, results};
use super::program::fed;

/// Runs an invalid input: nothing is sent, and the output is not changed.
#[track_caller]
fn refused(name: &str, content: &[u8], flags: &[&str]) -> Ended {
    let (desk, sim) = (Desk::new(), good());
    desk.write(name, content);
    let run = |desk: &Desk| {
        let words = format!("{name} -o out.jsonl");
        Running::start(desk.against(&sim, &words).args(flags)).wait()
    };
    let ended = run(&desk).expect(2);
    assert!(!desk.exists("out.jsonl"), "an output was made");
    let torn = "{\"id\":\"a\",\"succ";
    desk.write("out.jsonl", torn);
    run(&desk).expect(2);
    assert_eq!(desk.read("out.jsonl"), torn, "an output was changed");
    assert_eq!(sim.stats().calls, 0);
    assert_eq!(ended.stdout, "");
    ended
}

#[test]
fn errors_of_bad_lines_name_found_and_expected_values() {
    let cases: [(&str, &[u8], &str); 4] = [
        (
            "in.jsonl",
            b"{\"prompt\":\"a\"}\n{\"id\":\"x\"}\n",
            ":2: found ",
        ),
        ("in.jsonl", b"{\"prompt\":\"\xff\"}\n", "invalid UTF-8"),
        ("in.pdf", b"x", "found a .pdf file; expected .jsonl"),
        ("in.txt", b" \n\n", "found no prompts"),
    ];
    for (name, content, said) in cases {
        let ended = refused(name, content, &[]).says(said).says("expected");
        ended.errs(name);
    }
}

#[test]
fn a_missing_input_is_named() {
    let (desk, sim) = (Desk::new(), good());
    let ended = desk.run(&sim, "nothing.jsonl -o out.jsonl").expect(2);
    ended.errs("nothing.jsonl: cannot be read");
    std::fs::create_dir(desk.path("hollow")).unwrap();
    desk.run(&sim, "hollow -o out.jsonl")
        .expect(2)
        .says("hollow: found no files");
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn the_forms_of_a_line_may_be_mixed() {
    let (desk, sim) = (Desk::new(), good());
    desk.write(
        "in.jsonl",
        concat!(
            "\u{feff}{\"id\":\"a\",\"prompt\":\"one\"}\r\n",
            "{\"id\":\"b\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"two\"}]}\n\n",
            "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"three\"}]}}\n",
            "{\"prompt\":\"four\"}\n{\"prompt\":\"four\"}",
        ),
    );
    desk.run(&sim, "in.jsonl -o out.jsonl -j 1").expect(0);
    let lines = desk.results("out.jsonl");
    let text = |i: usize| lines[i]["text"].as_str().unwrap();
    assert_eq!(lines.len(), 5);
    assert_eq!((id(&lines[0]).as_str(), text(0)), ("a", "echo: one"));
    assert_eq!((id(&lines[1]).as_str(), text(1)), ("b", "echo: two"));
    assert_eq!((id(&lines[2]).as_str(), text(2)), ("c", "echo: three"));
    assert_eq!(lines[2]["model"], "other");
    assert_eq!(lines[0]["model"], "sim-1");
    let hash = lines[3]["request_hash"].as_str().unwrap();
    assert_eq!(id(&lines[3]), hash[..16]);
    assert_eq!(id(&lines[4]), format!("{}-2", &hash[..16]));
}

#[test]
fn each_row_of_a_table_is_a_prompt() {
    let (desk, sim) = (Desk::new(), good());
    desk.write(
        "in.csv",
        "id,subject,text\nr1,hi,\"a, \"\"b\"\"\nc\"\nr2,ho,d\n",
    );
    let mut command = desk.against(&sim, "in.csv -o out.jsonl -j 1");
    command.args(["--template", "{{subject}}: {{text}}"]);
    Running::start(&mut command).wait().expect(0);
    let lines = desk.results("out.jsonl");
    assert_eq!(id(&lines[0]), "r1");
    assert_eq!(lines[0]["text"], "echo: hi: a, \"b\"\nc");
    assert_eq!(lines[1]["text"], "echo: ho: d");

    desk.write("in.tsv", "name\tcity\nAda\tLondon\n");
    desk.write("template.txt", "Who is {{name}} of {{city}}?\n");
    let words = "in.tsv -o tsv.jsonl --template @template.txt";
    desk.run(&sim, words).expect(0);
    let lines = desk.results("tsv.jsonl");
    assert_eq!(lines[0]["text"], "echo: Who is Ada of London?");

    desk.write("in.txt", "one\n\ntwo\n");
    let words = "in.txt -o txt.jsonl -j 1 --template Say:{{prompt}}";
    desk.run(&sim, words).expect(0);
    let lines = desk.results("txt.jsonl");
    assert_eq!(lines[0]["text"], "echo: Say:one");
    assert_eq!(lines.len(), 2);
}

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
    feed("", "- -o none.jsonl")
        .expect(2)
        .says("held no prompts");

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
    let ended = running.wait().expect(2);
    ended.says("line 1").says("\"a\"").says("standard input");
    assert_eq!(desk.ids("out.jsonl"), ["a"]);
}
