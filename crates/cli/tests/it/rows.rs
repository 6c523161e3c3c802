//! Rows as the world writes them: fields that are data, columns with roles, and results of earlier versions.

use std::io::Read;

use batchwright_simulate::Simulator;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::batch_runs::{LONG, STORE, batch, taking};
use super::common::{Desk, Has, RunToEnd, good};

/// What commit 35927327 left, whose templated lines of JSON had their own model and system text, and which of its tables
/// had not.
fn of_before(name: &str) -> Vec<u8> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/rows_of_35927327"
    );
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

const FLAGS: &str = "--template {{text}} --model sim-1 --system calm";
const AS_BEFORE: &str = "--column model=model --column system=system";

#[test]
fn answers_of_an_earlier_version_are_not_bought_again_unasked() {
    for (name, format, differing) in [
        ("rows.jsonl", "jsonl", 2),
        ("rows.json", "json", 2),
        ("without_ids.jsonl", "jsonl", 2),
    ] {
        let (desk, sim) = (Desk::new(), good());
        desk.write(name, of_before(name));
        desk.write("out.jsonl", of_before(&format!("{name}.results")));
        let run = |words: &str| {
            desk.run(
                &sim,
                &format!("{name} --format {format} -o out.jsonl {FLAGS} {words}"),
            )
        };
        for words in ["", "--dry-run", "--resend none"] {
            let ended = run(words)
                .ends(
                    2,
                    &format!("{differing} requests differ from those answered before"),
                )
                .says("\"model\" and \"system\"");
            ended.tells(AS_BEFORE);
            ended.tells("--resend changed");
        }
        run("--column system=system").ends(2, "this takes them: --column model=model;");
        run(AS_BEFORE).ends(0, "4 items: 4 finished before, nothing to send");
        assert_eq!(sim.stats().calls, 0, "{name}");
        run("--resend changed").ends(0, "2 finished before");
        run("").ends(0, "4 finished before, ");
        assert_eq!(sim.stats().calls, differing, "{name}");
    }
    // Tables never had them.
    let (desk, sim) = (Desk::new(), good());
    desk.write("rows.csv", of_before("rows.csv"));
    desk.write("out.jsonl", of_before("rows.csv.results"));
    desk.run(&sim, &format!("rows.csv -o out.jsonl {FLAGS}"))
        .ends(0, "4 items: 4 finished before, nothing to send");
}

#[test]
fn items_in_batches_of_an_earlier_version_are_not_bought_again_unasked() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.write("rows.jsonl", of_before("rows.jsonl"));
    desk.write("out.jsonl", "");
    let mut store = Vec::new();
    GzDecoder::new(&of_before("out.jsonl.batchwright.gz")[..])
        .read_to_end(&mut store)
        .unwrap();
    desk.write(STORE, store);
    let run = |words: &str| {
        let words = format!("rows.jsonl -o out.jsonl --no-wait {FLAGS} {words}");
        batch(&desk, &sim, &words).ended()
    };
    run("")
        .ends(2, "2 requests differ from those answered before")
        .tells(AS_BEFORE);
    run(&format!("{AS_BEFORE} --dry-run")).ends(0, "4 items: 4 under way, nothing to send");
    run("--resend changed --dry-run").ends(0, "2 under way, 2 to send");
    assert_eq!((sim.batch_stats().created, sim.stats().calls), (0, 0));
}

/// The requests of an input, by what the provider was asked.
fn asked(desk: &Desk, sim: &Simulator, words: &str) -> Vec<Value> {
    desk.run(sim, &format!("{words} --ordered -o asked.jsonl"))
        .expect(0);
    let lines = desk.results("asked.jsonl");
    std::fs::remove_file(desk.path("asked.jsonl")).unwrap();
    let of = |line: &Value| json!([line["id"], line["model"], line["request_hash"]]);
    lines.iter().map(of).collect()
}

const ROWS: &str = r#"{"key":1,"body":"two\nlines, \"so\"","n":3,"x":0.5,"engine":"m-1","mood":"be rude","model":"no","system":"no","talk":[{"from":"system","value":"s"},{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}]}
{"key":2,"body":"Grüße \ud83d\ude00","n":40,"x":1.25,"engine":"","mood":"calm","model":"no","system":"no","talk":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"r"}]}
"#;

