//! What Gemini's batches look like on the wire.

use std::sync::Arc;

use super::*;
use crate::base::cancel::Context;
use crate::llm::batch::{BatchClient, is_unknown};
use crate::llm::providers::batch::scripted::{INPUT, KEY, Lines, Script, intent};
use crate::llm::providers::dialect::testing::vendor;
use crate::llm::response::Response;

fn gemini() -> &'static Vendor {
    vendor("gemini")
}

fn status(batch: Value) -> BatchStatus {
    status_of(vendor("gemini"), &batch)
}

fn in_state(state: &str) -> Value {
    json!({"name": "batches/x", "metadata": {"state": state,
        "batchStats": {"requestCount": "3", "pendingRequestCount": "1",
            "successfulRequestCount": "2"}}})
}

#[test]
fn a_line_is_the_key_and_the_body_of_the_call() {
    let request = Request::new("a\nb").with_max_tokens(9);
    let line = Gemini.line(gemini(), "r7-000001", &request, "m").unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&line).unwrap(),
        json!({"key": "r7-000001", "request": {
            "contents": [{"role": "user", "parts": [{"text": "a\nb"}]}],
            "generationConfig": {"maxOutputTokens": 9}}})
    );
}

#[test]
fn states_have_either_prefix_or_none() {
    for prefix in ["BATCH_STATE_", "JOB_STATE_", ""] {
        for (word, name) in [
            ("PENDING", "in_progress"),
            ("QUEUED", "in_progress"),
            ("RUNNING", "in_progress"),
            ("PAUSED", "in_progress"),
            ("UPDATING", "in_progress"),
            ("CANCELLING", "cancelling"),
            ("CANCELLED", "cancelled"),
            ("EXPIRED", "expired"),
            ("FAILED", "failed"),
            // Its results are not there yet.
            ("SUCCEEDED", "in_progress"),
        ] {
            let status = status(in_state(&format!("{prefix}{word}")));
            assert_eq!(status.state.as_str(), name, "{prefix}{word}");
            assert!(status.results.is_empty());
            assert_eq!(status.expected, None);
        }
    }
    let status = status(in_state("BATCH_STATE_DREAMING"));
    assert_eq!(status.state.as_str(), "BATCH_STATE_DREAMING");
    assert!(!status.state.is_final());
    let counts = BatchCounts {
        total: 3,
        completed: 2,
        failed: 0,
    };
    assert_eq!(status.counts, Some(counts));
}

#[test]
fn results_are_found_wherever_they_are() {
    let file = json!({"responsesFile": "files/batch-x"});
    let inline = json!({"inlinedResponses": {"inlinedResponses": [{"metadata": {"key": "k"}}]}});
    for (output, name) in [(file, "files/batch-x"), (inline, "inline")] {
        let mut done = in_state("BATCH_STATE_SUCCEEDED");
        done["done"] = true.into();
        done["response"] = output.clone();
        let mut stated = in_state("JOB_STATE_SUCCEEDED");
        stated["metadata"]["output"] = output.clone();
        // Done, whatever its state says.
        let mut stale = in_state("BATCH_STATE_RUNNING");
        stale["done"] = true.into();
        stale["response"] = output;
        for batch in [done, stated, stale] {
            let status = status(batch);
            assert_eq!(status.state.as_str(), "completed");
            assert_eq!(status.results, [name]);
            // The third was never worked on.
            assert_eq!(status.expected, Some(2));
        }
    }
    let mut partly = in_state("JOB_STATE_PARTIALLY_SUCCEEDED");
    partly["metadata"]["output"] = json!({"responsesFile": "files/batch-x"});
    let partly = status(partly);
    assert_eq!(
        (partly.state.as_str(), partly.expected),
        ("completed", Some(2))
    );
    let mut nowhere = in_state("BATCH_STATE_SUCCEEDED");
    nowhere["done"] = true.into();
    let nowhere = status(nowhere);
    assert_eq!(
        (nowhere.state.as_str(), nowhere.results.len()),
        ("completed", 0)
    );
}

