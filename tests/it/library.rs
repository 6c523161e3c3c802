//! Data that a program attaches to a request and finds in its outcome.

use std::ops::ControlFlow;
use std::sync::Arc;

use batchwright::client::{UserData, request_hash};
use batchwright::testing::ScriptedClient;
use batchwright::{
    Bulk, Context, Error, ErrorKind, FinishReason, Outcome, Request, Response, Route,
    execute_bulk_sync,
};
use serde::Deserialize;

/// A row of the caller that cannot even be cloned.
struct Row(usize);

fn request(n: usize) -> Request {
    Request::new(format!("p{n}")).with_user_data(Row(n))
}

#[track_caller]
fn belongs(outcome: &Outcome, n: usize) {
    assert_eq!(outcome.index, Some(n));
    assert_eq!(outcome.user_data::<Row>().unwrap().0, n);
    assert!(outcome.user_data::<String>().is_none());
    if let Ok(answer) = &outcome.result {
        assert_eq!(answer.text, format!("echo: p{n}"));
    }
}

#[test]
fn outcomes_of_a_list_have_their_index_and_user_data() {
    let client = ScriptedClient::new();
    client.fail("p3", Error::new(ErrorKind::Invalid, "no"));
    let requests: Vec<Request> = (0..20).map(request).collect();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &requests, 4).unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        belongs(outcome, n);
    }
    assert!(outcomes[3].result.is_err());
}

#[test]
fn kept_fields_are_in_the_outcome_and_not_in_the_request() {
    let fields = serde_json::json!({"n": 7, "note": "x"});
    let row = Request::new("p1").with_input(fields.as_object().unwrap().clone());
    assert_eq!(request_hash(&row), request_hash(&Request::new("p1")));
    let client = ScriptedClient::new();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &[row], 1).unwrap();
    let input = outcomes[0].input.as_ref().unwrap();
    assert_eq!(input.as_str(), fields.to_string());
    let line = serde_json::to_string(&outcomes[0]).unwrap();
    let read: Outcome = serde_json::from_str(&line).unwrap();
    assert_eq!(read.input.as_ref(), Some(input));
}

#[test]
fn streamed_outcomes_have_their_index() {
    let client = Arc::new(ScriptedClient::new());
    // The first one fails once, so it finishes after others.
    client.fail("p0", Error::new(ErrorKind::Transient, "again"));
    let mut seen = Vec::new();
    let sink = |outcome: Outcome| {
        belongs(&outcome, outcome.index.unwrap());
        seen.push(outcome.index.unwrap());
        ControlFlow::Continue(())
    };
    let run = Bulk::new(&*client).concurrency(3);
    run.for_each((0..50).map(request), sink).unwrap();
    assert_ne!(seen[0], 0);
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..50));

    let outcomes = Bulk::new(client).concurrency(3).spawn((0..50).map(request));
    let mut seen: Vec<usize> = outcomes
        .map(|outcome| {
            belongs(&outcome, outcome.index.unwrap());
            outcome.index.unwrap()
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..50));
}

#[test]
fn embeddings_of_one_call_are_assigned_to_their_items() {
    let client = ScriptedClient::new();
    let texts = (0..40).map(|n| Request::embedding(format!("p{n}")).with_user_data(Row(n)));
    let mut seen = 0;
    let sink = |outcome: Outcome| {
        let n = outcome.user_data::<Row>().unwrap().0;
        assert_eq!(outcome.index, Some(n));
        seen += 1;
        ControlFlow::Continue(())
    };
    Bulk::new(&client).for_each(texts, sink).unwrap();
    assert_eq!(seen, 40);
    let one = Route::new(&client).complete(&Request::embedding("p1"), &Context::new());
    assert!(one.unwrap().embedding.is_some());
}

