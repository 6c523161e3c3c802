//! Inputs: formats, ids, bad rows, and several inputs.

use batchwright_simulate::Simulator;
use serde_json::json;

use super::common::{Desk, Ended, Has, good, id, prompt_lines, results};
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
fn a_table_on_standard_input_is_not_read_as_text() {
    let (desk, sim) = (Desk::new(), good());
    fed(&desk, &sim, "-", TABLE)
        .ends(2, "what looks like a table (id,text)")
        .says("--format csv, or --format txt");
    assert_eq!(sim.stats().calls, 0);

    let words = "-|--format|csv|-j|1|--template|{{text}}";
    let ended = fed(&desk, &sim, words, &TABLE.replace('\n', "\r\n")).expect(0);
    let lines = results(&ended.stdout);
    assert_eq!(texts(&lines), ["echo: two\r\nlines", "echo: b"]);
    assert_eq!((id(&lines[0]), id(&lines[1])), ("r1".into(), "r2".into()));
}

#[test]
fn a_named_pipe_is_read_like_standard_input() {
    let (desk, sim) = (Desk::new(), good());
    fed(&desk, &sim, "/dev/stdin", TABLE).ends(2, "/dev/stdin: found what looks like");
    let words = "/dev/stdin|--format|csv|-j|1|--template|{{text}}|-o|out.jsonl";
    fed(&desk, &sim, words, TABLE).expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["r1", "r2"]);
    fed(&desk, &sim, words, TABLE).ends(0, "2 finished before");
    fed(&desk, &sim, "/dev/stdin", "{\"prompt\":\"a\"}\n{\n")
        .ends(2, "/dev/stdin:2: found invalid JSON");
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
    assert_eq!(
        texts(&lines)[2..5],
        ["echo: prompt 2", "echo: prompt 3", "echo: prompt 4"]
    );
    assert_eq!(id(&lines[8]), format!("{}-2", id(&lines[6])));
    desk.run(&sim, words).ends(0, "9 finished before");
    // Separately or together, in any order: the items are the same.
    desk.run(&sim, "c.json a.jsonl -o out.jsonl")
        .ends(0, "4 finished before");
    assert_eq!(sim.stats().calls, 9);

    desk.write("e.jsonl", "\n{\"id\":\"i-4\",\"prompt\":\"x\"}\n");
    desk.run(&sim, "a.jsonl e.jsonl b.csv -o none.jsonl")
        .expect(2)
        .says("b.csv:3: found the id \"i-4\", which e.jsonl:2 has already");
    desk.write("empty.txt", "\n");
    desk.run(&sim, "a.jsonl empty.txt")
        .ends(2, "empty.txt: found no prompts");
    desk.run(&sim, "d.txt ./d.txt")
        .ends(2, "./d.txt: it is named twice");
    std::fs::create_dir(desk.path("hollow")).unwrap();
    desk.run(&sim, "d.txt hollow")
        .ends(2, "hollow: found no files");
    desk.run(&sim, "a.jsonl -")
        .ends(2, "must be the only input");
    desk.run(&sim, "a.jsonl b.csv -o b.csv")
        .ends(2, "it is also the input");
    assert_eq!(sim.stats().calls, 9);
}

#[test]
fn ids_come_from_the_column_that_is_named() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,key,text\n,k1,a\n,k2,b\n");
    let words = "in.csv --id-column key --template {{text}} -o csv.jsonl";
    desk.run(&sim, words).expect(0);
    assert_eq!(desk.ids("csv.jsonl"), ["k1", "k2"]);
    let run = |column: &str| format!("in.csv --id-column {column} --template {{{{text}}}}");
    desk.run(&sim, &run("kee"))
        .ends(2, "one named \"kee\" for the ids (did you mean \"key\"?)");
    desk.input("{\"key\":7,\"text\":\"a\"}\n{\"key\":\"k\",\"text\":\"b\"}\n");
    let words = "in.jsonl --id-column key --template {{text}} -o jsonl.jsonl";
    desk.run(&sim, words).expect(0);
    assert_eq!(desk.ids("jsonl.jsonl"), ["7", "k"]);
    desk.input("{\"key\":7,\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
    desk.run(&sim, "in.jsonl --id-column key")
        .ends(2, "in.jsonl:2: found no field \"key\"");
    // A run without ids is told once what that means.
    desk.write("in.csv", "text\na\nb\n");
    let words = "in.csv --template {{text}} -o none.jsonl";
    desk.run(&sim, words)
        .expect(0)
        .says("2 items: 2 to send; 2 rows have no id; each gets one made from its request.")
        .says("--id-column NAME");
    let ended = desk.run(&sim, words).ends(0, "2 finished before");
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
        .says("in.csv:5: found a row of 3 fields");
    assert!(!desk.exists("out.jsonl"));

    let words = "in.csv -o out.jsonl --bad-rows skip -j 1";
    desk.run(&sim, words)
        .ends(3, "4 items: 2 bad rows that are not sent, 2 to send");
    assert_eq!(sim.stats().calls, 2);
    let lines = desk.results("out.jsonl");
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line["success"] == false)
        .collect();
    assert_eq!((lines.len(), failed.len()), (4, 2));
    assert_eq!((id(failed[0]), id(failed[1])), ("b".into(), "d".into()));
    for (line, at) in failed.iter().zip([3, 5]) {
        line.has(json!({"/error/kind": "invalid", "attempts": 0}));
        let why = line["error"]["message"].as_str().unwrap();
        let told = format!("not sent: in.csv:{at}: found ");
        assert!(why.starts_with(&told), "{why}");
    }
    // A second run neither writes nor sends anything for them.
    let before = desk.read("out.jsonl");
    let summary = desk.run(&sim, &format!("{words} --json")).expect(3).json();
    let numbers = ["total", "completed", "failed", "pending"]
        .map(|name| summary["summary"][name].as_u64().unwrap());
    assert_eq!(numbers, [4, 2, 2, 0]);
    assert_eq!((desk.read("out.jsonl"), sim.stats().calls), (before, 2));
    // One row is corrected.
    desk.write("in.csv", "id,prompt\na,one\nb,two\nc,three\nd,x,y\n,\n");
    desk.run(&sim, words).ends(3, "1 to send");
    assert_eq!(desk.results("out.jsonl").len(), 4);
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn submit_reads_inputs_like_run() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("a.csv", "key,text\nk1,a\nk2,b\nk3\n");
    desk.write("b.json", "[{\"key\":\"k4\",\"text\":\"d\"}]");
    let flags = "--id-column key --template {{text}} --bad-rows skip";
    let submit = |words: &str| desk.plain(&format!("submit {words}"));
    let ended = submit(&format!("a.csv b.json {flags}"))
        .ends(0, "skipped 1 rows")
        .says("3 jobs are queued");
    let process = ended.stdout.trim().to_owned();
    let url = sim.base_url();
    let work = format!("work --until-empty --provider local --model sim-1 --base-url {url}");
    desk.plain(&work).expect(0);
    desk.plain(&format!("results {process} -o out.jsonl"))
        .expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["k1", "k2", "k4"]);

    program::fed(
        &mut desk.command(["submit", "-", "--format", "csv"]),
        "id,prompt\n1,a\n2,b\n",
    )
    .ends(0, "2 jobs are queued");
    program::fed(&mut desk.command(["submit", "-"]), "id,prompt\n1,a\n2,b\n")
        .ends(2, "--format csv");
}
