//! Inputs: formats, standard input, ids, bad rows, several inputs, and fields of the rows that are copied to their results.

use std::process::Stdio;

use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::batch_runs::{SHORT, batch, taking};
use super::common::{
    Desk, Ended, Has, RunToEnd, Running, all_ids, cases, good, id, prompt_line, prompt_lines,
    results,
};
use super::program;

const TABLE: &str = "id,text\nr1,\"two\nlines\"\nr2,b\n";

/// Runs these words, split at `|`, with that standard input.
fn fed(desk: &Desk, sim: &Simulator, words: &str, text: &str) -> Ended {
    program::fed(desk.against(sim, "").args(words.split('|')), text)
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["text"].as_str().unwrap())
        .collect()
}

#[test]
fn a_table_on_standard_input_or_a_named_pipe_is_not_read_as_text() {
    let (desk, sim) = (Desk::new(), good());
    fed(&desk, &sim, "-", TABLE)
        .ends(2, "what looks like a table (id,text)")
        .tells("--format csv, or --format txt");
    fed(&desk, &sim, "/dev/stdin", TABLE).ends(2, "/dev/stdin: found what looks like");
    assert_eq!(sim.stats().calls, 0);

    let csv = "--format|csv|-j|1|--template|{{text}}";
    let windows = TABLE.replace('\n', "\r\n");
    let ended = fed(&desk, &sim, &format!("-|{csv}"), &windows).expect(0);
    let lines = results(&ended.stdout);
    assert_eq!(texts(&lines), ["echo: two\r\nlines", "echo: b"]);
    let words = format!("/dev/stdin|{csv}|-o|out.jsonl");
    fed(&desk, &sim, &words, TABLE).expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["r1", "r2"]);
    fed(&desk, &sim, &words, TABLE).ends(0, "2 finished before");
    let broken = "{\"prompt\":\"a\"}\n{\n";
    fed(&desk, &sim, "/dev/stdin", broken).ends(2, "/dev/stdin:2: found invalid JSON");
    fed(&desk, &sim, "/dev/stdin|more.jsonl", "").ends(2, "must be the only input");
    fed(&desk, &sim, "/dev/stdin", "").ends(2, "/dev/stdin: found no prompts");
}

#[test]
fn several_files_are_one_input() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("a.jsonl", prompt_lines(3).trim_end());
    desk.write("b.csv", "id,prompt\ni-3,prompt 3\ni-4,prompt 4\n");
    desk.write("c.json", "[{\"id\":\"i-5\",\"prompt\":\"prompt 5\"}]");
    desk.write("d.txt", "one\ntwo\none");
    let words = "a.jsonl b.csv c.json d.txt -o out.jsonl -j 1";
    desk.run(&sim, words).ends(0, "9 items: 9 to send");
    let lines = desk.results("out.jsonl");
    assert_eq!(texts(&lines)[2..4], ["echo: prompt 2", "echo: prompt 3"]);
    assert_eq!(id(&lines[8]), format!("{}-2", id(&lines[6])));
    desk.run(&sim, words).ends(0, "9 finished before");
    // Separately or together, in any order: the items are the same.
    desk.run(&sim, "c.json a.jsonl -o out.jsonl")
        .ends(0, "4 finished before");

    desk.write("e.jsonl", "\n{\"id\":\"i-4\",\"prompt\":\"x\"}\n");
    desk.write("empty.txt", "\n");
    std::fs::create_dir(desk.path("hollow")).unwrap();
    for (words, says) in cases(
        r#"
        a.jsonl e.jsonl b.csv => b.csv:3: found the id "i-4", which e.jsonl:2 has already
        a.jsonl empty.txt => empty.txt: found no prompts
        d.txt ./d.txt => ./d.txt: it is named twice
        d.txt hollow => hollow: found no files
        a.jsonl - => must be the only input
        a.jsonl b.csv -o b.csv => it is also the input
    "#,
    ) {
        desk.run(&sim, words).ends(2, says);
    }
    assert_eq!(sim.stats().calls, 9);
}

#[test]
fn ids_come_from_the_column_that_is_named() {
    let (desk, sim) = (Desk::new(), good());
    let run = |words: &str| desk.run(&sim, &format!("{words} --template {{{{text}}}}"));
    desk.write("in.csv", "id,key,text\n,k1,a\n,k2,b\n");
    run("in.csv --column id=key -o csv.jsonl").expect(0);
    assert_eq!(desk.ids("csv.jsonl"), ["k1", "k2"]);
    run("in.csv --column id=kee").ends(2, "one named \"kee\" for the ids (did you mean \"key\"?)");
    desk.input("{\"key\":7,\"text\":\"a\"}\n{\"key\":\"k\",\"text\":\"b\"}\n");
    run("in.jsonl --column id=key -o jsonl.jsonl").expect(0);
    assert_eq!(desk.ids("jsonl.jsonl"), ["7", "k"]);
    desk.input("{\"key\":7,\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    run("in.jsonl --column id=key").ends(2, "in.jsonl:2: found no field \"key\"");
    // A run without ids is told once what that means.
    desk.write("in.csv", "text\na\nb\n");
    run("in.csv -o none.jsonl")
        .ends(
            0,
            "2 items: 2 to send; 2 rows have no id; each gets one made from its request.",
        )
        .tells("--column id=NAME");
    let ended = run("in.csv -o none.jsonl").ends(0, "2 finished before");
    ended.hides("--column");
}