#[test]
fn a_run_that_never_started_returns_all_items() {
    let requests: Vec<Request> = (0..3).map(request).collect();
    let client = ScriptedClient::new();
    let ctx = Context::new();
    ctx.cancel();
    let error = execute_bulk_sync(&ctx, &client, &requests, 2).unwrap_err();
    for (n, outcome) in error.outcomes.iter().enumerate() {
        belongs(outcome, n);
    }
    assert_eq!((error.outcomes.len(), client.calls().len()), (3, 0));
}

#[test]
fn user_data_is_no_part_of_a_request() {
    let plain = Request::new("p").with_id("a");
    let with = plain.clone().with_user_data("the patient's name");
    assert_eq!(plain, with);
    assert_eq!(request_hash(&plain), request_hash(&with));
    assert_eq!(
        serde_json::to_string(&plain).unwrap(),
        serde_json::to_string(&with).unwrap()
    );
    let requests = [with];
    let outcomes = execute_bulk_sync(&Context::new(), &ScriptedClient::new(), &requests, 1);
    let line = serde_json::to_string(&outcomes.unwrap()[0]).unwrap();
    assert!(
        !line.contains("patient") && !line.contains("index"),
        "{line}"
    );
}

#[test]
fn user_data_is_shared_and_never_copied() {
    let row = Arc::new(Row(7));
    let mut request = Request::new("p");
    request.user_data = UserData::from(row.clone());
    let requests = vec![request; 3];
    let outcomes = execute_bulk_sync(&Context::new(), &ScriptedClient::new(), &requests, 1);
    let outcomes = outcomes.unwrap();
    let back: Arc<Row> = outcomes[2].user_data.shared().unwrap();
    assert!(Arc::ptr_eq(&row, &back));
    drop((requests, outcomes, back));
    assert_eq!(Arc::strong_count(&row), 1);
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    age: u8,
}

#[derive(Debug, Deserialize)]
enum Colour {
    Red,
}

#[test]
fn an_answer_is_read_as_a_type() {
    let person = Person {
        name: "Ada".to_owned(),
        age: 36,
    };
    for text in [
        r#"{"name": "Ada", "age": 36}"#,
        "\n```json\n{\"name\": \"Ada\", \"age\": 36}\n```\n",
    ] {
        assert_eq!(Response::new("x", text).parse::<Person>().unwrap(), person);
    }
}

