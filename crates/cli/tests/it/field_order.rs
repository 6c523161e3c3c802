//! The order of the fields in a schema or tool is part of a request. Earlier versions left it out of the fingerprint.

use std::process::Stdio;

use batchwright_simulate::Simulator;

use super::common::{Desk, Running, good};

const SCHEMA: &str = r#"{"type":"object","properties":{"topic":{"type":"string"},"angry":{"type":"boolean"}},"required":["topic","angry"],"additionalProperties":false}"#;
const REORDERED: &str = r#"{"type":"object","properties":{"angry":{"type":"boolean"},"topic":{"type":"string"}},"required":["topic","angry"],"additionalProperties":false}"#;
const INPUT: &str = r#"{"id":"a","prompt":"one","temperature":0}
{"prompt":"two","temperature":0}
{"prompt":"three","temperature":0,"n":2}
{"id":"t","prompt":"four","extra":{"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"string"}}}}}]}}
"#;

/// The ids and fingerprints of the results that an earlier version wrote for this input and schema.
const OLD: [(&str, &str); 5] = [
    (
        "a",
        "dac20df7a9a47ba94100a6fc8e12dc158940363f76506383e80284282654a080",
    ),
    (
        "b35a8ccfe6df9436",
        "b35a8ccfe6df9436fa6d317ca118a76b52bf41cc8ccd0f2f76dfe0f667fae1a8",
    ),
    (
        "cf5dbd41744fbbd3#1",
        "cf5dbd41744fbbd3fc4119228bebfd1e9ca0e93f0a2057712c57ed91eb8be853",
    ),
    (
        "cf5dbd41744fbbd3#2",
        "a125232bd5f6de27fc4119228bebfd1e9ca0e93f0a2057712c57ed91eb8be853",
    ),
    (
        "t",
        "e7aa42741f2fd8261129bf607e8ad2cd4a7a85f4222c651da52b038f5a3c521b",
    ),
];

fn desk() -> (Desk, Simulator) {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", INPUT);
    desk.write("schema.json", SCHEMA);
    (desk, sim)
}

fn old_output() -> String {
    let line = |(id, hash): (&str, &str)| {
        format!(
            "{{\"id\":\"{id}\",\"success\":true,\"text\":\"{{}}\",\"provider\":\"local\",\"model\":\"sim-1\",\
             \"finish_reason\":\"stop\",\"attempts\":1,\"latency_ms\":3,\"request_hash\":\"{hash}\",\"error\":null}}\n"
        )
    };
    OLD.map(line).concat()
}

#[test]
fn a_request_whose_schema_has_another_order_is_sent_again() {
    let (desk, sim) = desk();
    let run = "in.jsonl -o out.jsonl --json-schema schema.json";
    desk.run(&sim, run).expect(0);
    desk.run(&sim, run).expect(0).says("nothing to send");
    assert_eq!(sim.stats().calls, 5);
    desk.write("schema.json", REORDERED);
    desk.run(&sim, run).expect(0);
    assert_eq!(sim.stats().calls, 10);
    // The lines of the two named items are replaced. The others had ids made from their fingerprints, which are kept as
    // lines of unknown items.
    assert_eq!(desk.results("out.jsonl").len(), 8);
}

#[test]
fn requests_that_differ_in_the_order_of_their_schemas_share_no_answer() {
    let (desk, sim) = desk();
    let row = |id: &str, schema: &str| {
        format!(
            "{{\"id\":\"{id}\",\"prompt\":\"q\",\"response_format\":{{\"type\":\"json_schema\",\"json_schema\":\
             {{\"name\":\"x\",\"schema\":{schema}}}}}}}\n"
        )
    };
    desk.write("in.jsonl", row("a", SCHEMA) + &row("b", REORDERED));
    desk.run(&sim, "in.jsonl -o out.jsonl --dedupe --reuse")
        .expect(0);
    assert_eq!(sim.stats().calls, 2);
    desk.write("in.jsonl", row("c", REORDERED));
    desk.run(&sim, "in.jsonl -o other.jsonl --dedupe --reuse")
        .expect(0);
    assert_eq!(sim.stats().calls, 2, "that was asked before");
}

#[test]
fn results_of_an_earlier_version_are_not_bought_again() {
    for stream in [false, true] {
        let (desk, sim) = desk();
        desk.write("out.jsonl", old_output());
        let run = |desk: &Desk| {
            let input = if stream { "-" } else { "in.jsonl" };
            let words = format!("{input} -o out.jsonl --json-schema schema.json");
            let mut running = Running::start(desk.against(&sim, &words).stdin(Stdio::piped()));
            running.feed(INPUT);
            drop(running.child.stdin.take());
            running.wait()
        };
        run(&desk).expect(0);
        assert_eq!((sim.stats().calls, desk.results("out.jsonl").len()), (0, 5));
        run(&desk).expect(0);
        assert_eq!((sim.stats().calls, desk.results("out.jsonl").len()), (0, 5));
    }
}

#[test]
fn a_request_that_differs_from_an_earlier_version_s_is_sent() {
    let (desk, sim) = desk();
    desk.write("out.jsonl", old_output());
    desk.write("in.jsonl", INPUT.replace("\"one\"", "\"another\""));
    desk.run(&sim, "in.jsonl -o out.jsonl --json-schema schema.json")
        .expect(0);
    assert_eq!(sim.stats().calls, 1);
}

#[test]
fn results_of_an_earlier_version_are_exported_with_their_rows() {
    let (desk, _sim) = desk();
    desk.write("out.jsonl", old_output());
    let words =
        "export out.jsonl --input in.jsonl --model sim-1 --json-schema schema.json -o t.csv";
    let ended = desk.plain(words).expect(0);
    let table = desk.read("t.csv");
    let answered = table.lines().filter(|line| line.contains("true")).count();
    assert_eq!(answered, 5, "{table}{}", ended.stderr);
}