#[test]
fn bad_rows_are_named_or_fail_unsent() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,prompt\na,one\nb, \nc,three\nd,x,y\n,\n");
    let ended = desk.run(&sim, "in.csv -o out.jsonl").expect(2);
    assert_eq!(ended.stderr.matches(": found ").count(), 2);
    ended
        .says("in.csv:3: found an empty prompt")
        .tells("in.csv:5: found a row of 3 fields");
    assert!(!desk.exists("out.jsonl"));

    let words = "in.csv -o out.jsonl --bad-rows skip -j 1";
    desk.run(&sim, words)
        .ends(3, "4 items: 2 bad rows that are not sent, 2 to send");
    assert_eq!(sim.stats().calls, 2);
    let lines = desk.results("out.jsonl");
    let failed = lines.iter().filter(|line| line["success"] == false);
    let failed: Vec<_> = failed.collect();
    assert_eq!((lines.len(), failed.len()), (4, 2));
    for (line, (id, at)) in failed.iter().zip([("b", 3), ("d", 5)]) {
        line.has(json!({"id": id, "/error/kind": "invalid", "attempts": 0}));
        let why = line["error"]["message"].as_str().unwrap();
        assert!(
            why.starts_with(&format!("not sent: in.csv:{at}: found ")),
            "{why}"
        );
    }
    // A second run neither writes nor sends anything for them.
    let before = desk.read("out.jsonl");
    let ended = desk.run(&sim, &format!("{words} --json")).expect(3);
    let counts = json!({"/summary/total": 4, "/summary/completed": 2, "/summary/failed": 2});
    ended.json().has(counts);
    assert_eq!((desk.read("out.jsonl"), sim.stats().calls), (before, 2));
    // One row is corrected.
    desk.write("in.csv", "id,prompt\na,one\nb,two\nc,three\nd,x,y\n,\n");
    desk.run(&sim, words).ends(3, "1 to send");
    assert_eq!((desk.results("out.jsonl").len(), sim.stats().calls), (4, 3));
}

#[test]
fn a_row_that_cannot_be_read_keeps_its_id() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,prompt\na,o\0ne\nb,\"two\"x\nc,three\n");
    desk.write("in.tsv", "id\tprompt\nd\t\"one\ne\ttwo\"\nf\tthree\n");
    desk.run(&sim, "in.csv in.tsv -o out.jsonl --bad-rows skip")
        .ends(3, "3 bad rows that are not sent");
    let lines = desk.results("out.jsonl");
    let failed = lines.iter().filter(|line| line["success"] == false);
    let ids: Vec<_> = failed.map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b", "d"]);
}

#[test]
fn submit_reads_inputs_like_run() {
    let desk = Desk::new();
    desk.write("a.csv", "key,text\nk1,a\nk2,b\nk3\n");
    desk.write("b.json", "[{\"key\":\"k4\",\"text\":\"d\"}]");
    let flags = "--column id=key --template {{text}} --bad-rows skip";
    let ended = desk.plain(&format!("submit a.csv b.json {flags}"));
    let ended = ended
        .ends(0, "skipped 1 row that is invalid")
        .says("3 jobs are queued");
    desk.plain("work --until-empty --provider extract")
        .expect(0);
    desk.plain(&format!("results {} -o out.jsonl", ended.process()))
        .expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["k1", "k2", "k4"]);

    let fed = |words: &str| program::fed(&mut desk.command(words.split(' ')), "id,prompt\n1,a\n");
    fed("submit - --format csv").ends(0, "1 job is queued");
    fed("submit -").ends(2, "--format csv");
}

