//! A run whose queue is lost under way: what it bought is handed out.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::base::{Context, Error, ErrorKind, ProcessId};
use crate::bulk::options::{FileRunOptions, RunOutput};
use crate::bulk::prompts::{PromptSettings, Prompts};
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::money::deadline::Deadline;
use crate::queue::host::JobQueue;
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};
use crate::queue::worker::Worker;
use crate::testing::ScriptedClient;

use super::{InTime, QueueRun, RunStore};

/// Answers, and from then on the database is of no use.
struct Last(PathBuf, Context);

impl LlmClient for Last {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        let conn = Connection::open(&self.0).unwrap();
        let lose = "ALTER TABLE processes RENAME TO lost";
        conn.execute_batch(lose).unwrap();
        self.1.cancel();
        Ok(Response::new("m", "an answer"))
    }
}

#[test]
fn what_could_not_be_recorded_is_in_the_report_though_the_queue_cannot_be_read() {
    let place = tempfile::tempdir().unwrap();
    let (input, output, database) = (
        place.path().join("in.jsonl"),
        place.path().join("out.jsonl"),
        place.path().join("out.jsonl.batchwright"),
    );
    fs::write(&input, "{\"id\":\"a\",\"prompt\":\"p\"}\n").unwrap();
    let prompts =
        Prompts::open(&input, &PromptSettings::new(), &Context::new(), &|_, _| ()).unwrap();
    let options = FileRunOptions::new();
    let store = RunStore::Beside(SqliteOptions::default());
    let run = QueueRun::prepare(prompts, RunOutput::file(&output), options, store);
    let ctx = Context::new().with_grace(Duration::from_millis(500));
    let run = run.ok().unwrap().context(&ctx);
    let report = run.run(|queue| {
        let client = Last(database.clone(), ctx.clone());
        Ok(Worker::new(queue).completions(Route::new(client)))
    });
    let report = report.unwrap().report;
    assert!(report.stop.is_some());
    let [line] = &report.unsaved[..] else {
        panic!("{report:?}")
    };
    let line: Value = serde_json::from_slice(line).unwrap();
    assert_eq!(
        (&line["id"], &line["text"]),
        (&"a".into(), &"an answer".into())
    );
    assert!(database.exists(), "nobody finds the queue again");
}

#[test]
fn a_portion_that_the_store_accepts_only_in_part_is_submitted_completely() {
    const ITEMS: usize = 2_300;
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (
        place.path().join("in.jsonl"),
        place.path().join("out.jsonl"),
    );
    let row = |i: usize| format!("{{\"id\":\"i-{i}\",\"prompt\":\"p {i}\"}}\n");
    fs::write(&input, (0..ITEMS).map(row).collect::<String>()).unwrap();
    let prompts =
        Prompts::open(&input, &PromptSettings::new(), &Context::new(), &|_, _| ()).unwrap();
    let store = SqliteStore::open(place.path().join("queue.db"), SqliteOptions::default());
    let store = Arc::new(store.unwrap());
    let on = RunStore::On(JobQueue::on(store.clone()), ProcessId::new());
    let run = QueueRun::prepare(prompts, RunOutput::file(&output), FileRunOptions::new(), on);
    let client = || {
        let answer = |_: &Request, _| Ok(Response::new("m", "an answer"));
        Route::new(ScriptedClient::answering(answer))
    };
    // The rest is submitted after the trials. Then the store accepts the plan and a first group.
    let decided = move |line: &str| {
        if line.contains("items first") {
            return;
        }
        let mut transactions = 0;
        *store.unwritable.lock() = Some(Box::new(move || {
            transactions += 1;
            let locked = Error::new(ErrorKind::Transient, "the database is locked");
            (3..6).contains(&transactions).then_some(locked)
        }));
    };
    let deadline = Deadline::within(Duration::from_secs(3600)).unwrap();
    let in_time = InTime::new(deadline).flex(client()).on_change(decided);
    let run = run.ok().unwrap().deadline(in_time);
    let report = run.run(|queue| Ok(Worker::new(queue).completions(client())));
    let report = report.unwrap();
    assert!(report.report.stop.is_none(), "{report:?}");
    assert_eq!(report.submitted, ITEMS as u64);
    let lines = fs::read_to_string(&output).unwrap();
    assert_eq!(lines.lines().count(), ITEMS);
}
