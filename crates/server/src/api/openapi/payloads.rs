//! What the types of jobs that are built in take.

use serde_json::{Value, json};

use super::super::jobs::LONGEST_NAME;

/// What is posted to make a job of one of these types.
pub(super) fn new_job(kinds: &[&str]) -> Value {
    let variants = kinds.iter().map(|kind| variant(kind));
    json!({"oneOf": variants.collect::<Vec<_>>()})
}

fn variant(kind: &str) -> Value {
    json!({
        "type": "object",
        "title": kind,
        "required": ["type", "payload"],
        "additionalProperties": false,
        "properties": {
            "type": {"const": kind},
            "payload": payload(kind),
            "priority": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 10}, {"type": "null"}]},
            "max_retries": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "null"}]},
            "item_id": {"anyOf": [{"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}, {"type": "null"}]},
            "process_id": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]},
        },
    })
}

/// An object of these fields, of which those come first that have to be there.
fn object(required: &[&str], fields: Value) -> Value {
    json!({
        "type": "object",
        "required": required,
        "additionalProperties": false,
        "properties": fields,
    })
}

/// A text with something in it.
fn text() -> Value {
    json!({"type": "string", "pattern": "\\S"})
}

/// A field that may be left out, also by null.
fn maybe(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn payload(kind: &str) -> Value {
    let language = json!({"type": "string", "pattern": "^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", "maxLength": 35});
    match kind {
        "completion" => object(
            &["prompt"],
            json!({
                "prompt": text(),
                "system": maybe(text()),
                "model": maybe(text()),
                "max_tokens": maybe(json!({"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32})),
                "temperature": maybe(json!({"type": "number", "minimum": 0, "maximum": 2})),
            }),
        ),
        "embedding" => object(&["text"], json!({"text": text(), "model": maybe(text())})),
        "summarize" => {
            let length = json!({"type": "string", "enum": ["short", "medium", "long"]});
            let preferences = json!({"length": maybe(length), "language": maybe(language)});
            object(
                &["article_id"],
                json!({
                    "article_id": text(),
                    // Without it `jobs.articles` has to be set.
                    "content": maybe(text()),
                    "user_preferences": maybe(object(&[], preferences)),
                }),
            )
        }
        "extract_content" => object(&["html"], json!({"html": text(), "url": maybe(text())})),
        // Handlers validate the other types; docs/jobs.md describes them.
        _ => json!({"description": "docs/jobs.md describes the payload of this type"}),
    }
}