#[test]
fn a_failure_says_whose_fault_it_is() {
    let failed = |code: u64, message: &str| {
        let mut batch = in_state("BATCH_STATE_FAILED");
        batch["done"] = true.into();
        batch["error"] = json!({"code": code, "message": message});
        status(batch).state
    };
    let refused = |state| match state {
        BatchState::Refused(refused) => refused,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        refused(failed(3, "Invalid JSON in the input")),
        BatchRefusal::SomeLine(error) if error.kind() == ErrorKind::Invalid
    ));
    assert!(matches!(
        refused(failed(8, "You exceeded your current quota")),
        BatchRefusal::TooMuchQueued(_)
    ));
    assert!(matches!(
        refused(failed(5, "models/gemini-y is not found")),
        BatchRefusal::Whole(error) if error.kind() == ErrorKind::UnknownModel
    ));
    for (code, message, kind) in [
        (5, "The file was not found", ErrorKind::Transient),
        (8, "out of memory", ErrorKind::Transient),
        (13, "internal", ErrorKind::Transient),
        (12, "unimplemented", ErrorKind::Transient),
        (16, "who are you", ErrorKind::Auth),
    ] {
        match failed(code, message) {
            BatchState::Failed(error) => {
                assert_eq!(error.kind(), kind, "{code}");
                assert!(error.message().contains(message), "{error}");
            }
            other => panic!("{code}: {other:?}"),
        }
    }
    let mut cancelled = in_state("BATCH_STATE_RUNNING");
    cancelled["done"] = true.into();
    cancelled["error"] = json!({"code": 1, "message": "cancelled"});
    assert_eq!(status(cancelled).state.as_str(), "cancelled");
}

fn end(line: Value) -> BatchLineResult {
    let line = Gemini.read(gemini(), line.to_string().as_bytes()).unwrap();
    assert_eq!(line.key, "k-1");
    line.result
}

fn answer(line: Value) -> Result<Response, Error> {
    match end(line) {
        BatchLineResult::Answered(answer) => *answer,
        BatchLineResult::NotProcessed(error) => panic!("not processed: {error}"),
    }
}

#[test]
fn a_response_is_read_like_any_other() {
    let candidate = |reason: &str| {
        json!({"candidates": [{"finishReason": reason, "content": {"parts": [{"text": "T"}]}}],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}})
    };
    let response = answer(json!({"key": "k-1", "response": candidate("STOP")})).unwrap();
    assert_eq!(response.text, "T");
    let inline = json!({"metadata": {"key": "k-1"}, "response": candidate("STOP")});
    assert_eq!(answer(inline).unwrap().usage.unwrap().output_tokens, 2);
    let blocked = json!({"key": "k-1", "error": null, "response": candidate("SAFETY")});
    assert_eq!(answer(blocked).unwrap_err().kind(), ErrorKind::Blocked);
    let none = answer(json!({"key": "k-1"})).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Malformed);
}

#[test]
fn errors_have_the_numbers_of_google_or_of_http() {
    for (code, kind) in [
        (3, ErrorKind::Invalid),
        (400, ErrorKind::Invalid),
        (4, ErrorKind::Transient),
        (8, ErrorKind::RateLimited),
        (429, ErrorKind::RateLimited),
        (13, ErrorKind::Transient),
        (14, ErrorKind::Transient),
        (500, ErrorKind::Transient),
        (503, ErrorKind::Transient),
        (7, ErrorKind::Auth),
        (16, ErrorKind::Auth),
        (77, ErrorKind::Transient),
    ] {
        let line = json!({"key": "k-1", "error": {"code": code, "message": "because"}});
        let error = answer(line).unwrap_err();
        assert_eq!(error.kind(), kind, "{code}");
        assert!(error.message().contains("because"), "{error}");
    }
    match end(json!({"key": "k-1", "error": {"code": 1, "message": "stopped"}})) {
        BatchLineResult::NotProcessed(error) => {
            assert!(error.message().contains("stopped"));
            assert_eq!(error.kind(), ErrorKind::Transient);
        }
        BatchLineResult::Answered(_) => panic!("it was cancelled"),
    }
}

