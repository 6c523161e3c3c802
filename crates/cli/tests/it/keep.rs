//! `--keep`: fields of the rows that are copied to their results.

use serde_json::{Value, json};

use super::batch_runs::{SHORT, batch, taking};
use super::common::{Desk, Has, RunToEnd, good, id};

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
        ("large.csv", "\"error\":null}"),
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
    for words in ["--keep stars --no-wait", "--keep all"] {
        let words = format!("in.csv -o out.jsonl --ordered {TEMPLATE} {words}");
        batch(&desk, &sim, &words).ended().expect(0);
    }
    desk.results("out.jsonl")[1].has(json!({"id": "b", "input": {"stars": "1"}}));
    assert_eq!(sim.batch_stats().items_accepted, 3);
}
