//! Nothing of a prompt or an answer is in the `Debug` of any public type that holds one, and that of
//! the longest stays short: a `?` in `main`, an `unwrap`, and a log line all print it.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::json;

use crate::{client::*, files::*, unstable::*, *};
#[cfg(feature = "queue")]
use crate::{progress::*, queue::*};

/// In every text; the rest makes it long.
const PRIVATE: &str = "the patient's name";
/// What one value may take up.
const MOST: usize = 2_500;

fn text() -> String {
    PRIVATE.repeat(500)
}

#[track_caller]
fn is_private(value: &dyn Debug) {
    for shown in [format!("{value:?}"), format!("{value:#?}")] {
        let shown_bytes = shown.len();
        let beginning: String = shown.chars().take(400).collect();
        assert!(!shown.contains("patient"), "{beginning}");
        assert!(shown_bytes <= MOST, "{shown_bytes} bytes: {beginning}");
    }
}

fn request() -> Request {
    let content = json!([{"type": "text", "text": text()}, {"image": text()}]);
    let mut message = Message::new(Role::User, text());
    message.extra.insert("name".to_owned(), text().into());
    let parts = Message {
        content,
        ..message.clone()
    };
    let mut request = Request::chat(vec![message, parts])
        .with_id("a-1")
        .with_system(text())
        .with_response_format(ResponseFormat::JsonSchema {
            name: "answer".to_owned(),
            schema: json!({"description": text()}),
            strict: true,
        })
        .with_extra("metadata", text().into())
        .with_user_data(text());
    request.params.stop = vec![text(); 4];
    request.input = Some(RawJson::new(&text()));
    request
}

fn response() -> Response {
    let call = ToolCall::new("c-1", "add", text().into());
    let details = ReplyDetails {
        tool_calls: vec![call; 100],
        reasoning: Some(Reasoning::new(text())),
        citations: vec![text().into()],
        logprobs: Some(RawJson::new(&text())),
        service_tier: Some("flex".to_owned()),
        degraded: Some(text()),
        left_out: Vec::new(),
        reply: Some(RawJson::new(&text())),
        reply_bytes: Some(text().into_bytes()),
    };
    let mut response = Response::new("openai", text()).with_details(details);
    response.embedding = Some(vec![0.123; 4_096]);
    response
}

fn failure() -> Error {
    let error = Error::new(ErrorKind::Malformed, "it is not JSON").with_raw(&text());
    error.with_refusal(Some(text()))
}

fn outcome(result: Result<Response, Error>) -> Outcome {
    Outcome {
        index: Some(3),
        id: Some("a-1".to_owned()),
        result,
        attempts: 2,
        latency: Duration::from_millis(17),
        provider: Some("openai".to_owned()),
        model: Some("m".to_owned()),
        earlier: vec![
            EarlierProvider {
                provider: "groq".to_owned(),
                model: None,
                error: failure(),
            };
            20
        ],
        request_hash: Some("0123".repeat(16)),
        answered_by: None,
        input: Some(RawJson::new(&text())),
        user_data: UserData::new(text()),
    }
}

#[test]
fn the_debug_of_requests_and_answers_is_short_and_shows_no_text() {
    let request = request();
    is_private(&request);
    is_private(&request.messages[0]);
    is_private(&request.messages[1]);
    is_private(&request.params);
    is_private(&request.params.response_format);
    is_private(&request.user_data);
    is_private(&response());
    is_private(response().details());
    is_private(&failure());
    is_private(&outcome(Ok(response())));
    is_private(&outcome(Err(failure())));
    is_private(&outcome(Err(failure())).earlier[0]);
    let outcomes = || vec![outcome(Ok(response())), outcome(Err(failure()))].into_iter();
    is_private(&BulkError {
        reason: StopReason::ItemFailed(failure()),
        outcomes: outcomes().cycle().take(500).collect(),
    });
    let settings = PromptSettings::new()
        .system(text())
        .template(&format!("{} {{{{row}}}}", text()))
        .unwrap();
    is_private(&settings);
    is_private(&HttpReply {
        status: 200,
        headers: [("x-request", "the patient's name")].into_iter().collect(),
        body: text().into_bytes(),
    });
    let line = BatchLine {
        key: "k-1".to_owned(),
        result: BatchLineResult::Answered(Box::new(Ok(response()))),
    };
    is_private(&line);
    is_private(&BatchLineResult::NotProcessed(failure()));
    is_private(&BatchRefusal::Named(vec![
        (RequestName::Line(1), failure());
        5_000
    ]));
}

