//! What Gemini's batches look like on the wire.

use std::sync::Arc;

use super::*;
use crate::base::Context;
use crate::llm::batch::{BatchClient, is_unknown};
use crate::llm::providers::batch::scripted::{INPUT, Lines, Script, intent};
use crate::llm::providers::dialect::testing::vendor;

const FILE: &str = "http://h/v1beta/files/run-1";
const START: &str = "POST http://h/upload/v1beta/files";
/// What Gemini says of a file that does not exist.
const NONE: &str = r#"{"error":{"code":403,"message":"You do not have permission to access the File run-1 or it may not exist.","status":"PERMISSION_DENIED"}}"#;

fn advance(script: &Arc<Script>, stage: &BatchStage) -> Result<BatchStage, Error> {
    let intent = intent();
    script
        .api("gemini")
        .advance(&intent, stage, &mut Lines, &Context::new())
}

fn file(state: &str, size: usize) -> Value {
    json!({"name": "files/run-1", "state": state, "sizeBytes": size.to_string(),
        "createTime": "2026-11-20T05:00:02.5Z"})
}

fn whole(state: &str) -> Value {
    file(state, INPUT.len())
}

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "files/run-1".to_owned(),
        time: Some(Timestamp(1_795_150_802_500)),
    }
}

#[test]
fn a_line_is_the_key_and_the_body_of_the_call() {
    let request = Request::new("a\nb").with_max_tokens(9);
    let line = Gemini
        .line(vendor("gemini"), "r7-000001", &request, "m")
        .unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&line).unwrap(),
        json!({"key": "r7-000001", "request": {
            "contents": [{"role": "user", "parts": [{"text": "a\nb"}]}],
            "generationConfig": {"maxOutputTokens": 9}}})
    );
}

#[test]
fn prompts_and_the_key_are_sent_only_to_the_configured_host() {
    for session in [
        "https://elsewhere/up?id=1",
        "http://h.evil/up",
        "//elsewhere/up",
        "up",
    ] {
        let script = Arc::<Script>::default();
        script.on(&format!("GET {FILE}"), 403, NONE);
        script.on_with(START, 200, &[("x-goog-upload-url", session)], "");
        let error = advance(&script, &BatchStage::Ready).unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
        assert!(error.message().contains("not configured"), "{error}");
        assert_eq!(script.played().len(), 2);
    }
}

#[test]
fn the_upload_of_an_earlier_attempt_is_used_or_deleted() {
    let (get, delete) = (format!("GET {FILE}"), format!("DELETE {FILE}"));
    let script = Arc::<Script>::default();
    script.on(&get, 200, whole("ACTIVE"));
    assert_eq!(advance(&script, &BatchStage::Ready).unwrap(), uploaded());
    for useless in [file("ACTIVE", 15), file("PROCESSING", 15), whole("FAILED")] {
        script.on(&get, 200, useless).on(&delete, 200, "{}");
        let error = advance(&script, &BatchStage::Ready).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(!is_unknown(&error));
    }
    script.on(&get, 200, whole("PROCESSING"));
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    // Nothing is sent as long as it is not known what is there.
    script.on(&get, 503, "{}");
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert_eq!(error.status(), Some(503));
    script.played();
}

#[test]
fn a_conflict_of_names_is_checked_again() {
    let get = format!("GET {FILE}");
    let script = Arc::<Script>::default();
    script.on(&get, 404, "{}").on(START, 409, "{}");
    script.on(&get, 200, whole("ACTIVE"));
    assert_eq!(advance(&script, &BatchStage::Ready).unwrap(), uploaded());
    script.on(&get, 404, "{}").on(START, 409, "{}");
    script.on(&get, 404, "{}");
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Transient, Some(409))
    );
    script.played();
}

#[test]
fn an_incomplete_upload_is_deleted() {
    let script = Arc::<Script>::default();
    let session = &[("x-goog-upload-url", "http://h/up")];
    let begin = || {
        script.on(&format!("GET {FILE}"), 404, "{}");
        script.on_with(START, 200, session, "");
    };
    begin();
    script.on("POST http://h/up", 200, json!({"file": file("ACTIVE", 3)}));
    script.on(&format!("DELETE {FILE}"), 200, "{}");
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    begin();
    script.on("POST http://h/up", 200, "{}");
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    script
        .on(&format!("GET {FILE}"), 404, "{}")
        .on(START, 200, "");
    let error = advance(&script, &BatchStage::Ready).unwrap_err();
    assert!(error.message().contains("x-goog-upload-url"), "{error}");
    script.played();
}

#[test]
fn a_batch_is_created_from_the_file_under_our_name() {
    let create = "POST http://h/v1beta/models/m:batchGenerateContent";
    let script = Arc::<Script>::default();
    script.on(create, 200, json!({"name": "batches/x", "metadata": {}}));
    let created = BatchStage::Created {
        id: "batches/x".to_owned(),
        file: Some("files/run-1".to_owned()),
    };
    assert_eq!(advance(&script, &uploaded()).unwrap(), created);
    assert_eq!(
        script.played()[0].json(),
        json!({"batch": {"displayName": "run-1", "inputConfig": {"fileName": "files/run-1"}}})
    );
    let refused = |status, body: Value| {
        script.on(create, status, body);
        advance(&script, &uploaded()).unwrap_err()
    };
    let full = refused(429, json!({"error": {"code": 429, "message": "quota"}}));
    assert_eq!(full.retry_after(), Some(Duration::from_secs(900)));
    let hinted = json!({"error": {"code": 429, "message": "quota", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "57s"}]}});
    let wait = refused(429, hinted).retry_after();
    assert_eq!(wait, Some(Duration::from_secs(57)));
    assert!(is_unknown(&refused(200, json!({}))));
    assert!(is_unknown(&refused(503, json!({}))));
    assert!(!is_unknown(&refused(404, json!({}))));
    script.played();
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
