//! The order of the fields in a schema or tool is part of a request.

use batchwright_simulate::Simulator;

use super::common::{Desk, good};

const SCHEMA: &str = r#"{"type":"object","properties":{"topic":{"type":"string"},"angry":{"type":"boolean"}},"required":["topic","angry"],"additionalProperties":false}"#;
const REORDERED: &str = r#"{"type":"object","properties":{"angry":{"type":"boolean"},"topic":{"type":"string"}},"required":["topic","angry"],"additionalProperties":false}"#;
const INPUT: &str = r#"{"id":"a","prompt":"one","temperature":0}
{"prompt":"two","temperature":0}
{"prompt":"three","temperature":0,"seed":2}
{"id":"t","prompt":"four","extra":{"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"string"}}}}}]}}
"#;

fn desk() -> (Desk, Simulator) {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", INPUT);
    desk.write("schema.json", SCHEMA);
    (desk, sim)
}

#[test]
fn a_request_whose_schema_has_another_order_is_sent_again() {
    let (desk, sim) = desk();
    let run = "in.jsonl -o out.jsonl --json-schema schema.json";
    desk.run(&sim, run).expect(0);
    desk.run(&sim, run).ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, 4);
    desk.write("schema.json", REORDERED);
    desk.run(&sim, run).expect(0);
    assert_eq!(sim.stats().calls, 8);
    // The lines of the two named items are replaced. The other items had ids that were generated from their request
    // hashes, so their old lines are kept as lines of unknown items.
    assert_eq!(desk.results("out.jsonl").len(), 6);
}