#[test]
fn a_parse_error_does_not_quote_the_answer() {
    let deep = "[".repeat(100_000);
    let wanted = [
        ("", ErrorKind::Malformed, "the answer is empty"),
        ("```json\n```", ErrorKind::Malformed, "the answer is empty"),
        (
            "Mallory, he said",
            ErrorKind::Malformed,
            "the answer is no JSON (at line 1 column 1)",
        ),
        (
            &deep,
            ErrorKind::Malformed,
            "the answer is no JSON (at line 1 column ",
        ),
        (
            r#"{"name": "Mallory", "age": "Mallory, expected Mallory"}"#,
            ErrorKind::Invalid,
            "the answer is JSON of another form than expected: u8 was expected (at line 1 column ",
        ),
        (
            r#"{"name": "Mallory"}"#,
            ErrorKind::Invalid,
            "the answer is JSON of another form than expected: `age` is missing (at line 1 column ",
        ),
        (
            r#"{"name": "x", "age": 1, "Mallory, expected Mallory": 1}"#,
            ErrorKind::Invalid,
            "the answer is JSON of another form than expected (at line 1 column ",
        ),
        (
            r#"{"name": "x", "age": 123456}"#,
            ErrorKind::Invalid,
            "the answer is JSON of another form than expected: u8 was expected (at line 1 column ",
        ),
    ];
    for (text, kind, why) in wanted {
        let error = Response::new("x", text).parse::<Person>().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().starts_with(why), "{error}");
        assert!(
            !format!("{error} {error:?}").contains("Mallory"),
            "{error:?}"
        );
    }
    let error = Response::new("x", r#""Mallory""#).parse::<Colour>();
    let error = error.map(|Colour::Red| ()).unwrap_err();
    assert!(
        error.message().len() < 100 && !error.message().contains("Mallory"),
        "{error}"
    );

    let mut cut = Response::new("x", r#"{"name": "Mal"#);
    cut.finish_reason = FinishReason::Length;
    let error = cut.parse::<Person>().unwrap_err();
    assert!(
        error
            .message()
            .ends_with("it was cut at the token limit (max_tokens)"),
        "{error}"
    );
}

#[test]
fn answers_chosen_by_a_closure_do_not_depend_on_the_order_of_calls() {
    let client = ScriptedClient::answering(|request, call| {
        let text = request.messages[0].text();
        match (&*text, call) {
            ("flaky", 1) => Err(Error::new(ErrorKind::Transient, "again")),
            ("bad", _) => Err(Error::new(ErrorKind::Invalid, "no")),
            (text, call) => Ok(Response::new("mine", format!("{text}, call {call}"))),
        }
    });
    client.reply("scripted", "first");
    let prompts = ["flaky", "bad", "plain", "scripted"].map(Request::new);
    for concurrency in [1, 4] {
        let outcomes = execute_bulk_sync(&Context::new(), &client, &prompts, concurrency).unwrap();
        let texts: Vec<_> = outcomes
            .iter()
            .map(|outcome| outcome.result.as_ref().map(|answer| &*answer.text).ok())
            .collect();
        match concurrency {
            1 => assert_eq!(
                texts,
                [
                    Some("flaky, call 2"),
                    None,
                    Some("plain, call 1"),
                    Some("first")
                ]
            ),
            _ => assert_eq!(
                texts,
                [
                    Some("flaky, call 3"),
                    None,
                    Some("plain, call 2"),
                    Some("scripted, call 2")
                ]
            ),
        }
    }
    assert_eq!(client.calls_of("flaky"), 3);
    assert_eq!(client.calls_of("bad"), 2);
    assert_eq!(client.calls_of("never asked"), 0);
    let same = [
        Request::new("same").with_id("a"),
        Request::new("same").with_id("b"),
    ];
    execute_bulk_sync(&Context::new(), &client, &same, 2).unwrap();
    assert_eq!((client.calls_of("a"), client.calls_of("b")), (1, 1));
    assert_eq!(client.calls_of("same"), 2);
}

#[test]
fn a_closure_may_ask_its_client_and_make_vectors() {
    let client = Arc::new_cyclic(|own: &std::sync::Weak<ScriptedClient>| {
        let own = own.clone();
        ScriptedClient::answering(move |request, _| {
            let asked = own.upgrade().unwrap().calls().len();
            match request.messages[0].text().as_str() {
                "p7" => Err(Error::new(ErrorKind::Invalid, "no")),
                _ => Ok(Response::vector("mine", vec![asked as f32])),
            }
        })
    });
    let texts: Vec<Request> = (0..8)
        .map(|n| Request::embedding(format!("p{n}")))
        .collect();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &texts, 2).unwrap();
    let failed: Vec<usize> = (0..8).filter(|n| !outcomes[*n].is_success()).collect();
    assert_eq!(failed, [7]);
}

#[cfg(feature = "queue")]
mod in_memory {
    use std::collections::HashSet;
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use batchwright::queue::{SqliteOptions, Store, WorkerScale, WorkerSettings};
    use batchwright::{Job, JobQueue, ProcessId, RetryPolicy, Worker};

    use super::*;

    fn job(n: usize) -> Job {
        Job::from(&Request::new(format!("p{n}")).with_id(format!("p{n}")))
    }

