//! Batches of Together against replies as its documentation shows them.

use std::sync::Arc;

use super::*;
use crate::base::Context;
use crate::llm::batch::BatchClient;
use crate::llm::providers::batch::scripted::{Lines, Script, intent};
use crate::llm::request::Request;

#[test]
fn the_input_is_uploaded_with_the_name_and_type_of_its_file() {
    let script = Arc::new(Script::default());
    let api = script.api("together");
    let line = api.line("r-1", &Request::new("U")).unwrap();
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["custom_id"], "r-1");
    assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
    let reply = json!({"id": "file-in", "object": "file"});
    script.on("POST http://h/v1/files/upload", 200, reply);
    let uploaded = api.advance(&intent(), &BatchStage::Ready, &mut Lines, &Context::new());
    assert!(matches!(uploaded, Ok(BatchStage::Uploaded { file, .. }) if file == "file-in"));
    let form = script.played().remove(0).body;
    for part in [
        "purpose\"\r\n\r\nbatch-api\r\n",
        "file_name\"\r\n\r\nrun-1.jsonl\r\n",
        "file_type\"\r\n\r\njsonl\r\n",
    ] {
        assert!(form.contains(part), "{part}: {form}");
    }
}
