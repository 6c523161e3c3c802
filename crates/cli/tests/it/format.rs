//! Inputs: formats, ids, bad rows, and several inputs.

use batchwright_simulate::Simulator;
use serde_json::json;

use super::common::{Desk, Ended, Has, cases, good, id, prompt_lines, results};
use super::program;

const TABLE: &str = "id,text\nr1,\"two\nlines\"\nr2,b\n";

/// Runs these words, split at `|`, with that standard input.
fn fed(desk: &Desk, sim: &Simulator, words: &str, text: &str) -> Ended {
    program::fed(desk.against(sim, "").args(words.split('|')), text)
}

fn texts(lines: &[serde_json::Value]) -> Vec<&str> {
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

    let words = "-|--format|csv|-j|1|--template|{{text}}";
    let ended = fed(&desk, &sim, words, &TABLE.replace('\n', "\r\n")).expect(0);
    let lines = results(&ended.stdout);
    assert_eq!(texts(&lines), ["echo: two\r\nlines", "echo: b"]);
    let words = "/dev/stdin|--format|csv|-j|1|--template|{{text}}|-o|out.jsonl";
    fed(&desk, &sim, words, TABLE).expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["r1", "r2"]);
    fed(&desk, &sim, words, TABLE).ends(0, "2 finished before");
    for (words, text, says) in [
        (
            "/dev/stdin",
            "{\"prompt\":\"a\"}\n{\n",
            "/dev/stdin:2: found invalid JSON",
        ),
        ("/dev/stdin|more.jsonl", "", "must be the only input"),
        ("/dev/stdin", "", "/dev/stdin: found no prompts"),
    ] {
        fed(&desk, &sim, words, text).ends(2, says);
    }
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
    run("in.csv --id-column key -o csv.jsonl").expect(0);
    assert_eq!(desk.ids("csv.jsonl"), ["k1", "k2"]);
    run("in.csv --id-column kee").ends(2, "one named \"kee\" for the ids (did you mean \"key\"?)");
    desk.input("{\"key\":7,\"text\":\"a\"}\n{\"key\":\"k\",\"text\":\"b\"}\n");
    run("in.jsonl --id-column key -o jsonl.jsonl").expect(0);
    assert_eq!(desk.ids("jsonl.jsonl"), ["7", "k"]);
    desk.input("{\"key\":7,\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    run("in.jsonl --id-column key").ends(2, "in.jsonl:2: found no field \"key\"");
    // A run without ids is told once what that means.
    desk.write("in.csv", "text\na\nb\n");
    run("in.csv -o none.jsonl")
        .ends(
            0,
            "2 items: 2 to send; 2 rows have no id; each gets one made from its request.",
        )
        .tells("--id-column NAME");
    let ended = run("in.csv -o none.jsonl").ends(0, "2 finished before");
    ended.hides("--id-column");
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
fn submit_reads_inputs_like_run() {
    let desk = Desk::new();
    desk.write("a.csv", "key,text\nk1,a\nk2,b\nk3\n");
    desk.write("b.json", "[{\"key\":\"k4\",\"text\":\"d\"}]");
    let flags = "--id-column key --template {{text}} --bad-rows skip";
    let ended = desk.plain(&format!("submit a.csv b.json {flags}"));
    let ended = ended.ends(0, "skipped 1 rows").says("3 jobs are queued");
    desk.plain("work --until-empty --provider extract")
        .expect(0);
    desk.plain(&format!("results {} -o out.jsonl", ended.process()))
        .expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["k1", "k2", "k4"]);

    let fed = |words: &str| program::fed(&mut desk.command(words.split(' ')), "id,prompt\n1,a\n");
    fed("submit - --format csv").ends(0, "1 jobs are queued");
    fed("submit -").ends(2, "--format csv");
}
