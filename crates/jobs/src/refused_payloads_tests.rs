//! Payloads that are rejected, each with the field that the error names.

use serde::Deserialize;
use serde_json::Value;

use crate::JobTypes;

const REFUSED: &str = include_str!("refused_payloads.jsonl");

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "type")]
    job_type: String,
    payload: Value,
    field: String,
}

#[test]
fn payloads_are_refused_by_their_field() {
    let types = JobTypes::new();
    for line in REFUSED.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        let error = types.job(&row.job_type, row.payload).unwrap_err();
        assert_eq!(error.field, row.field, "{line}: {error}");
    }
}
