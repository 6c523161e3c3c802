//! Batches of OpenAI and Groq against scripted replies.

use serde_json::{Value, json};

use super::*;
use crate::base::cancel::Context;
use crate::base::error::ErrorKind;
use crate::llm::batch::{BatchClient, BatchLineResult, BatchRefusal, BatchStage};
use crate::llm::providers::batch::files::since;
use crate::llm::providers::batch::scripted::{
    DATE, NoInput, failure, intent, line, says, scripted, status,
};

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(DATE),
    }
}

#[test]
fn a_batch_is_created_from_its_file_with_its_label() {
    for provider in ["openai", "groq"] {
        let (api, script) = scripted(provider, [says(200, json!({"id": "batch_1"}))]);
        let stage = api.advance(&intent(), &uploaded(), &mut NoInput, &Context::new());
        let made = BatchStage::Created {
            id: "batch_1".to_owned(),
            file: Some("file-1".to_owned()),
        };
        assert_eq!(stage.unwrap(), made);
        let asked = script.asked().remove(0);
        assert_eq!(asked.what, "POST /batches");
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(
            body,
            json!({"input_file_id": "file-1", "endpoint": "/v1/chat/completions",
                   "completion_window": "24h", "metadata": {"label": "run-1"}})
        );
    }
}

/// Seconds after [`DATE`].
fn at(seconds: i64) -> i64 {
    DATE.0 / 1000 + seconds
}

const DAY: i64 = 24 * 3600;

fn batch(id: &str, file: &str, label: &str, created: i64) -> Value {
    json!({"id": id, "input_file_id": file, "metadata": {"label": label}, "created_at": created})
}

fn find(provider: &str, pages: Vec<Value>, known: &[&str]) -> (ListedBatches, Vec<String>) {
    let (api, script) = scripted(provider, pages.into_iter().map(|page| says(200, page)));
    let known = known.iter().map(|id| (*id).to_owned()).collect();
    let found = api.find(&intent(), &uploaded(), &known, &Context::new());
    (found.unwrap(), script.calls())
}

#[test]
fn a_batch_is_found_by_its_file_or_its_label_on_any_page_that_is_not_too_old() {
    let other = batch("b-1", "file-7", "run-7", at(0));
    let old = batch("b-0", "file-0", "run-0", at(-DAY - 60));
    let ours = batch("b-2", "file-1", "lost", at(3));
    let labelled = json!({"id": "b-2", "metadata": {"label": "run-1"}, "input_file_id": null});
    for ours in [ours, labelled] {
        // An old entry among others does not end the list.
        let first = json!({"data": [other, old], "has_more": true, "last_id": "b-0"});
        let second = json!({"data": [ours], "has_more": false});
        let (found, calls) = find("openai", vec![first, second], &[]);
        assert_eq!(found, ListedBatches::One("b-2".to_owned()));
        assert_eq!(
            calls,
            ["GET /batches?limit=100", "GET /batches?limit=100&after=b-0"]
        );
    }
    let page = json!({"data": [old], "has_more": true, "last_id": "b-0"});
    let (found, calls) = find("openai", vec![page], &[]);
    assert_eq!((found, calls.len()), (ListedBatches::None, 1));
}

#[test]
fn several_are_told_oldest_first_and_those_known_are_others() {
    let late = batch("b-late", "file-1", "run-1", at(9));
    let early = batch("b-early", "file-1", "run-1", at(1));
    let undated = json!({"id": "b-undated", "input_file_id": "file-1"});
    let page = json!({"data": [undated, late, early, early]});
    let (found, _) = find("openai", vec![page.clone()], &[]);
    let all = ["b-early", "b-late", "b-undated"].map(str::to_owned);
    assert_eq!(found, ListedBatches::Many(all.to_vec()));
    let (found, _) = find("openai", vec![page], &["b-early", "b-undated"]);
    assert_eq!(found, ListedBatches::One("b-late".to_owned()));
}

#[test]
fn groq_pages_by_cursor() {
    let first = json!({"data": [batch("b-1", "f", "l", at(0))], "paging": {"next_cursor": "a=b"}});
    let second =
        json!({"data": [batch("b-2", "file-1", "l", at(0))], "paging": {"next_cursor": null}});
    let (found, calls) = find("groq", vec![first, second], &[]);
    assert_eq!(found, ListedBatches::One("b-2".to_owned()));
    assert_eq!(calls, ["GET /batches", "GET /batches?cursor=a%3Db"]);
}

