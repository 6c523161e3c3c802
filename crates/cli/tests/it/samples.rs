//! `--samples`, and `n` in a line: several answers to each prompt.

use std::collections::HashSet;
use std::process::Stdio;

use serde_json::Value;

use super::batch_runs::{SHORT, batch, taking};
use super::common::{Desk, RunToEnd, Running, good, id, results};
use super::program::fed;
use super::queue::{plain, submit, work};

const ROWS: &str = "id,prompt\na,one\nb,two\n";

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn hashes(lines: &[Value]) -> HashSet<String> {
    let hash = |line: &Value| line["request_hash"].as_str().unwrap().to_owned();
    lines.iter().map(hash).collect()
}

#[test]
fn each_sample_is_sent_and_its_answer_is_an_item() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    desk.run(&sim, "in.csv --samples 3 -o out.jsonl --max-items 4 -j 1")
        .ends(0, "6 items: 4 to send");
    assert_eq!(sim.stats().calls, 4);
    desk.run(&sim, "in.csv --samples 3 -o out.jsonl --ordered")
        .ends(0, "6 items: 4 finished before, 2 to send");
    let lines = desk.results("out.jsonl");
    assert_eq!(
        desk.order("out.jsonl"),
        ["a#1", "a#2", "a#3", "b#1", "b#2", "b#3"]
    );
    assert!(lines[..3].iter().all(|line| line["text"] == "echo: one"));
    assert_eq!(hashes(&lines).len(), 6);
    assert_eq!(sim.stats().calls, 6);
    desk.run(&sim, "in.csv --samples 0").expect(2);
    desk.run(&sim, "in.csv --samples 2 --task embed --model e")
        .ends(2, "the embedding of a text is always the same");
}

#[test]
fn changing_the_number_of_samples_resends_nothing() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", ROWS);
    let run = |words: &str| {
        desk.run(&sim, &format!("in.csv -o out.jsonl {words}"))
            .expect(0)
    };
    run("");
    let plain = desk.read("out.jsonl");
    run("--samples 3 --keep all --ordered").says("6 items: 2 finished before, 4 to send");
    assert_eq!(
        desk.order("out.jsonl"),
        ["a#1", "a#2", "a#3", "b#1", "b#2", "b#3"]
    );
    assert_eq!(desk.results("out.jsonl")[2]["input"]["prompt"], "one");
    run("--samples 4").says("8 items: 6 finished before, 2 to send");
    run("--samples 2")
        .says("4 items: 4 finished before, nothing to send; the output also has 4 results of other items, which stay");
    run("--ordered").says(
        "2 items: 2 finished before, nothing to send; the output also has 6 results of other items",
    );
    let whole = desk.read("out.jsonl");
    let first: Vec<&str> = whole.lines().take(2).collect();
    assert_eq!(first, sorted(plain.lines().map(str::to_owned).collect()));
    assert_eq!(whole.lines().count(), 8);
    assert_eq!(sim.stats().calls, 8);
    // Another prompt is a new request in all samples.
    desk.write("in.csv", ROWS.replace("two", "2"));
    run("--samples 2").says(
        "2 finished before, 1 changed, 2 to send; the output also has 5 results of other items",
    );
}

#[test]
fn n_in_a_line_applies_to_that_line() {
    let (desk, sim) = (Desk::new(), good());
    let lines = "{\"id\":\"a\",\"prompt\":\"p\",\"n\":2,\"seed\":7}\n{\"id\":\"b\",\"prompt\":\"p\"}\n\
                 {\"custom_id\":\"c\",\"body\":{\"n\":3,\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}}\n\
                 {\"id\":\"d\",\"prompt\":\"p\",\"n\":1}\n";
    desk.write("in.jsonl", lines);
    let expected = ["a#1", "a#2", "b", "c#1", "c#2", "c#3", "d"];
    desk.run(&sim, "in.jsonl -o out.jsonl --ordered").expect(0);
    assert_eq!(desk.order("out.jsonl"), expected);
    assert_eq!(
        hashes(&desk.results("out.jsonl")).len(),
        6,
        "b and d ask the same"
    );
    desk.run(&sim, "in.jsonl -o out.jsonl --samples 2")
        .ends(0, "8 items: 7 finished before, 1 to send");
    for n in ["0", "1001", "\"2\""] {
        desk.write("bad.jsonl", format!("{{\"prompt\":\"p\",\"n\":{n}}}\n"));
        desk.run(&sim, "bad.jsonl")
            .ends(2, "in \"n\"; expected an integer from 1 to 1000");
    }
    let mut piped = Running::start(desk.against(&sim, "-").stdin(Stdio::piped()));
    piped.feed(lines);
    drop(piped.child.stdin.take());
    let ids = results(&piped.wait().expect(0).stdout)
        .iter()
        .map(id)
        .collect();
    assert_eq!(sorted(ids), expected);
}

