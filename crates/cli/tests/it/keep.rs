//! `--keep`: fields of the rows that are copied to their results.

use serde_json::{Value, json};

use super::batch_runs::{SHORT, batch, taking};
use super::common::{Desk, Has, RunToEnd, good, id, results};
use super::program::fed;

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
