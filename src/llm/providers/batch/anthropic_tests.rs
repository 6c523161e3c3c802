//! What Anthropic's batches look like on the wire.

use serde_json::json;

use super::*;
use crate::llm::providers::dialect::testing::vendor;
use crate::llm::response::Response;

fn anthropic() -> &'static Vendor {
    vendor("anthropic")
}

fn lined(request: &Request) -> Result<Value, Error> {
    let line = Anthropic.line(anthropic(), "r7-000001", request, "claude-x")?;
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(line.last(), Some(&b'\n'));
    Ok(serde_json::from_slice(&line).unwrap())
}

#[test]
fn a_line_is_the_key_and_the_body_of_the_call() {
    let request = Request::new("a\nb").with_system("S").with_max_tokens(9);
    assert_eq!(
        lined(&request).unwrap(),
        json!({"custom_id": "r7-000001", "params": {
            "model": "claude-x", "max_tokens": 9, "system": "S",
            "messages": [{"role": "user", "content": "a\nb"}]}})
    );
}

#[test]
fn what_a_batch_would_refuse_is_refused_here() {
    for field in ["speed", "previous_thread_event_id", "cache_hint"] {
        let request = Request::new("U").with_extra(field, "x".into());
        let error = lined(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(field), "{error}");
    }
    let error = lined(&Request::new("U").with_max_tokens(0)).unwrap_err();
    assert!(error.message().contains("max_tokens"), "{error}");
    // These never reach a body of this dialect.
    let request = Request::new("U").with_extra("stream", true.into());
    let request = request.with_extra("store", true.into());
    let params = &lined(&request).unwrap()["params"];
    assert!(params.get("stream").is_none() && params.get("store").is_none());
}

/// Gives one byte at a time.
struct Slow<'b>(&'b [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn the_body_is_a_list_of_the_lines_and_as_long_as_it_says() {
    let requests = ["one", "two\n\"2\"", "drei \u{1F980}"];
    for count in 1..=requests.len() {
        let mut lines = Vec::new();
        for (at, prompt) in requests[..count].iter().enumerate() {
            let key = format!("k-{at}");
            lines.extend(
                Anthropic
                    .line(anthropic(), &key, &Request::new(*prompt), "m")
                    .unwrap(),
            );
        }
        for slow in [false, true] {
            let source: Box<dyn Read> = match slow {
                true => Box::new(Slow(&lines)),
                false => Box::new(&lines[..]),
            };
            let (mut body, length) = body(source, lines.len() as u64);
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, length);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            let list = value["requests"].as_array().unwrap();
            assert_eq!(list.len(), count);
            for (at, element) in list.iter().enumerate() {
                assert_eq!(element["custom_id"], format!("k-{at}"));
                assert_eq!(element["params"]["messages"][0]["content"], requests[at]);
            }
        }
    }
}

fn batch(status: &str, counts: [u64; 5]) -> Value {
    let [processing, succeeded, errored, canceled, expired] = counts;
    json!({"id": "msgbatch_1", "type": "message_batch", "processing_status": status,
        "request_counts": {"processing": processing, "succeeded": succeeded, "errored": errored,
            "canceled": canceled, "expired": expired},
        "created_at": "2026-11-20T05:00:00Z", "results_url": null})
}

#[test]
fn counts_are_told_once_the_batch_has_ended() {
    let status = status_of(&batch("in_progress", [3, 0, 0, 0, 0]));
    assert!(matches!(status.state, BatchState::Running));
    assert_eq!((status.counts, status.expected), (None, None));
    assert!(status.results.is_empty());
    let status = status_of(&batch("canceling", [3, 0, 0, 0, 0]));
    assert!(matches!(status.state, BatchState::Cancelling));
    let status = status_of(&batch("ended", [0, 4, 3, 2, 1]));
    assert!(matches!(status.state, BatchState::Completed));
    let counts = BatchCounts {
        total: 10,
        completed: 4,
        failed: 3,
    };
    assert_eq!(status.counts, Some(counts));
    assert_eq!(status.expected, Some(10));
    assert_eq!(status.results, ["results"]);
    let status = status_of(&batch("pondering", [1, 0, 0, 0, 0]));
    assert!(matches!(&status.state, BatchState::Unknown(word) if word == "pondering"));
    let status = status_of(&json!({"processing_status": "ended"}));
    assert_eq!((status.counts, status.expected), (None, None));
}

fn end(result: Value) -> BatchEnd {
    let line = json!({"custom_id": "k-1", "result": result}).to_string();
    let line = Anthropic.read(anthropic(), line.as_bytes()).unwrap();
    assert_eq!(line.key, "k-1");
    line.end
}

fn answer(result: Value) -> Result<Response, Error> {
    match end(result) {
        BatchEnd::Answered(answer) => *answer,
        BatchEnd::NotProcessed(error) => panic!("not processed: {error}"),
    }
}

#[test]
fn a_message_that_succeeded_is_read_like_any_other() {
    let message = |reason: &str, text: &str| {
        json!({"type": "succeeded", "message": {"id": "msg_1", "model": "claude-x-1",
            "content": [{"type": "text", "text": text}], "stop_reason": reason,
            "usage": {"input_tokens": 7, "output_tokens": 2}}})
    };
    let response = answer(message("end_turn", "T")).unwrap();
    assert_eq!(response.text, "T");
    assert_eq!(response.usage.unwrap().input_tokens, 7);
    let refused = answer(message("refusal", "")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Blocked);
    assert_eq!(refused.usage().unwrap().output_tokens, 2);
    let empty = answer(json!({"type": "succeeded"})).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Malformed);
}

#[test]
fn a_request_that_failed_says_whether_to_try_again() {
    let errored = |kind: &str, message: &str| {
        answer(
            json!({"type": "errored", "error": {"type": "error", "request_id": "req_2",
            "error": {"type": kind, "message": message}}}),
        )
        .unwrap_err()
    };
    for (kind, message, expected) in [
        (
            "invalid_request_error",
            "messages: too long",
            ErrorKind::Invalid,
        ),
        (
            "invalid_request_error",
            "your credit balance is too low",
            ErrorKind::Quota,
        ),
        (
            "not_found_error",
            "model: claude-y",
            ErrorKind::UnknownModel,
        ),
        ("permission_error", "no", ErrorKind::Auth),
        ("rate_limit_error", "slow", ErrorKind::RateLimited),
        ("api_error", "oops", ErrorKind::Transient),
        ("overloaded_error", "busy", ErrorKind::Transient),
        ("timeout_error", "late", ErrorKind::Transient),
        ("a_newer_error", "?", ErrorKind::Transient),
    ] {
        let error = errored(kind, message);
        assert_eq!(error.kind(), expected, "{kind}");
        assert!(error.message().contains(message), "{error}");
        assert_eq!(error.request_id(), Some("req_2"));
    }
    let error = answer(json!({"type": "errored"})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn what_had_no_turn_is_not_processed() {
    for (word, kind) in [
        ("canceled", ErrorKind::Cancelled),
        ("expired", ErrorKind::Transient),
    ] {
        match end(json!({"type": word})) {
            BatchEnd::NotProcessed(error) => assert_eq!(error.kind(), kind),
            BatchEnd::Answered(_) => panic!("{word}"),
        }
    }
}

#[test]
fn lines_that_cannot_be_read_are_malformed() {
    for line in ["", "{", "{}", r#"{"result":{"type":"succeeded"}}"#] {
        let error = Anthropic.read(anthropic(), line.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{line}");
    }
    for result in [json!({"type": "strange"}), json!({}), Value::Null] {
        let error = answer(result).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}
