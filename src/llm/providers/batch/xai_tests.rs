//! Batches of xAI against scripted replies.

use serde_json::{Value, json};

use super::*;
use crate::base::cancel::Context;
use crate::llm::batch::{BatchClient, BatchRefusal, BatchStage};
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
fn a_batch_is_created_from_its_file_under_its_name() {
    let (api, script) = scripted("xai", [says(200, json!({"batch_id": "b-1"}))]);
    let stage = api.advance(&intent(), &uploaded(), &mut NoInput, &Context::new());
    let made = BatchStage::Created {
        id: "b-1".to_owned(),
        file: Some("file-1".to_owned()),
    };
    assert_eq!(stage.unwrap(), made);
    let asked = script.asked().remove(0);
    assert_eq!(asked.what, "POST /batches");
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(body, json!({"name": "run-1", "input_file_id": "file-1"}));
}

#[test]
fn a_batch_is_found_by_its_name_or_its_file() {
    let named = json!({"batch_id": "b-1", "name": "run-1", "create_time": "2026-11-20"});
    let filed = json!({"batch_id": "b-1", "name": "x", "input_file_id": "file-1"});
    for ours in [named, filed] {
        let other = json!({"batch_id": "b-0", "name": "run-0", "create_time": "2026-11-20"});
        let pages = [
            says(200, json!({"batches": [other], "pagination_token": "a/b"})),
            says(200, json!({"batches": [ours], "pagination_token": null})),
        ];
        let (api, script) = scripted("xai", pages);
        let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        assert_eq!(found.unwrap(), ListedBatches::One("b-1".to_owned()));
        assert_eq!(
            script.calls(),
            [
                "GET /batches?limit=100",
                "GET /batches?limit=100&pagination_token=a%2Fb"
            ]
        );
    }
    for (list, none) in [
        (json!({}), true),
        (json!({"error": "x"}), false),
        (json!([]), false),
    ] {
        let (api, _) = scripted("xai", [says(200, list.clone())]);
        let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        assert_eq!(
            found.is_ok_and(|found| found == ListedBatches::None),
            none,
            "{list}"
        );
    }
}

fn batch(state: Value, more: Value) -> Value {
    let mut batch = json!({"batch_id": "b-1", "name": "run-1", "state": state});
    let more = more.as_object().unwrap().clone();
    batch.as_object_mut().unwrap().extend(more);
    batch
}

#[test]
fn the_state_follows_from_the_counts() {
    let cancelled = json!({"cancel_time": "2026-11-20T05:00:00Z", "cancel_by_xai_message": null});
    let stopped =
        json!({"cancel_time": "2026-11-20T05:00:00Z", "cancel_by_xai_message": "stopped"});
    let over = json!({"expire_time": "2026-11-20T04:59:00Z"});
    let later = json!({"expires_at": "2026-11-21"});
    let counts = |total: u64, pending: u64, success: u64, error: u64| {
        json!({"num_requests": total, "num_pending": pending, "num_success": success.to_string(),
               "num_error": error})
    };
    let none = json!({});
    let results = |state: &Value, more: &Value| {
        let reported = status("xai", batch(state.clone(), more.clone()));
        (
            reported.state.as_str().to_owned(),
            reported.results.len(),
            reported.expected,
        )
    };
    for (state, more, word, files, expected) in [
        (json!({}), &none, "validating", 0, None),
        (Value::Null, &none, "validating", 0, None),
        (counts(3, 1, 2, 0), &none, "in_progress", 0, None),
        (counts(3, 1, 2, 0), &later, "in_progress", 0, None),
        (counts(3, 0, 2, 1), &none, "completed", 1, Some(3)),
        (counts(3, 0, 2, 1), &over, "completed", 1, Some(3)),
        // What is in neither count was never worked on.
        (counts(3, 0, 1, 1), &none, "completed", 1, Some(2)),
        (counts(3, 1, 2, 0), &over, "expired", 1, Some(2)),
        (json!({}), &over, "expired", 0, None),
        (counts(3, 1, 2, 0), &cancelled, "cancelling", 0, None),
        (counts(3, 0, 2, 0), &cancelled, "cancelled", 1, Some(2)),
        (counts(3, 0, 0, 0), &cancelled, "cancelled", 0, None),
        (json!({}), &stopped, "refused", 0, None),
        (counts(3, 3, 0, 0), &stopped, "refused", 0, None),
        (counts(3, 1, 2, 0), &stopped, "cancelling", 0, None),
        (counts(3, 0, 2, 0), &stopped, "cancelled", 1, Some(2)),
    ] {
        let (reported, results, number) = results(&state, more);
        assert_eq!(
            (&*reported, results, number),
            (word, files, expected),
            "{state} {more}"
        );
    }
    let (api, _) = scripted("xai", [says(200, json!({"state": {}}))]);
    assert!(api.status("b-1", &Context::new()).is_err());
}

