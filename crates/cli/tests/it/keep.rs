//! `--keep`: fields of the rows that are copied to their results.

use std::time::Duration;

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, batch, taking};
use super::common::{Desk, Has, RunToEnd, good, id, results, simulator};
use super::program::fed;
use super::queue::{plain, submit, work};

const ROWS: &str =
    "id,stars,text\na,5,\"Good, \"\"so\"\" good\"\nb,1,\"two\nlines\"\nc,,\u{1F600} \u{5d0}\n";
const TEMPLATE: &str = "--template {{text}}";

/// The `input` of each line, in the order of the ids.
fn kept(lines: Vec<Value>) -> Vec<(String, Value)> {
    let mut kept: Vec<_> = lines
        .iter()
        .map(|line| (id(line), line["input"].clone()))
        .collect();
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    kept
}

fn expected() -> Vec<(String, Value)> {
    [
        (
            "a",
            json!({"id": "a", "stars": "5", "text": "Good, \"so\" good"}),
        ),
        ("b", json!({"id": "b", "stars": "1", "text": "two\nlines"})),
        (
            "c",
            json!({"id": "c", "stars": "", "text": "\u{1F600} \u{5d0}"}),
        ),
    ]
    .map(|(id, row)| (id.to_owned(), row))
    .to_vec()
}

#[test]
fn columns_are_kept_in_order_unless_rows_are_large_or_none_are_wanted() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    let all = desk
        .run(&sim, &format!("in.csv {TEMPLATE} --keep all -j 1"))
        .expect(0);
    assert_eq!(kept(results(&all.stdout)), expected());
    let end = "\"error\":null,\"input\":{\"id\":\"b\",\"stars\":\"1\",\"text\":\"two\\nlines\"}}\n";
    all.shows(end);
    let named = desk
        .run(&sim, &format!("in.csv {TEMPLATE} --keep text,id -j 1"))
        .expect(0);
    let end = "\"input\":{\"id\":\"b\",\"text\":\"two\\nlines\"}}\n";
    named.shows(end);
    let small = desk.run(&sim, &format!("in.csv {TEMPLATE} -j 1")).expect(0);
    assert_eq!(kept(results(&small.stdout)), expected());
    let none = desk
        .run(&sim, &format!("in.csv {TEMPLATE} --keep none -j 1"))
        .expect(0);
    assert!(!none.stdout.contains("input\":{"), "{}", none.stdout);
    desk.write("large.csv", format!("id,text\na,{}\n", "x".repeat(4096)));
    let large = desk.run(&sim, &format!("large.csv {TEMPLATE}")).expect(0);
    assert!(!large.stdout.contains("input\":{"), "{}", large.stdout);
    let piped = format!("- {TEMPLATE}");
    let piped = fed(
        &mut desk.against(&sim, &piped),
        "{\"text\":\"a\",\"n\":1}\n",
    )
    .expect(0);
    results(&piped.stdout)[0].has(json!({"input": {"text": "a", "n": 1}}));

    desk.write("odd.csv", ",text,,n,n\n0,a,x,1,2\n");
    let odd = desk
        .run(&sim, &format!("odd.csv {TEMPLATE} --keep all"))
        .expect(0);
    let odd = results(&odd.stdout);
    odd[0].has(
        json!({"input": {"column 1": "0", "text": "a", "column 3": "x", "n": "1", "n_2": "2"}}),
    );
}

#[test]
fn json_values_of_rows_are_kept_unchanged() {
    let (desk, sim) = (Desk::new(), good());
    let row = r#"{"id":7,"text":"a","n":1.0,"big":12345678901234567890.10,"none":null,"tags":["x",{"y":[]}]}"#;
    let kept = format!("\"input\":{row}}}\n");
    desk.write("in.jsonl", row.replace(",\"", " ,\t\"") + "\n");
    let list = format!("[\n  {}\n]", row.replace(",\"", ",\n \""));
    desk.write("in.json", list.as_bytes());
    for name in ["in.jsonl", "in.json"] {
        let ended = desk
            .run(&sim, &format!("{name} {TEMPLATE} --keep all"))
            .expect(0);
        assert!(ended.stdout.ends_with(&kept), "{}", ended.stdout);
    }
    let words = format!("- {TEMPLATE} --keep n,tags");
    let piped = fed(&mut desk.against(&sim, &words), &format!("{row}\n")).expect(0);
    let kept = "\"input\":{\"n\":1.0,\"tags\":[\"x\",{\"y\":[]}]}}\n";
    assert!(piped.stdout.ends_with(kept), "{}", piped.stdout);
}

