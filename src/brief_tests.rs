//! Nothing of a prompt or an answer is in the `Debug` of any public type that holds one, and that of
//! the longest stays short: a `?` in `main`, an `unwrap`, and a log line all print it.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::json;

#[cfg(feature = "queue")]
use crate::progress::*;
use crate::{client::*, files::*, unstable::*, *};

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
        .with_extra("metadata", text().into());
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
        input_left_out: 0,
    }
}

#[test]
fn the_debug_of_requests_and_answers_is_short_and_shows_no_text() {
    let request = request();
    let (answered, failed) = (outcome(Ok(response())), outcome(Err(failure())));
    for shown in [
        &request as &dyn Debug,
        &request.messages,
        &request.params,
        &request.params.response_format,
        &response(),
        response().details(),
        &failure(),
        &answered,
        &failed,
        &failed.earlier[0],
    ] {
        is_private(shown);
    }
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
    is_private(&BatchRefusal {
        outcome: RefusalOutcome::Named(vec![(RequestName::Line(1), failure()); 5_000]),
        ..failure().into()
    });
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
    assert!(
        shown.starts_with("Request { id: Some(\"a\"), task: Complete, "),
        "{shown}"
    );
    assert!(shown.contains("messages: <1> of <4 bytes>"), "{shown}");
}

#[test]
fn what_a_file_run_could_not_save_is_counted() {
    use crate::base::clock::Time;
    use crate::engine::dispatch::Counters;
    use crate::observe::tally::Tally;
    let tally = Tally::new(Some(1), Time::ZERO);
    let report = RunReport {
        summary: tally.summary(&Counters::default(), Time::ZERO),
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
    use serde_json::value::to_raw_value;

    use crate::queue::store::Store;
    use crate::queue::store::sqlite::SqliteOptions;

    let raw = || to_raw_value(&json!({"text": text()})).unwrap();
    let job = Job::from(&request());
    is_private(&job);
    is_private(&RunningJob::of(&job));
    let store = Store::in_memory(SqliteOptions::default()).unwrap();
    let (process, now) = (ProcessId::new(), Timestamp(1));
    store.insert(process, vec![job; 100], true, now).unwrap();
    let worker = store.register_worker().unwrap();
    let mut claimed = store.claim_any(worker, 100, now).unwrap();
    for job in &mut claimed.jobs {
        job.history = Some(text());
    }
    is_private(&claimed.jobs[0]);
    is_private(&claimed);
    let (error, result, spent) = (failure(), raw(), None);
    let completed = ClaimOutcome::Completed { result, spent };
    let (result, spent) = (Some(raw()), None);
    let failed = ClaimOutcome::Failed {
        error,
        result,
        spent,
    };
    let retry = ClaimOutcome::Retry {
        due_at: Timestamp(0),
        step: 0,
        attempt: 1,
        in_doubt: false,
        spent: None,
        history: text(),
    };
    let first = &claimed.jobs[0];
    for outcome in [retry, completed, failed] {
        let end = Settlement::new(first.receipt, 1, outcome);
        is_private(&end);
        if let ClaimOutcome::Failed { .. } = end.outcome {
            store.settle(&[end], now).unwrap();
        }
    }
    let ended = store.job(first.job_id).unwrap().unwrap();
    assert!(ended.result.is_some() && ended.error.is_some());
    is_private(&ended);
    let outcomes = store.peek(process, None, 1, usize::MAX).unwrap();
    is_private(&outcomes[0].result);
    is_private(&outcomes[0]);
    let batch = store.open_batch(worker, process, &first.lane, &text(), now);
    batch.unwrap();
    is_private(&store.batches(None).unwrap()[0]);
}