    fn worker(queue: &JobQueue, client: &Arc<ScriptedClient>) -> Worker {
        let retry = RetryPolicy::default().base_delay(Duration::from_millis(1));
        Worker::new(queue)
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(4)))
            .completions(Route::new(client.clone()).retry(retry))
            .until_empty(true)
    }

    #[test]
    fn a_queue_in_memory_behaves_like_one_in_a_file() {
        let queue = JobQueue::in_memory().unwrap();
        let client = Arc::new(ScriptedClient::new());
        client.fail("p1", Error::new(ErrorKind::Transient, "again"));
        client.refuse("p2", Error::new(ErrorKind::Invalid, "no"));
        let process = ProcessId::new();
        queue.enqueue_iter(process, (0..3).map(job)).unwrap();
        let cancelled = ProcessId::new();
        queue.enqueue(cancelled, [job(7)]).unwrap();
        assert_eq!(queue.cancel(cancelled).unwrap(), 1);
        worker(&queue, &client).run().unwrap();

        let counts = queue.process(process).unwrap().unwrap().counts;
        assert_eq!((counts.completed, counts.failed), (2, 1));
        assert_eq!(client.calls_of("p1"), 2);
        assert_eq!(queue.retry_failed(process).unwrap(), 1);
        let mut seen = HashSet::new();
        let take = |results: &[batchwright::queue::JobResult]| {
            seen.extend(results.iter().filter_map(|result| result.item_id.clone()));
            Ok::<(), Error>(())
        };
        assert_eq!(queue.consume(process, take).unwrap(), 2);
        assert_eq!(seen, HashSet::from(["p0".to_owned(), "p1".to_owned()]));
        assert_eq!(queue.delete(process).unwrap(), 1);
        for finding in queue.check().unwrap() {
            assert!(
                finding.verdict < batchwright::queue::Severity::Bad,
                "{finding:?}"
            );
        }
    }

    #[test]
    fn queues_in_memory_are_apart_and_their_clones_share_one() {
        let (one, two) = (
            JobQueue::in_memory().unwrap(),
            JobQueue::in_memory().unwrap(),
        );
        let process = ProcessId::new();
        one.enqueue(process, [job(0)]).unwrap();
        assert!(two.process(process).unwrap().is_none());
        let clone = one.clone();
        drop(one);
        assert_eq!(clone.process(process).unwrap().unwrap().counts.pending, 1);
    }

    #[test]
    fn a_database_in_memory_leaves_no_files() {
        let store = Store::in_memory(SqliteOptions::default()).unwrap();
        let path = std::path::PathBuf::from(store.location());
        let queue = JobQueue::on(Arc::new(store));
        let client = Arc::new(ScriptedClient::new());
        queue.enqueue(ProcessId::new(), [job(0)]).unwrap();
        worker(&queue, &client).run().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let left = || {
            let all = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
            let names = all.map(|file| file.file_name().to_string_lossy().into_owned());
            names
                .filter(|file| file.starts_with(&name))
                .collect::<Vec<_>>()
        };
        assert!(left().is_empty(), "{:?}", left());
        let batches = path.with_file_name(format!("{name}.batches"));
        fs::create_dir(&batches).unwrap();
        fs::write(batches.join("bw-1.jsonl"), "{}").unwrap();
        fs::create_dir(path.with_file_name(format!("{name}.workers"))).unwrap();
        drop(queue);
        assert!(left().is_empty(), "{:?}", left());
    }

    #[test]
    fn many_threads_and_workers_share_a_queue_in_memory() {
        let queue = JobQueue::in_memory().unwrap();
        let client = Arc::new(ScriptedClient::new());
        let process = ProcessId::new();
        thread::scope(|scope| {
            for part in 0..4 {
                let queue = &queue;
                scope.spawn(move || {
                    for n in 0..50 {
                        queue.enqueue(process, [job(part * 50 + n)]).unwrap();
                    }
                });
            }
        });
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| worker(&queue, &client).run().unwrap());
            }
            scope.spawn(|| {
                while !queue
                    .process(process)
                    .unwrap()
                    .unwrap()
                    .counts
                    .is_finished()
                {
                    assert!(queue.get_results(process).all(|result| result.is_ok()));
                }
            });
        });
        assert_eq!(client.calls().len(), 200);
        assert_eq!(
            queue.process(process).unwrap().unwrap().counts.completed,
            200
        );
    }
}