#[test]
fn what_stopped_a_batch_is_told_by_its_message() {
    let refused = |message: &str| {
        let more = json!({"cancel_time": "2026-11-20", "cancel_by_xai_message": message});
        match status("xai", batch(json!({}), more)).state {
            BatchState::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let model = refused("Model grok-x is not supported for batch processing.");
    assert!(
        matches!(&model, BatchRefusal::Whole(e) if e.kind() == ErrorKind::UnknownModel),
        "{model:?}"
    );
    let credit = refused("Your team has used all available credits.");
    assert!(
        matches!(&credit, BatchRefusal::Whole(e) if e.kind() == ErrorKind::Quota),
        "{credit:?}"
    );
    let line = refused("Line 3 is not valid JSON.");
    assert!(matches!(line, BatchRefusal::SomeLine(_)), "{line:?}");
}

#[test]
fn results_are_paged_into_lines() {
    let result = |key: &str| json!({"batch_request_id": key, "batch_result": {"response": {}}});
    let pages = [
        says(
            200,
            json!({"results": [result("a"), result("b")], "pagination_token": "t"}),
        ),
        says(
            200,
            json!({"results": [result("c")], "pagination_token": ""}),
        ),
    ];
    let (api, script) = scripted("xai", pages);
    let mut sink = Vec::new();
    api.download("b-1", "results", &mut sink, &Context::new())
        .unwrap();
    let lines = String::from_utf8(sink).unwrap();
    let keys: Vec<String> = lines.lines().map(|text| line("xai", text).key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert!(lines.ends_with('\n'));
    let path = "GET /batches/b-1/results?limit=100";
    assert_eq!(
        script.calls(),
        [path.to_owned(), format!("{path}&pagination_token=t")]
    );
}

#[test]
fn a_response_is_read_under_whatever_name_it_has() {
    let chat = json!({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}]});
    for response in [
        json!({"chat_get_completion": chat}),
        json!({"anything_else": chat}),
        chat.clone(),
        json!({"status_code": 200, "body": chat}),
    ] {
        for frame in [
            json!({"batch_request_id": "k", "batch_result": {"response": response}}),
            json!({"custom_id": "k", "response": response, "error": null}),
        ] {
            let read = line("xai", &frame);
            assert_eq!(read.key, "k");
            let answered = matches!(&read.result, BatchLineResult::Answered(a) if (**a).as_ref().is_ok_and(|a| a.text == "x"));
            assert!(answered, "{frame}");
        }
    }
}

#[test]
fn errors_are_numbers_or_words() {
    let result = |error: Value| json!({"batch_request_id": "k", "batch_result": {"error": error}});
    for (code, kind) in [
        (json!(3), ErrorKind::Invalid),
        (json!("3"), ErrorKind::Invalid),
        (json!("INVALID_ARGUMENT"), ErrorKind::Invalid),
        (json!("invalid_argument"), ErrorKind::Invalid),
        (json!(8), ErrorKind::RateLimited),
        (json!(13), ErrorKind::Transient),
        (json!("UNAVAILABLE"), ErrorKind::Transient),
        (json!(16), ErrorKind::Auth),
        (json!(500), ErrorKind::Transient),
        (json!("other"), ErrorKind::Invalid),
        (Value::Null, ErrorKind::Invalid),
    ] {
        let error = failure("xai", result(json!({"code": code, "message": "m"})));
        assert_eq!(error.kind(), kind, "{code}");
    }
    assert_eq!(
        failure("xai", result(json!("text"))).kind(),
        ErrorKind::Invalid
    );
    for code in [json!(1), json!("CANCELLED")] {
        let read = line("xai", result(json!({"code": code, "message": "m"})));
        assert!(
            matches!(&read.result, BatchLineResult::NotProcessed(e) if e.kind() == ErrorKind::Transient),
            "{code}"
        );
    }
    let (api, _) = scripted("xai", []);
    for nameless in ["{}", "x", r#"{"batch_request_id":""}"#] {
        assert!(api.read(nameless.as_bytes()).is_err());
    }
}

#[test]
fn a_batch_is_cancelled_with_a_colon() {
    let (api, script) = scripted("xai", [says(200, "{}")]);
    api.cancel("b-1", &Context::new()).unwrap();
    assert_eq!(script.calls(), ["POST /batches/b-1:cancel"]);
}

#[test]
fn a_day_that_has_begun_is_not_over() {
    // DATE is at five in the morning; REST tells times by the day.
    let batch = json!({"batch_id": "b-1", "create_time": "2026-11-19", "expire_time": "2026-11-20",
        "state": {"num_requests": 3, "num_pending": 2, "num_success": 1}});
    let state = status("xai", batch).state;
    assert!(matches!(state, BatchState::Running), "{state:?}");
}

#[test]
fn absurd_counts_are_no_panic() {
    let most = u64::MAX;
    let batch = json!({"batch_id": "b-1",
        "state": {"num_requests": most, "num_pending": most, "num_success": most, "num_error": most}});
    let state = status("xai", batch).state;
    assert!(matches!(state, BatchState::Running), "{state:?}");
}