#[test]
fn a_line_that_names_no_request_is_malformed() {
    for line in [
        "",
        "{",
        "{}",
        r#"{"response":{}}"#,
        r#"{"metadata":{"key":3}}"#,
    ] {
        let error = Gemini.read(gemini(), line.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{line}");
    }
}

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
fn the_input_goes_up_in_two_exchanges() {
    let own = "https://generativelanguage.googleapis.com/up?id=1";
    for session in ["http://h/up?id=1", own] {
        let script = Arc::<Script>::default();
        script.on(&format!("GET {FILE}"), 403, NONE);
        script.on_with(START, 200, &[("x-goog-upload-url", session)], "");
        let sent = json!({"file": whole("ACTIVE")});
        script.on("POST http://h/up?id=1", 200, sent);
        assert_eq!(advance(&script, &BatchStage::Ready).unwrap(), uploaded());
        let [_, start, bytes] = &script.played()[..] else {
            panic!("three calls");
        };
        assert_eq!(
            start.json(),
            json!({"file": {"name": "files/run-1", "displayName": "run-1"}})
        );
        for (header, value) in [
            ("x-goog-upload-protocol", "resumable"),
            ("x-goog-upload-command", "start"),
            ("x-goog-upload-header-content-length", "16"),
            ("x-goog-upload-header-content-type", "application/jsonl"),
            ("x-goog-api-key", KEY),
        ] {
            assert_eq!(start.header(header), Some(value));
        }
        assert_eq!(
            bytes.header("x-goog-upload-command"),
            Some("upload, finalize")
        );
        assert_eq!(bytes.header("x-goog-upload-offset"), Some("0"));
        assert_eq!(bytes.body, INPUT);
        assert_eq!(bytes.header("x-goog-api-key"), Some(KEY));
    }
}

#[test]
fn prompts_and_key_go_to_no_host_but_the_one_that_is_configured() {
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
fn what_an_earlier_try_uploaded_is_used_or_deleted() {
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
fn a_name_that_is_taken_is_looked_at_again() {
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
fn an_upload_that_did_not_arrive_whole_is_taken_back() {
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
fn a_batch_is_found_by_our_name() {
    let list = "GET http://h/v1beta/batches?pageSize=100";
    let entry = |id: &str, name: &str, created: &str| json!({"name": id, "metadata": {"displayName": name, "createTime": created}});
    let script = Arc::<Script>::default();
    let find = |known: &[&str]| {
        let known = known.iter().map(|id| (*id).to_owned()).collect();
        let (api, intent) = (script.api("gemini"), intent());
        let found = api.find(&intent, &uploaded(), &known, &Context::new());
        script.played();
        found
    };
    script.on(list, 200, "{}");
    assert_eq!(find(&[]).unwrap(), ListedBatches::None);
    let first = json!({"nextPageToken": "t 2", "operations": [
        entry("batches/a", "run-10", "2026-11-20T05:00:00Z"),
        entry("batches/b", "run-1", "2026-11-20T05:00:09Z"),
        {"name": "batches/nameless"}]});
    let second = json!({"operations": [entry("batches/c", "run-1", "2026-11-20T05:00:08.9Z")]});
    for (known, found) in [
        (
            vec![],
            ListedBatches::Many(vec!["batches/c".to_owned(), "batches/b".to_owned()]),
        ),
        (
            vec!["batches/c"],
            ListedBatches::One("batches/b".to_owned()),
        ),
        (vec!["batches/b", "batches/c"], ListedBatches::None),
    ] {
        script.on(list, 200, &first);
        script.on(&format!("{list}&pageToken=t%202"), 200, &second);
        assert_eq!(find(&known).unwrap(), found);
    }
    // Half a list says nothing.
    script.on(list, 200, &first);
    script.on(&format!("{list}&pageToken=t%202"), 500, "{}");
    assert_eq!(find(&[]).unwrap_err().status(), Some(500));
    for body in ["[]", r#"{"operations":3}"#, r#"{"something":[]}"#] {
        script.on(list, 200, body);
        let error = find(&[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{body}");
    }
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
fn a_file_that_is_gone_is_discarded_and_one_that_may_be_there_is_not() {
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

#[test]
fn where_a_batch_stands_and_its_end_are_asked_for_by_its_name() {
    let script = Arc::<Script>::default();
    let (api, ctx) = (script.api("gemini"), Context::new());
    let get = "GET http://h/v1beta/batches/x";
    script.on(get, 200, in_state("BATCH_STATE_RUNNING"));
    let status = api.status("batches/x", &ctx).unwrap();
    assert_eq!(status.state.as_str(), "in_progress");
    let cancel = "POST http://h/v1beta/batches/x:cancel";
    script.on(cancel, 200, "{}");
    api.cancel("batches/x", &ctx).unwrap();
    script.on(cancel, 400, "{}");
    script.on(get, 200, in_state("BATCH_STATE_CANCELLED"));
    api.cancel("batches/x", &ctx).unwrap();
    script.played();
}