#[test]
fn of_native_lines_unknown_fields_are_kept_and_not_sent() {
    let (desk, sim) = (Desk::new(), good());
    let lines = "{\"id\":\"a\",\"prompt\":\"p\",\"source\":\"x.pdf\",\"page\":3}\n\
                 {\"custom_id\":\"b\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]},\"page\":4}\n";
    desk.write("in.jsonl", lines);
    desk.run(&sim, "in.jsonl")
        .ends(2, "in.jsonl:1: found unknown fields \"source\", \"page\"")
        .says("--keep source,page");
    desk.run(&sim, "in.jsonl --keep page")
        .ends(2, "in.jsonl:1: found an unknown field \"source\"");
    for (words, first) in [
        ("--keep all", json!({"source": "x.pdf", "page": 3})),
        ("--keep page,source", json!({"source": "x.pdf", "page": 3})),
        (
            "--keep page,prompt,source",
            json!({"prompt": "p", "source": "x.pdf", "page": 3}),
        ),
    ] {
        let ended = desk.run(&sim, &format!("in.jsonl {words}")).expect(0);
        let kept = kept(results(&ended.stdout));
        assert_eq!(kept[0].1, first, "{words}");
        assert_eq!(kept[1].1, json!({"page": 4}), "{words}");
    }
}

#[test]
fn unknown_columns_are_rejected_before_anything_is_sent() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    desk.write("twice.csv", "text,n,n\na,1,2\n");
    desk.input("{\"prompt\":\"p\",\"color\":1}\n{\"prompt\":\"q\",\"size\":1}\n");
    desk.write("in.txt", "a\n");
    for (words, said) in [
        (
            "in.csv --template {{text}} --keep id,txet",
            "in.csv:1: found the columns \"id\", \"stars\", \"text\"; expected one named \"txet\" for --keep (did you mean \"text\"?)",
        ),
        (
            "in.jsonl --keep all,colour",
            "in.jsonl: found the fields \"prompt\", \"color\"; expected one named \"colour\" for --keep (did you mean \"color\"?)",
        ),
        (
            "twice.csv --template {{text}} --keep n",
            "twice.csv:1: found 2 columns named \"n\"",
        ),
        (
            "in.txt --keep all",
            "in.txt: found --keep; expected a table or JSON",
        ),
    ] {
        desk.run(&sim, words).ends(2, said);
    }
    desk.run(&sim, "in.jsonl --keep size,color").expect(0);
    assert_eq!(sim.stats().calls, 2);
}

#[test]
fn failures_retries_and_bad_rows_have_kept_fields_too() {
    let desk = Desk::new();
    desk.write("in.csv", ROWS);
    let trouble = |kind| {
        simulator(
            SimConfig::default()
                .trouble(kind, 1.0)
                .retry_after(Duration::ZERO),
        )
    };
    for (sim, code) in [
        (trouble(Trouble::BadRequest), 3),
        (trouble(Trouble::Error500), 0),
    ] {
        let words = format!("in.csv {TEMPLATE} --keep all --on-error continue");
        let ended = desk.run(&sim, &words).expect(code);
        assert_eq!(kept(results(&ended.stdout)), expected());
    }
    let sim = good();
    desk.write("bad.csv", "id,n,text\na,1,\nb,2,x,y\nc,3,z\n");
    let words = format!("bad.csv {TEMPLATE} --keep n --bad-rows skip -o bad.jsonl");
    desk.run(&sim, &words).expect(3);
    let lines = kept(desk.results("bad.jsonl"));
    let rows: Vec<&Value> = lines.iter().map(|(_, row)| row).collect();
    assert_eq!(rows, [&json!({"n": "1"}), &Value::Null, &json!({"n": "3"})]);
    assert_eq!(sim.stats().calls, 1);
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
        .says("2 finished before, 1 to send; the output also has 1 result of another item");
    let lines = desk.results("out.jsonl");
    let order: Vec<String> = lines.iter().map(id).collect();
    assert_eq!(order, ["a", "d", "c", "b"]);
    let stars: Vec<&Value> = lines.iter().map(|line| &line["input"]["stars"]).collect();
    assert_eq!(stars, ["5", "2", "", "1"]);
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn several_inputs_and_items_without_ids_each_have_their_own() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("a.csv", "text,n\nx,1\nx,2\ny,3\n");
    desk.write(
        "b.jsonl",
        "{\"text\":\"x\",\"n\":4}\n{\"text\":\"z\",\"n\":5}\n",
    );
    let words = format!("a.csv b.jsonl {TEMPLATE} -o out.jsonl -j 1 --ordered --keep n");
    desk.run(&sim, &words).expect(0);
    let lines = desk.results("out.jsonl");
    let n: Vec<&Value> = lines.iter().map(|line| &line["input"]["n"]).collect();
    assert_eq!(
        n,
        [&json!("1"), &json!("2"), &json!("3"), &json!(4), &json!(5)]
    );
    assert_eq!(sim.stats().calls, 5);
}