#[test]
fn a_batch_of_ours_without_an_id_is_not_taken_for_none() {
    let page = json!({"data": [{"input_file_id": "file-1"}, {"input_file_id": "file-2"}]});
    let (api, _) = scripted("openai", [says(200, page)]);
    let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn a_list_is_read_back_to_a_day_before_the_intent_where_no_server_told_its_time() {
    let begun = intent().begun;
    let from = |stage: &BatchStage| since(&intent(), stage);
    let day = DAY * 1000;
    assert_eq!(from(&uploaded()), Timestamp(DATE.0 - day));
    let untimed = BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: None,
    };
    assert_eq!(from(&untimed), Timestamp(begun.0 - day));
}

#[test]
fn every_status_word_has_its_state() {
    for (word, state) in [
        ("validating", "validating"),
        ("in_progress", "in_progress"),
        ("finalizing", "in_progress"),
        ("completed", "completed"),
        ("expired", "expired"),
        ("cancelling", "cancelling"),
        ("cancelled", "cancelled"),
        ("failed", "refused"),
        ("pondering", "pondering"),
    ] {
        let reported = status("openai", json!({"id": "b-1", "status": word}));
        assert_eq!(reported.state.as_str(), state);
        assert!(
            reported.results.is_empty() && reported.counts.is_none() && reported.expected.is_none()
        );
    }
    let strange = status("groq", json!({"id": "b-1", "status": "pondering"}));
    assert!(matches!(strange.state, BatchState::Unknown(_)));
    let (api, script) = scripted("openai", [says(200, json!({"id": "b-1"}))]);
    let error = api.status("b/1", &Context::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert_eq!(script.calls(), ["GET /batches/b%2F1"]);
}

#[test]
fn either_result_file_may_be_missing_and_what_was_answered_must_be_in_one() {
    let counts = json!({"total": 3, "completed": 2, "failed": 1});
    let reported = |word: &str, output: Value, error: Value| {
        let body = json!({"id": "b-1", "status": word, "output_file_id": output,
                          "error_file_id": error, "request_counts": counts});
        status("openai", body)
    };
    let both = reported("completed", "file-o".into(), "file-e".into());
    assert_eq!(both.results, ["file-o", "file-e"]);
    assert_eq!(both.expected, Some(3));
    let known = both.counts.unwrap();
    assert_eq!((known.total, known.completed, known.failed), (3, 2, 1));
    let output = reported("expired", "file-o".into(), Value::Null);
    assert_eq!(
        (output.results, output.expected),
        (vec!["file-o".to_owned()], Some(2))
    );
    let error = reported("cancelled", "".into(), "file-e".into());
    assert_eq!(
        (error.results, error.expected),
        (vec!["file-e".to_owned()], Some(2))
    );
    // What was neither answered nor failed has no line, and is asked for again at once.
    let counts = json!({"total": 5, "completed": 2, "failed": 1});
    let partly = json!({"status": "completed", "request_counts": counts});
    assert_eq!(status("openai", partly).expected, Some(3));
    let empty = json!({"status": "completed", "request_counts": {"total": 3}});
    assert_eq!(status("openai", empty).expected, None);
}

#[test]
fn the_server_says_when_to_ask_again() {
    let mut reply = says(200, json!({"status": "in_progress"})).unwrap();
    reply.headers = [("retry-after", "90")].into_iter().collect();
    let (api, _) = scripted("openai", [Ok(reply)]);
    let reported = api.status("b-1", &Context::new()).unwrap();
    assert_eq!(
        reported.poll_after,
        Some(std::time::Duration::from_secs(90))
    );
}

fn refused(provider: &str, errors: Value) -> BatchRefusal {
    match status(provider, json!({"status": "failed", "errors": errors})).state {
        BatchState::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_that_are_named_are_the_fault_of_those_requests() {
    let bad = |line: Value| json!({"code": "invalid_json_line", "line": line, "message": "bad"});
    for errors in [
        json!({"object": "list", "data": [bad(7.into()), bad("3".into()), bad(7.into())]}),
        json!([bad(7.into()), bad(3.into())]),
    ] {
        for provider in ["openai", "groq"] {
            let BatchRefusal::Lines(lines) = refused(provider, errors.clone()) else {
                panic!("{errors}")
            };
            let numbers: Vec<u64> = lines.iter().map(|(line, _)| *line).collect();
            assert_eq!(numbers, [3, 7]);
            let error = &lines[0].1;
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains("invalid_json_line"), "{error}");
        }
    }
}

#[test]
fn a_refusal_that_names_no_line_is_for_one_of_them() {
    for errors in [
        json!(null),
        json!([]),
        json!({"data": []}),
        json!({"data": [{"code": "invalid_request", "message": "bad", "line": null}]}),
        json!("bad"),
        json!({"message": "bad"}),
        json!([{"message": "bad", "line": 0}]),
    ] {
        let why = refused("groq", errors.clone());
        assert!(
            matches!(why, BatchRefusal::SomeLine(_)),
            "{errors}: {why:?}"
        );
    }
}

#[test]
fn a_full_queue_is_no_fault_of_the_requests() {
    let errors = json!({"data": [{"code": "token_limit_exceeded", "line": null,
        "message": "Enqueued token limit reached for m. Limit: 90,000 enqueued tokens."}]});
    let BatchRefusal::TooMuchQueued(error) = refused("openai", errors) else {
        panic!()
    };
    assert_eq!(error.kind(), ErrorKind::RateLimited);
}

#[test]
fn what_holds_for_all_requests_is_the_fault_of_none() {
    for (code, message, kind) in [
        ("billing_hard_limit_reached", "no money", ErrorKind::Quota),
        (
            "model_not_found",
            "The model `m` does not exist",
            ErrorKind::UnknownModel,
        ),
        (
            "invalid",
            "The model m is not supported by the Batch API.",
            ErrorKind::UnknownModel,
        ),
    ] {
        // That a line is named, the first, does not make it that line's.
        for line in [json!(null), json!(1)] {
            let errors = json!({"data": [{"code": code, "message": message, "line": line}]});
            let BatchRefusal::Whole(error) = refused("openai", errors) else {
                panic!("{code}")
            };
            assert_eq!(error.kind(), kind);
        }
    }
    let message = "The input file file-1 does not exist.";
    let errors = json!({"data": [{"code": "invalid_input_file", "message": message}]});
    let BatchRefusal::Whole(error) = refused("openai", errors) else {
        panic!()
    };
    assert_eq!(error.kind(), ErrorKind::Transient);
}

#[test]
fn a_server_that_failed_blames_no_request() {
    let errors = json!({"data": [{"code": "server_error", "message": "try again"}]});
    let reported = status("openai", json!({"status": "failed", "errors": errors}));
    let BatchState::Failed(error) = reported.state else {
        panic!("{reported:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Transient);
}

#[test]
fn what_is_wrong_with_the_input_is_no_fault_of_the_server() {
    for message in [
        "The file is not valid JSONL. Please fix it and try again.",
        "Line 3 of the file is incomplete: the upload timed out or was cut.",
        "invalid tool call: server error expected as a string",
    ] {
        let errors = json!({"data": [{"code": null, "message": message}]});
        let reported = status("openai", json!({"status": "failed", "errors": errors}));
        assert!(
            matches!(reported.state, BatchState::Refused(_)),
            "{message}"
        );
    }
    let errors = json!({"data": [{"code": null, "message": "Request timed out."}]});
    let reported = status("openai", json!({"status": "failed", "errors": errors}));
    assert!(matches!(reported.state, BatchState::Failed(_)));
}

#[test]
fn an_answer_is_read_with_its_key() {
    let body = json!({"model": "m-1", "choices": [{"finish_reason": "stop", "message": {"content": "x"}}],
                      "usage": {"prompt_tokens": 7, "completion_tokens": 2}});
    let response = json!({"status_code": 200, "request_id": "req-1", "body": body});
    for provider in ["openai", "groq", "mistral"] {
        let read = line(
            provider,
            json!({"id": "r", "custom_id": "k", "response": response, "error": null}),
        );
        assert_eq!(read.key, "k");
        let BatchLineResult::Answered(answer) = read.result else {
            panic!()
        };
        let answer = answer.unwrap();
        assert_eq!((&*answer.text, &*answer.provider), ("x", provider));
        assert_eq!(answer.usage.unwrap().input_tokens, 7);
    }
}

#[test]
fn failures_of_single_requests_are_classified_like_those_of_calls() {
    let response = |status: Value, body: Value| {
        json!({"custom_id": "k", "error": null,
               "response": {"status_code": status, "request_id": "req-2", "body": body}})
    };
    let error_body = |code: &str| json!({"error": {"message": "m", "code": code}});
    let with = |content: Value| json!({"choices": [content], "usage": {"prompt_tokens": 7}});
    let refusal = with(json!({"finish_reason": "stop", "message": {"refusal": "no"}}));
    for (status, body, kind) in [
        (
            json!(400),
            error_body("context_length_exceeded"),
            ErrorKind::Invalid,
        ),
        (json!("400"), error_body("x"), ErrorKind::Invalid),
        (
            json!(404),
            error_body("model_not_found"),
            ErrorKind::UnknownModel,
        ),
        (
            json!(429),
            error_body("insufficient_quota"),
            ErrorKind::Quota,
        ),
        (json!(500), error_body("server_error"), ErrorKind::Transient),
        (json!(503), json!("<html>"), ErrorKind::Transient),
        (json!(200), refusal, ErrorKind::Blocked),
        (json!(200), json!({}), ErrorKind::Malformed),
        (json!(200), Value::Null, ErrorKind::Malformed),
        (Value::Null, json!({}), ErrorKind::Malformed),
    ] {
        let error = failure("openai", response(status.clone(), body));
        assert_eq!(error.kind(), kind, "{status} {error}");
        assert_eq!(error.request_id(), Some("req-2"));
    }
    assert_eq!(
        failure("openai", json!({"custom_id": "k"})).kind(),
        ErrorKind::Malformed
    );
}

#[test]
fn an_error_stands_before_a_response_and_may_mean_that_nothing_was_done() {
    let error = |error: Value, response: Value| json!({"custom_id": "k", "response": response, "error": error});
    for code in ["batch_expired", "batch_cancelled", "request_canceled"] {
        let error_body = json!({"code": code, "message": "This request could not be executed."});
        let read = line("openai", error(error_body, Value::Null));
        assert!(
            matches!(&read.result, BatchLineResult::NotProcessed(e) if e.kind() == ErrorKind::Transient),
            "{code}"
        );
    }
    for (error_body, kind) in [
        (
            json!({"code": "invalid_request", "message": "bad"}),
            ErrorKind::Invalid,
        ),
        (
            json!({"code": "server_error", "message": "oops"}),
            ErrorKind::Transient,
        ),
        (
            json!({"code": "429", "message": "slow"}),
            ErrorKind::RateLimited,
        ),
        (json!("bad"), ErrorKind::Invalid),
    ] {
        let response = json!({"status_code": 200, "body": {}});
        assert_eq!(
            failure("openai", error(error_body.clone(), response)).kind(),
            kind,
            "{error_body}"
        );
    }
    for nothing in [json!(null), json!(""), json!({})] {
        let body = json!({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}]});
        let response = json!({"status_code": 200, "body": body});
        let read = line("mistral", error(nothing, response));
        assert!(matches!(read.result, BatchLineResult::Answered(answer) if answer.is_ok()));
    }
}

#[test]
fn a_line_that_names_no_request_is_malformed() {
    let (api, _) = scripted("openai", []);
    for line in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"custom_id":null}"#,
        r#"{"custom_id":""}"#,
        r#"{"custom_id":"k","#,
    ] {
        let error = api.read(line.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{line}");
    }
}

#[test]
fn results_go_to_the_sink_and_are_gone_when_the_provider_says_so() {
    let gone = json!({"error": {"message": "No such File object"}});
    let (api, script) = scripted("openai", [says(200, "one\ntwo\n"), says(404, gone)]);
    let mut sink = Vec::new();
    let ctx = Context::new();
    api.download("b-1", "file-o", &mut sink, &ctx).unwrap();
    assert_eq!(sink, b"one\ntwo\n");
    let error = api.download("b-1", "file-o", &mut sink, &ctx).unwrap_err();
    assert_eq!((error.status(), &*sink), (Some(404), &b"one\ntwo\n"[..]));
    assert_eq!(script.calls(), ["GET /files/file-o/content"; 2]);
}

#[test]
fn a_batch_that_is_larger_than_the_provider_takes_now_is_made_smaller() {
    for message in [
        "The batch input file has too many requests: 50000, the maximum is 25000.",
        "The input file is too large: its size must be at most 100 MB",
    ] {
        let errors = json!({"data": [{"code": "invalid_batch", "message": message, "line": null}]});
        let refused = refused("openai", errors);
        assert!(
            matches!(refused, BatchRefusal::TooMuchQueued(_)),
            "{refused:?}"
        );
    }
    let line = json!({"data": [{"code": "x", "message": "too many lines of bytes", "line": 3}]});
    assert!(matches!(refused("openai", line), BatchRefusal::Lines(_)));
}
