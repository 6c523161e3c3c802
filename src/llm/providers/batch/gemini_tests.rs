//! What Gemini's batches look like on the wire.

use std::sync::Arc;

use super::*;
use crate::base::Context;
use crate::llm::batch::BatchClient;
use crate::llm::providers::batch::scripted::{Script, intent};

const FILE: &str = "http://h/v1beta/files/run-1";
/// What Gemini says of a file that does not exist.
const NONE: &str = r#"{"error":{"code":403,"message":"You do not have permission to access the File run-1 or it may not exist.","status":"PERMISSION_DENIED"}}"#;

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "files/run-1".to_owned(),
        time: Some(Timestamp(1_795_150_802_500)),
    }
}

#[test]
fn an_incomplete_list_proves_nothing_about_a_batch() {
    let list = "GET http://h/v1beta/batches?pageSize=100";
    let script = Arc::<Script>::default();
    let find = |known: &[&str]| {
        let known = known.iter().map(|id| (*id).to_owned()).collect();
        let (api, intent) = (script.api("gemini"), intent());
        let found = api.find(&intent, &uploaded(), &known, &Context::new());
        script.played();
        found
    };
    let first = json!({"nextPageToken": "t 2", "operations": []});
    script.on(list, 200, &first);
    script.on(&format!("{list}&pageToken=t%202"), 500, "{}");
    assert_eq!(find(&[]).unwrap_err().status(), Some(500));
}

#[test]
fn results_are_fetched_from_a_file_or_from_the_batch() {
    let script = Arc::<Script>::default();
    let download = |file: &str| {
        let mut sink = Vec::new();
        let api = script.api("gemini");
        let done = api.download("batches/x", file, &mut sink, &Context::new());
        script.played();
        done.map(|()| String::from_utf8(sink).unwrap())
    };
    let url = "GET http://h/download/v1beta/files/batch-x:download?alt=media";
    script.on(url, 200, "{\"key\":\"a\"}\n");
    assert_eq!(download("files/batch-x").unwrap(), "{\"key\":\"a\"}\n");
    script.on(url, 404, "{}");
    assert_eq!(download("files/batch-x").unwrap_err().status(), Some(404));
    script.on(url, 403, NONE);
    assert_eq!(download("files/batch-x").unwrap_err().status(), Some(410));
    let (one, two) = (
        json!({"metadata": {"key": "a"}, "error": {"code": 3, "message": "x\ny"}}),
        json!({"metadata": {"key": "b"}, "response": {}}),
    );
    let batch = "GET http://h/v1beta/batches/x";
    let list = json!({"inlinedResponses": {"inlinedResponses": [one, two]}});
    for done in [
        json!({"done": true, "response": list}),
        json!({"metadata": {"output": list}}),
    ] {
        script.on(batch, 200, done);
        let text = download("inline").unwrap();
        let keys = text.lines().map(|line| {
            let line = script.api("gemini").read(line.as_bytes());
            line.unwrap().key
        });
        assert_eq!(keys.collect::<Vec<_>>(), ["a", "b"]);
    }
    script.on(batch, 200, "{}");
    assert_eq!(download("inline").unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn a_file_is_discarded_only_if_it_is_gone() {
    let script = Arc::<Script>::default();
    let (api, ctx) = (script.api("gemini"), Context::new());
    let refused = r#"{"error":{"code":403,"message":"Consumer has been suspended."}}"#;
    for (status, body, gone) in [
        (200, "{}", true),
        (404, "{}", true),
        (403, NONE, true),
        (403, refused, false),
        (404, "<html>", false),
        (500, "{}", false),
    ] {
        script.on(&format!("DELETE {FILE}"), status, body);
        let done = api.discard("files/run-1", &ctx);
        assert_eq!(done.is_ok(), gone, "{status} {body}");
    }
    script.played();
}