#[test]
fn words_of_a_server_are_shown_no_further_than_they_help() {
    let long = "x".repeat(100_000);
    for shown in [
        format!("{:?}", Error::new(ErrorKind::Invalid, &*long)),
        format!("{:?}", FinishReason::Other(long.clone())),
        format!("{:?}", Request::new("").with_id(&*long).with_model(&*long)),
    ] {
        assert!(shown.contains("xxx") && shown.len() < 800, "{shown}");
    }
    let shown = format!("{:?}", Request::new("four").with_id("a"));
    let beginning = "Request { id: Some(\"a\"), task: Complete, ";
    assert!(shown.starts_with(beginning), "{shown}");
    assert!(shown.contains("messages: <1> of <4 bytes>"), "{shown}");
}

#[test]
fn what_a_file_run_could_not_save_is_counted() {
    use crate::base::clock::Time;
    use crate::engine::counters::Counters;
    use crate::observe::tally::Tally;
    let tally = Tally::new(Some(1), Time::ZERO);
    let report = RunReport {
        summary: tally.summary(&Counters::default(), Default::default(), Time::ZERO),
        stop: Some(StopReason::Fatal(failure())),
        unsaved: vec![text().into_bytes(); 9],
        compaction: Err(failure()),
    };
    is_private(&report);
    assert!(format!("{report:?}").contains("unsaved: <9>"));
}

#[cfg(feature = "queue")]
#[test]
fn the_debug_of_the_queues_types_is_short_and_shows_no_payload() {
    use std::sync::Arc;

    use serde_json::value::to_raw_value;

    let raw = || to_raw_value(&json!({"text": text()})).unwrap();
    let job = Job::from(&request());
    is_private(&job);
    is_private(&RunningJob::of(&job));
    let ids = (JobId::from_bytes([1; 16]), ProcessId::from_bytes([2; 16]));
    let receipt = JobReceipt { job: 1, claim: 2 };
    let result = JobResult {
        job_id: ids.0,
        process_id: ids.1,
        item_id: Some("a-1".to_owned()),
        request_hash: Some("0123".to_owned()),
        kind: COMPLETION_KIND.to_owned(),
        status: JobStatus::Completed,
        result: Some(raw()),
        error: Some(failure()),
        attempts: 1,
    };
    is_private(&result);
    is_private(&DeliveredResult { receipt, result });
    let lane = Arc::new(JobLane {
        kind: COMPLETION_KIND.to_owned(),
        name: Some("m".to_owned()),
        step: 0,
    });
    let claimed = || ClaimedJob {
        receipt,
        job_id: ids.0,
        process_id: ids.1,
        budget: None,
        lane: lane.clone(),
        item_id: Some("a-1".to_owned()),
        request_hash: None,
        payload: raw(),
        priority: 5,
        max_retries: None,
        attempt: 0,
        calls: 0,
        crashes: 0,
        lost: false,
        in_doubt: false,
        due_at: Timestamp(0),
        history: Some(text()),
    };
    is_private(&claimed());
    is_private(&ClaimReply {
        jobs: (0..100).map(|_| claimed()).collect(),
        next: None,
    });
    is_private(&JobState {
        job_id: ids.0,
        process_id: ids.1,
        kind: COMPLETION_KIND.to_owned(),
        item_id: None,
        lane: None,
        at_provider: false,
        status: JobStatus::Completed,
        priority: 5,
        step: 0,
        attempts: 1,
        crashes: 0,
        created_at: Timestamp(0),
        due_at: None,
        result: Some(raw()),
        error: Some(failure()),
        errors: Vec::new(),
        children: None,
        receipt: None,
    });
    let completed = ClaimOutcome::Completed {
        result: raw(),
        spent: None,
    };
    let failed = ClaimOutcome::Failed {
        error: failure(),
        result: Some(raw()),
        spent: None,
    };
    let retry = ClaimOutcome::Retry {
        due_at: Timestamp(0),
        step: 0,
        attempt: 1,
        in_doubt: false,
        spent: None,
        history: text(),
    };
    for outcome in [completed, failed, retry] {
        is_private(&Settlement {
            receipt,
            calls: 1,
            outcome,
            charge: None,
            lost: 0,
        });
    }
    is_private(&crate::queue::store::StoredBatch {
        no: crate::queue::store::BatchNo(1),
        process_id: Some(ids.1),
        lane,
        worker: None,
        is_stopped: false,
        stopped_at: None,
        jobs: 3,
        record: text(),
        created_at: Timestamp(0),
    });
}
