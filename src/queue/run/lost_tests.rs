//! A run whose queue is lost under way: what it bought is handed out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::base::{Context, Error};
use crate::bulk::options::{FileRunOptions, RunOutput};
use crate::bulk::prompts::{PromptSettings, Prompts};
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::store::sqlite::SqliteOptions;
use crate::queue::worker::Worker;

use super::QueueRun;

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
    let names = ["in.jsonl", "out.jsonl", "out.jsonl.batchwright"];
    let [input, output, database] = names.map(|name| place.path().join(name));
    fs::write(&input, "{\"id\":\"a\",\"prompt\":\"p\"}\n").unwrap();
    let ctx = Context::new().with_grace(Duration::from_millis(500));
    let prompts = Prompts::open(&input, &PromptSettings::new(), &ctx, &|_, _| ()).unwrap();
    let options = FileRunOptions::new();
    let store = SqliteOptions::default();
    let run = QueueRun::prepare(prompts, RunOutput::file(&output), options, &store);
    let run = run.ok().unwrap().context(&ctx);
    let report = run.run(|queue| {
        let client = Last(database.clone(), ctx.clone());
        Ok(Worker::new(queue).completions(Route::new(client)))
    });
    let report = report.unwrap().report;
    assert!(report.stop.is_some());
    assert_eq!(report.unsaved.len(), 1, "{report:?}");
    let line: Value = serde_json::from_slice(&report.unsaved[0]).unwrap();
    assert_eq!(
        (&line["id"], &line["text"]),
        (&"a".into(), &"an answer".into())
    );
    assert!(database.exists(), "nobody finds the queue again");
}
