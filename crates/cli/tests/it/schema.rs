//! Answers that must match a JSON Schema.

use serde_json::json;

use super::common::{Desk, Has, RunToEnd, cases, good};
use super::fake::{Fake, reply};

const SCHEMA: &str = "-j 4 --json-schema schema.json";

fn desk() -> Desk {
    let desk = Desk::with(1);
    let schema = json!({
        "title": "A person",
        "type": "object",
        "properties": {"age": {"type": "integer", "description": "in years"}},
        "required": ["age"],
        "additionalProperties": false,
    });
    desk.write("schema.json", schema.to_string());
    desk
}

#[test]
fn the_schema_reaches_the_provider_and_the_answer_is_kept_as_json() {
    let desk = desk();
    let server = Fake::answering(|_| reply(json!({"content": "```json\n{\"age\": 5}\n```"})));
    server.run(&desk, SCHEMA).ended().expect(0);
    desk.results("out.jsonl")[0]
        .has(json!({"text": "{\"age\": 5}", "attempts": 1, "finish_reason": "stop"}));
    let format = &server.bodies()[0]["response_format"];
    // In the order of the file, which the model's answer follows.
    let sent = format["json_schema"]["schema"].to_string();
    assert_eq!(sent, desk.read("schema.json"));
    format.has(
        json!({"type": "json_schema", "/json_schema/name": "A_person",
        "/json_schema/strict": true}),
    );
}

#[test]
fn a_bad_schema_file_is_refused_before_anything_is_sent() {
    let (desk, sim) = (desk(), good());
    let run = |words: &str| {
        let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl {words}"));
        ended.expect(2)
    };
    for (text, expected) in cases(
        r#"
        {"type": "objekt"} => schema.json: no JSON Schema that can be used: at /type: "objekt"
        {"age": "number"} => it does not restrict an answer; is it an example of one?
        {"$ref": "http://127.0.0.1:9/x"} => "http://127.0.0.1:9/x" is outside of the schema
    "#,
    ) {
        desk.write("schema.json", text);
        run(SCHEMA).errs(expected);
    }
    run("--json-schema none.json").errs("none.json: cannot be read: ");
    run(&format!("{SCHEMA} --json-schema object"));
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn extract_is_not_used_for_json() {
    let desk = desk();
    let run = "run in.jsonl --provider extract -o";
    for schema in ["object", "schema.json"] {
        desk.plain(&format!("{run} out.jsonl --json-schema {schema}"))
            .ends(1, "extract has no model and cannot answer in JSON");
    }
    // A line may request JSON although the run does not.
    desk.input(r#"{"prompt":"q","response_format":{"type":"json_object"}}"#);
    desk.plain(&format!("{run} other.jsonl"))
        .ends(3, "extract is not a model");
}
