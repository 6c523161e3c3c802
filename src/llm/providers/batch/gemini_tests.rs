//! What Gemini's batches look like on the wire.

use serde_json::json;

use super::*;
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
            assert_eq!(status.expected, Some(3));
        }
    }
    let mut partly = in_state("JOB_STATE_PARTIALLY_SUCCEEDED");
    partly["metadata"]["output"] = json!({"responsesFile": "files/batch-x"});
    let partly = status(partly);
    assert_eq!(
        (partly.state.as_str(), partly.expected),
        ("completed", None)
    );
    let mut nowhere = in_state("BATCH_STATE_SUCCEEDED");
    nowhere["done"] = true.into();
    assert_eq!(status(nowhere).state.as_str(), "failed");
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
        Refused::SomeLine(error) if error.kind() == ErrorKind::Invalid
    ));
    assert!(matches!(
        refused(failed(8, "You exceeded your current quota")),
        Refused::TooMuchQueued(_)
    ));
    assert!(matches!(
        refused(failed(5, "models/gemini-y is not found")),
        Refused::Whole(error) if error.kind() == ErrorKind::UnknownModel
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

fn end(line: Value) -> BatchEnd {
    let line = Gemini.read(gemini(), line.to_string().as_bytes()).unwrap();
    assert_eq!(line.key, "k-1");
    line.end
}

fn answer(line: Value) -> Result<Response, Error> {
    match end(line) {
        BatchEnd::Answered(answer) => *answer,
        BatchEnd::NotProcessed(error) => panic!("not processed: {error}"),
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
        BatchEnd::NotProcessed(error) => assert!(error.message().contains("stopped")),
        BatchEnd::Answered(_) => panic!("it was cancelled"),
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