#[test]
fn results_of_batches_have_the_fields_that_rows_had_when_they_were_sent() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.csv", ROWS);
    let run = |words: &str| {
        let words = format!("in.csv -o out.jsonl {TEMPLATE} {words}");
        batch(&desk, &sim, &words).ended()
    };
    run("--keep all").expect(0);
    assert_eq!(kept(desk.results("out.jsonl")), expected());
    desk.write("out.jsonl", "");
    run("--keep stars --no-wait").expect(0);
    run("--keep all").expect(0);
    assert_eq!(kept(desk.results("out.jsonl"))[1].1, json!({"stars": "1"}));
    assert_eq!(sim.batch_stats().items_accepted, 6);
}

#[test]
fn jobs_of_a_queue_copy_kept_fields_to_their_results() {
    let desk = Desk::new();
    let row = r#"{"text":"prompt 1","n":1.0}"#;
    desk.input(format!(
        "{row}\n{{\"text\":\"b\",\"n\":12345678901234567890.5}}\n"
    ));
    let process = submit(&desk, &format!("in.jsonl {TEMPLATE} --keep all"));
    let bare = submit(&desk, &format!("in.jsonl {TEMPLATE}"));
    work(&desk);
    plain(&desk, &format!("results {process} -o out.jsonl")).expect(3);
    let lines = desk.read("out.jsonl");
    assert!(lines.contains(&format!(",\"input\":{row}}}\n")), "{lines}");
    assert!(
        lines.contains(",\"input\":{\"text\":\"b\",\"n\":12345678901234567890.5}}\n"),
        "{lines}"
    );
    let ends: Vec<bool> = desk
        .results("out.jsonl")
        .iter()
        .map(|line| line["success"] == true)
        .collect();
    assert!(ends.contains(&true) && ends.contains(&false));
    plain(&desk, &format!("results {bare} -o bare.jsonl")).expect(3);
    assert!(!desk.read("bare.jsonl").contains("\"input\":"));
    // The request is the same, whatever is kept of its row.
    let hashes = |name| -> Vec<Value> {
        let mut hashes: Vec<Value> = desk
            .results(name)
            .iter()
            .map(|line| line["request_hash"].clone())
            .collect();
        hashes.sort_by_key(Value::to_string);
        hashes
    };
    assert_eq!(hashes("out.jsonl"), hashes("bare.jsonl"));
}

#[test]
fn a_row_commands_no_terminal_and_no_template() {
    let (desk, sim) = (Desk::new(), good());
    let evil = "\u{1b}[2J\u{9b}31m{{stars}}\u{7f}";
    desk.write(
        "in.csv",
        format!("id,{evil},text\na,{evil},x {{{{{evil}}}}}\n"),
    );
    let ended = desk
        .run(&sim, &format!("in.csv {TEMPLATE} --keep all -o out.jsonl"))
        .expect(0);
    let line = desk.read("out.jsonl");
    let (_, input) = line.split_once("\"input\":").unwrap();
    assert!(!input.trim_end().chars().any(char::is_control), "{input}");
    assert_eq!(desk.results("out.jsonl")[0]["input"][evil], evil);
    ended.hides(evil);
    let ended = desk
        .run(&sim, &format!("in.csv {TEMPLATE} --keep nope"))
        .expect(2);
    assert!(
        !ended
            .stderr
            .trim_end()
            .chars()
            .any(|c| c.is_control() && c != '\n'),
        "{:?}",
        ended.stderr
    );
}