#[test]
fn standard_input_is_json_lines_or_text() {
    let (desk, sim) = (Desk::new(), good());
    let lines = "{\"id\":\"a\",\"prompt\":\"one\"}\n\n{\"id\":\"b\",\"prompt\":\"two\"}";
    let found = results(&fed(&desk, &sim, "-|-j|1", lines).expect(0).stdout);
    assert_eq!((id(&found[0]), id(&found[1])), ("a".into(), "b".into()));
    let ended = fed(&desk, &sim, "-|-j|1", "one\ntwo\none\n").expect(0);
    let found = results(&ended.stdout);
    assert_eq!(found[1]["text"], "echo: two");
    assert_eq!(id(&found[2]), format!("{}-2", id(&found[0])));
    fed(&desk, &sim, "-|-o|none.jsonl", "").ends(2, "found no prompts");

    let calls = sim.stats().calls;
    for text in ["one\ntwo\nthree\n", "two\nthree\nfour\none\n"] {
        fed(&desk, &sim, "-|-o|out.jsonl", text).expect(0);
    }
    assert_eq!(sim.stats().calls, calls + 4, "an output is resumed from");
    assert_eq!(desk.results("out.jsonl").len(), 4);
}

/// A run that has got one prompt and waits for more.
fn waiting(desk: &Desk, sim: &Simulator) -> Running {
    let mut command = desk.against(sim, "- -o out.jsonl");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.feed(&prompt_line(0));
    running.hears("waiting for the end of the input");
    running
}

#[test]
fn nothing_is_sent_before_the_end_of_the_input() {
    let (desk, sim) = (Desk::new(), good());
    // A signal ends the program although the read blocks.
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut running = waiting(&desk, &sim);
        let pipe = running.child.stdin.take();
        running.signal(name);
        running.wait().expect(code);
        drop(pipe);
    }
    let mut running = waiting(&desk, &sim);
    assert!(sim.stats().calls == 0 && !desk.exists("out.jsonl"));
    running.feed(&prompt_line(1));
    drop(running.child.stdin.take());
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

const ROWS: &str =
    "id,stars,text\na,5,\"Good, \"\"so\"\" good\"\nb,1,\"two\nlines\"\nc,,\u{1F600} \u{5d0}\n";
const TEMPLATE: &str = "--template {{text}}";

#[test]
fn columns_are_kept_in_order_unless_rows_are_large_or_none_are_wanted() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    desk.write("large.csv", format!("id,text\na,{}\n", "x".repeat(4096)));
    desk.write("in.txt", "a\n");
    let all = r#""error":null,"input":{"id":"b","stars":"1","text":"two\nlines"}}"#;
    let some = r#""error":null,"input":{"id":"b","text":"two\nlines"}}"#;
    for (words, end) in [
        ("in.csv --keep all", all),
        ("in.csv", all),
        ("in.csv --keep text,id", some),
        ("in.csv --keep none", "\"error\":null}"),
        (
            "large.csv",
            r#""error":null,"input":{"id":"a"},"input_left_out":1}"#,
        ),
        ("large.csv --keep none", "\"error\":null}"),
    ] {
        let ended = desk
            .run(&sim, &format!("{words} {TEMPLATE} -j 1"))
            .expect(0);
        ended.shows(&format!("{end}\n"));
    }
    desk.run(&sim, "in.txt --keep all")
        .ends(2, "in.txt: found --keep; expected a table or JSON");
    desk.run(&sim, &format!("in.csv {TEMPLATE} --keep id,txet"))
        .ends(2, "one named \"txet\" for --keep (did you mean \"text\"?)");
}

#[test]
fn changing_keep_sends_nothing_and_changes_no_line() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    let run = |words: &str| {
        let words = format!("in.csv {TEMPLATE} -o out.jsonl {words}");
        desk.run(&sim, &words).expect(0)
    };
    run("--keep stars");
    let before = desk.read("out.jsonl");
    run("--keep all").says("3 finished before, nothing to send");
    assert_eq!(desk.read("out.jsonl"), before);

    // A changed cell that is not part of a prompt, a removed row and a new row.
    desk.write(
        "in.csv",
        "id,stars,text\na,4,\"Good, \"\"so\"\" good\"\nd,2,new\nc,,\u{1F600} \u{5d0}\n",
    );
    run("--keep all --ordered")
        .says("2 finished before, 1 to send; 1 result of other items stays in the output");
    let lines = desk.results("out.jsonl");
    let order: Vec<String> = lines.iter().map(id).collect();
    assert_eq!(order, ["a", "d", "c", "b"]);
    let stars: Vec<&Value> = lines.iter().map(|line| &line["input"]["stars"]).collect();
    assert_eq!(stars, ["5", "2", "", "1"]);
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn results_of_batches_have_the_fields_that_rows_had_when_they_were_sent() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.csv", ROWS);
    for words in ["--keep stars --no-wait", "--keep all"] {
        let words = format!("in.csv -o out.jsonl --ordered {TEMPLATE} {words}");
        batch(&desk, &sim, &words).ended().expect(0);
    }
    desk.results("out.jsonl")[1].has(json!({"id": "b", "input": {"stars": "1"}}));
    assert_eq!(sim.batch_stats().items_accepted, 3);
}