#[test]
fn items_without_ids_are_identified_by_request_and_number() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "one\ntwo\none\n");
    desk.run(&sim, "in.txt -o out.jsonl --ordered").expect(0);
    let before = desk.order("out.jsonl");
    assert_eq!(before[2], format!("{}-2", before[0]));
    desk.run(&sim, "in.txt -o out.jsonl --ordered --samples 2")
        .ends(0, "6 items: 3 finished before, 3 to send");
    let made = |id: &String| [format!("{id}#1"), format!("{id}#2")];
    let expected: Vec<String> = before.iter().flat_map(made).collect();
    assert_eq!(desk.order("out.jsonl"), expected);
    desk.run(&sim, "in.txt -o out.jsonl --samples 2")
        .ends(0, "nothing to send");
    let mut piped = desk.against(&sim, "- --samples 2");
    let mut piped = Running::start(piped.stdin(Stdio::piped()));
    piped.feed("one\ntwo\none\n");
    drop(piped.child.stdin.take());
    let ids = results(&piped.wait().expect(0).stdout)
        .iter()
        .map(id)
        .collect();
    assert_eq!(sorted(ids), sorted(expected));
}

#[test]
fn an_id_that_equals_the_id_of_a_sample_is_rejected() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,prompt\na,one\na#2,two\n");
    // Without samples, both are ordinary ids.
    desk.run(&sim, "in.csv -o out.jsonl").expect(0);
    desk.run(&sim, "in.csv -o out.jsonl")
        .ends(0, "2 finished before");
    let lines = "{\"id\":\"a\",\"prompt\":\"p\",\"n\":2}\n{\"id\":\"a#2\",\"prompt\":\"q\"}\n";
    desk.write("in.jsonl", lines);
    desk.run(&sim, "in.jsonl")
        .expect(2)
        .says("in.jsonl:2: found the id \"a#2\", which line 1 has already");
    // Such an id is also rejected if its prompt has samples: the answers could not be told from those of `a`.
    let calls = sim.stats().calls;
    for id in ["a#2", "a#1"] {
        desk.write("in.csv", format!("id,prompt\na,one\n{id},two\n"));
        desk.run(&sim, "in.csv --samples 2 -o out.jsonl")
            .expect(2)
            .says(&format!(
                "in.csv:3: found the id \"{id}\" of a prompt with several samples"
            ));
    }
    assert_eq!(sim.stats().calls, calls);
}

#[test]
fn batches_and_queues_count_them_as_items() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.csv", ROWS);
    let run = |words: &str| {
        let words = format!("in.csv -o out.jsonl {words}");
        batch(&desk, &sim, &words).ended().expect(0)
    };
    run("--no-wait");
    // The first sample of each is in progress.
    run("--samples 3");
    let expected = ["a#1", "a#2", "a#3", "b#1", "b#2", "b#3"];
    assert_eq!(desk.ids("out.jsonl"), expected);
    assert_eq!(sim.batch_stats().items_accepted, 6);
    run("--samples 3").says("nothing to send");

    let process = submit(&desk, "in.csv --samples 3");
    work(&desk);
    plain(&desk, &format!("results {process} -o queue.jsonl")).expect(0);
    assert_eq!(desk.ids("queue.jsonl"), expected);
    assert_eq!(hashes(&desk.results("queue.jsonl")).len(), 6);
}

#[test]
fn equal_prompts_with_and_without_samples_keep_their_ids() {
    let (desk, sim) = (Desk::new(), good());
    let lines = "{\"prompt\":\"x\"}\n{\"prompt\":\"x\",\"n\":3}\n{\"prompt\":\"x\",\"n\":2}\n";
    desk.write("in.jsonl", lines);
    desk.run(&sim, "in.jsonl -o out.jsonl --ordered").expect(0);
    let made = desk.order("out.jsonl");
    let ends = ["", "-2#1", "-2#2", "-2#3", "-3#1", "-3#2"];
    assert_eq!(made, ends.map(|end| format!("{}{end}", made[0])));
    desk.run(&sim, "in.jsonl -o out.jsonl --ordered")
        .ends(0, "6 items: 6 finished before, nothing to send");
    drop(fed(&mut desk.against(&sim, "- -o out.jsonl"), lines).expect(0));
    assert_eq!(sim.stats().calls, 6);
    assert_eq!(desk.order("out.jsonl"), made);
    desk.input("{\"id\":\"a\",\"prompt\":\"x\"}\n{\"id\":\"a\",\"prompt\":\"y\",\"n\":2}\n");
    desk.run(&sim, "in.jsonl")
        .expect(2)
        .says("in.jsonl:2: found the id \"a\", which line 1 has already");
}