#[test]
fn the_same_rows_make_the_same_requests_in_every_format() {
    let (desk, sim) = (Desk::new(), good());
    let results = ROWS.lines().map(|row| {
        let key = &serde_json::from_str::<Value>(row).unwrap()["key"];
        format!("{{\"id\":\"{key}\",\"success\":true,\"text\":\"t\",\"input\":{row}}}\n")
    });
    desk.write("results.jsonl", results.collect::<String>());
    // An empty text of JSON names no model, as an empty cell.
    desk.write(
        "in.jsonl",
        ROWS.replace("\"engine\":\"\"", "\"engine\":null"),
    );
    let mut tables = vec!["in.csv", "in.tsv"];
    if cfg!(feature = "tables") {
        tables.extend(["in.xlsx", "in.parquet"]);
    }
    for table in &tables {
        desk.plain(&format!("export results.jsonl -o {table}"))
            .expect(0);
    }
    let id = "--column id=key";
    for (words, models) in [
        ("--template {{body}}/{{n}}/{{x}}", ["sim-1", "sim-1"]),
        (
            "--template {{body|upper}}{{model}} --column model=engine --column system=mood",
            ["m-1", "sim-1"],
        ),
        ("--column messages=talk", ["sim-1", "sim-1"]),
        (
            "--column messages=talk[:-1] --column model=engine",
            ["m-1", "sim-1"],
        ),
    ] {
        let lines = asked(&desk, &sim, &format!("in.jsonl {id} {words}"));
        let found: Vec<&Value> = lines.iter().map(|line| &line[1]).collect();
        assert_eq!(found, models, "{words}");
        for table in &tables {
            assert_eq!(
                asked(&desk, &sim, &format!("{table} {id} {words}")),
                lines,
                "{table} {words}"
            );
        }
    }
}

#[test]
fn no_column_of_a_table_is_lost() {
    let (desk, sim) = (Desk::new(), good());
    desk.write(
        "in.csv",
        ",name,name,name_2,,text\n0,a,b,c,,one\n1,d,e,f,x,two\n",
    );
    let run = |words: &str| desk.run(&sim, &format!("in.csv --ordered -o out.jsonl {words}"));
    run("--template {{name}}:{{text}}")
        .ends(
            2,
            "in.csv:1: found 2 columns named \"name\"; expected one column of that name",
        )
        .tells("row[\"name_3\"]");
    run("--template {{row[\"name_3\"]}}-{{row['name']}}-{{name_2}}-{{A}}").expect(0);
    let lines = desk.results("out.jsonl");
    lines[0].has(json!({"text": "echo: b-a-c-0", "input":
        {"column 1": "0", "name": "a", "name_3": "b", "name_2": "c", "text": "one"}}));
    lines[1].has(json!({"/input/column 5": "x"}));
    desk.plain("export out.jsonl -o out.csv").expect(0);
    let table = desk.read("out.csv");
    assert!(
        table.starts_with("column 1,name,name_3,name_2,text,column 5,id,"),
        "{table}"
    );
}

#[test]
fn large_rows_say_what_they_lost() {
    let (desk, sim) = (Desk::new(), good());
    let long = "x".repeat(5000);
    desk.write(
        "in.csv",
        format!("id,stars,text,note\na,5,{long},n\nb,1,short,n\n"),
    );
    desk.input(format!(
        "{{\"id\":\"a\",\"stars\":5,\"text\":\"{long}\"}}\n"
    ));
    for (name, rest) in [
        ("in.csv", json!({"id": "a", "stars": "5", "note": "n"})),
        ("in.jsonl", json!({"id": "a", "stars": 5})),
    ] {
        let words = format!("{name} -o {name}.results --template {{{{text}}}} --ordered");
        desk.run(&sim, &words).ends(
            0,
            "1 row over 4 KiB keeps only short columns: --keep all keeps all",
        );
        let lines = desk.results(&format!("{name}.results"));
        lines[0].has(json!({"input": rest, "input_left_out": 1}));
        desk.plain(&format!("export {name}.results -o {name}.csv"))
            .ends(0, "1 row lacks columns")
            .tells("run --keep all");
        let all = format!("{name} --template {{{{text}}}} --keep all -o all.jsonl");
        desk.run(&sim, &all).expect(0).hides("over 4 KiB");
        std::fs::remove_file(desk.path("all.jsonl")).unwrap();
    }
    // Items of a batch as well.
    let sim = taking(super::batch_runs::SHORT);
    batch(&desk, &sim, "in.jsonl -o out.jsonl --template {{text}}")
        .ended()
        .expect(0);
    desk.results("out.jsonl")[0].has(json!({"input_left_out": 1}));
}

