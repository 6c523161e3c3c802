//! `--keep`: fields of the rows that are copied to their results.

use serde_json::{Value, json};

use super::batch_runs::{SHORT, batch, taking};
use super::common::{Desk, RunToEnd, good, id, results};

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
    desk.write("in.txt", "a\n");
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
        .says("2 finished before, 1 to send; the output also has 1 result of another item");
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
