//! Batches of Mistral against scripted replies.

use serde_json::{Value, json};

use super::*;
use crate::base::cancel::Context;
use crate::base::error::ErrorKind;
use crate::llm::batch::{BatchClient, BatchRefusal, BatchStage};
use crate::llm::providers::batch::scripted::{DATE, NoInput, intent, says, scripted, status};

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(DATE),
    }
}

#[test]
fn the_model_stands_on_the_job() {
    let (api, script) = scripted("mistral", [says(200, json!({"id": "job-1"}))]);
    let stage = api.advance(&intent(), &uploaded(), &mut NoInput, &Context::new());
    let made = BatchStage::Created {
        id: "job-1".to_owned(),
        file: Some("file-1".to_owned()),
    };
    assert_eq!(stage.unwrap(), made);
    let asked = script.asked().remove(0);
    assert_eq!(asked.what, "POST /batch/jobs");
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(
        body,
        json!({"endpoint": "/v1/chat/completions", "model": "m", "input_files": ["file-1"],
               "metadata": {"label": "run-1"}, "timeout_hours": 24})
    );
    let mut intent = intent();
    intent.model = None;
    let error = api.advance(&intent, &uploaded(), &mut NoInput, &Context::new());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn jobs_are_listed_page_by_page_as_far_as_they_go() {
    let job = |id: &str, file: &str, label: &str| json!({"id": id, "input_files": [file], "metadata": {"label": label}, "created_at": DATE.0 / 1000});
    let find = |pages: Vec<Value>| {
        let (api, script) = scripted("mistral", pages.into_iter().map(|page| says(200, page)));
        let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        (found, script.calls())
    };
    let others: Vec<Value> = (0..100).map(|n| job(&format!("j-{n}"), "f", "l")).collect();
    for ours in [job("job-1", "file-1", ""), job("job-1", "", "run-1")] {
        let pages = vec![
            json!({"data": others, "total": 101}),
            json!({"data": [ours], "total": 101}),
        ];
        let (found, calls) = find(pages);
        assert_eq!(found.unwrap(), ListedBatches::One("job-1".to_owned()));
        let tail = "page_size=100&created_after=2026-11-19T05%3A00%3A00Z";
        let page = |n| format!("GET /batch/jobs?page={n}&{tail}");
        assert_eq!(calls, [page(0), page(1)]);
    }
    // Without a total a full page has a next one.
    let (found, calls) = find(vec![json!({"data": others}), json!({"data": []})]);
    assert_eq!((found.unwrap(), calls.len()), (ListedBatches::None, 2));
    let (found, calls) = find(vec![json!({"total": 0})]);
    assert_eq!((found.unwrap(), calls.len()), (ListedBatches::None, 1));
    assert!(find(vec![json!({})]).0.is_err());
}

#[test]
fn every_status_word_has_its_state() {
    for (word, state) in [
        ("QUEUED", "in_progress"),
        ("RUNNING", "in_progress"),
        ("SUCCESS", "completed"),
        ("FAILED", "refused"),
        ("TIMEOUT_EXCEEDED", "expired"),
        ("CANCELLATION_REQUESTED", "cancelling"),
        ("CANCELLED", "cancelled"),
        ("PONDERING", "PONDERING"),
    ] {
        let reported = status("mistral", json!({"id": "j", "status": word}));
        assert_eq!(reported.state.as_str(), state);
    }
}

#[test]
fn counts_and_files_are_read_and_a_success_promises_a_number() {
    let job = |word: &str| {
        json!({"id": "j", "status": word, "total_requests": 3, "completed_requests": 3,
               "succeeded_requests": 2, "failed_requests": 1, "output_file": "o", "error_file": "e"})
    };
    let reported = status("mistral", job("SUCCESS"));
    let counts = reported.counts.unwrap();
    assert_eq!((counts.total, counts.completed, counts.failed), (3, 2, 1));
    assert_eq!(
        (reported.results, reported.expected),
        (vec!["o".to_owned(), "e".to_owned()], Some(3))
    );
    // What a failed job has finished is not thrown away, and what it has not is no surprise.
    let reported = status("mistral", job("FAILED"));
    assert!(matches!(reported.state, BatchState::Completed));
    assert_eq!((reported.results.len(), reported.expected), (2, None));
}

#[test]
fn a_failed_job_names_no_line() {
    let failed = |message: &str| {
        let errors = json!([{"message": message, "count": 1}]);
        status(
            "mistral",
            json!({"id": "j", "status": "FAILED", "errors": errors}),
        )
        .state
    };
    let BatchState::Refused(BatchRefusal::SomeLine(error)) = failed("Invalid body") else {
        panic!()
    };
    assert!(error.message().contains("Invalid body"), "{error}");
    for message in ["Internal server error", "Job failed: internal error"] {
        let BatchState::Failed(error) = failed(message) else {
            panic!("{message}")
        };
        assert_eq!(error.kind(), ErrorKind::Transient);
    }
    let whole = failed("Invalid model: m");
    assert!(
        matches!(whole, BatchState::Refused(BatchRefusal::Whole(_))),
        "{whole:?}"
    );
}

#[test]
fn a_job_is_cancelled_at_its_own_address() {
    let (api, script) = scripted("mistral", [says(200, "{}"), says(200, "x")]);
    api.cancel("j-1", &Context::new()).unwrap();
    let mut sink = Vec::new();
    api.download("j-1", "o", &mut sink, &Context::new())
        .unwrap();
    assert_eq!(
        script.calls(),
        ["POST /batch/jobs/j-1/cancel", "GET /files/o/content"]
    );
}