#[test]
fn messages_come_from_the_column_that_is_named() {
    let (desk, sim) = (Desk::new(), good());
    let say = |role: &str, text: &str| json!({"role": role, "content": text});
    let line = |id: &str, field: &str, more: &[Value]| {
        let mut all = vec![say("user", "q")];
        all.extend_from_slice(more);
        format!("{}\n", json!({"id": id, field: all, "model": "own"}))
    };
    let answer = say("assistant", "reference");
    desk.input(
        line("a", "input", std::slice::from_ref(&answer))
            + &line("b", "input", &[answer.clone(), say("user", "r")]),
    );
    let run = |words: &str| desk.run(&sim, &format!("in.jsonl --ordered -o out.jsonl {words}"));
    run("").ends(2, "--column messages=input");
    run("--column messages=input --dry-run")
        .ends(
            0,
            "1 of 2 items end with a message of the assistant, which is sent too",
        )
        .tells("--column 'messages=input[:-1]'");
    let ended = run("--column messages=input[:-1]").expect(0);
    ended.hides("message of the assistant");
    let lines = desk.results("out.jsonl");
    lines[0].has(json!({"id": "a", "text": "echo: q", "model": "sim-1"}));
    lines[1].has(json!({"id": "b", "text": "echo: r"}));
    // A file for fine-tuning keeps the parameters of its lines.
    desk.input(line("a", "messages", &[answer]));
    let words = "in.jsonl --column messages=messages[:-1] -o tuned.jsonl";
    desk.run(&sim, words).expect(0);
    desk.results("tuned.jsonl")[0].has(json!({"text": "echo: q", "model": "own"}));
    for (words, why) in [
        (
            "--column messages=input --template {{id}}",
            "found --template and --column messages; expected one of them",
        ),
        (
            "--column messages=inptu",
            "found no field \"inptu\"; expected messages there",
        ),
        (
            "--column messages=messages --column model=modle",
            "expected a field named \"modle\" for --column",
        ),
        (
            "--column modle=model",
            "write id=NAME, model=NAME, system=NAME or messages=NAME",
        ),
        ("--id-column id", "--column id=NAME"),
    ] {
        run(words).ends(2, why);
    }
}

/// An input, the words of its run, and what the first results have, or what is refused.
#[test]
fn rows_of_any_shape_make_prompts_or_say_what_helps() {
    let tuned = r#"{"contents":[{"role":"user","parts":[{"text":"q"}]},{"role":"model","parts":[{"text":"a"}]}]}"#;
    let some = "{\"id\":1,\"text\":\"a\",\"note\":\"n\"}\n{\"id\":2,\"text\":\"b\"}\n";
    let sent_too = "1 of 1 item ends with a message of the assistant, which is sent too";
    for (input, words, told, texts) in [
        (
            r#"{"prompts":["one","two"]}"#,
            "--format json:prompts",
            "",
            vec!["one", "two"],
        ),
        (
            r#"["one","two"]"#,
            "--format json --template <{{prompt}}>",
            "",
            vec!["<one>", "<two>"],
        ),
        (
            some,
            "--template {{text|upper}}{{note|default('-')}}",
            "",
            vec!["An", "B-"],
        ),
        (
            some,
            "--template {{text}}{{note}}",
            "found {{note}} in the template; expected one of the line's fields",
            vec![],
        ),
        (
            some,
            "--template {{text|upper}}{{nota|default('-')}}",
            "expected a field named \"nota\" for --template",
            vec![],
        ),
        (
            "{\"Q[1]\":null,\"a\":1}",
            "--template {{Q[1]}}{{a}}",
            "write {{row[\"Q[1]\"]|default('')}}",
            vec![],
        ),
        (
            "{\"Q[1]\":null,\"a\":1}",
            "--template {{row[\"Q[1]\"]|default('')}}{{a}}",
            "",
            vec!["1"],
        ),
        (tuned, "", "--column messages=contents", vec![]),
        (
            tuned,
            "--column messages=contents --dry-run",
            sent_too,
            vec![],
        ),
        (tuned, "--column messages=contents[:-1]", "", vec!["q"]),
    ] {
        let (desk, sim) = (Desk::new(), good());
        desk.input(input);
        let code = if texts.is_empty() && !words.contains("--dry-run") {
            2
        } else {
            0
        };
        let ended = desk.run(&sim, &format!("in.jsonl --ordered -o out.jsonl {words}"));
        ended.ends(code, told);
        if !texts.is_empty() {
            let lines = desk.results("out.jsonl");
            let found: Vec<&Value> = lines.iter().map(|line| &line["text"]).collect();
            let expected: Vec<String> = texts.iter().map(|text| format!("echo: {text}")).collect();
            assert_eq!(json!(found), json!(expected), "{input} {words}");
        }
    }
}

#[test]
fn repeated_ids_are_told_once() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "ID,prompt\nx,one\nx,two\nx,three\n,four\n");
    let ended = desk.run(&sim, "in.csv -o out.jsonl").expect(2);
    assert_eq!(ended.stderr.matches("found the id").count(), 1);
    ended
        .says("in.csv:3: found the id \"x\", which line 2 has already; expected a different id for every item; 2 rows repeat ids")
        .tells("--column id=none");
    desk.run(&sim, "in.csv -o out.jsonl --column id=none")
        .expect(0);
}
