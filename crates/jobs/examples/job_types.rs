//! A service with job types: those that are built in, with a resolver for its articles, and two of its own.
//!
//! `cargo run -p batchwright-jobs --example job_types`. `BATCHWRIGHT_PROVIDER` and `BATCHWRIGHT_MODEL` name who
//! answers, by default nobody but `extract`.

use std::collections::HashMap;
use std::error::Error;

use batchwright::queue::ModelCall;
use batchwright::{
    Context, ErrorKind, Handler, JobQueue, LlmManager, ProcessId, Request, RunningJob, Settings,
};
use batchwright_jobs::{JobType, JobTypes, PayloadError};
use serde_json::{Value, json};

/// The host's own database of articles.
fn articles() -> HashMap<&'static str, &'static str> {
    HashMap::from([
        (
            "rain",
            "It rained all day in Bern. The river rose by half a metre.",
        ),
        (
            "snow",
            "It snowed all night in Chur. The trains stood still.",
        ),
    ])
}

/// A type that is plain code, more urgent the less there is to do.
fn count_words() -> JobType {
    let count = Handler::new(|job: &RunningJob, _: &Context| {
        let payload: Value = job.parse()?;
        let text = payload["text"].as_str().unwrap_or_default();
        Ok(json!({"words": text.split_whitespace().count()}))
    });
    JobType::handled("count_words", count)
        .about("How many words a text has")
        .check(|payload| {
            if payload["text"].is_string() {
                Ok(())
            } else {
                Err(PayloadError::new("text", "write a text"))
            }
        })
        .priority_of(
            |payload| match payload["text"].as_str().map_or(0, str::len) {
                0..1000 => 8,
                _ => 4,
            },
        )
}

/// A type that is one call of a model: quota, fallback and retries are those of the route.
fn headline() -> JobType {
    let call = ModelCall::new(
        |job: &RunningJob, _: &Context| {
            let payload: Value = job.parse()?;
            let text = payload["text"].as_str().unwrap_or_default();
            Ok(Request::new(text)
                .with_system("Write a headline for the text. Answer with it alone."))
        },
        |_: &RunningJob, answer| Ok(json!({"headline": answer.text.lines().next()})),
    );
    JobType::model_call("headline", call).about("A headline for a text")
}

fn main() -> Result<(), Box<dyn Error>> {
    let find = |id: &str, _: &Context| match articles().get(id) {
        Some(text) => Ok((*text).to_owned()),
        None => Err(batchwright::Error::new(
            ErrorKind::Invalid,
            format!("there is no article {id}"),
        )),
    };
    let types = JobTypes::new()
        .articles(find)
        .with(count_words())
        .with(headline());

    let queue = JobQueue::in_memory()?;
    let process = ProcessId::new();
    let jobs = [
        types.job("summarize", json!({"article_id": "rain"}))?,
        types.job("summarize", json!({"article_id": "hail"}))?,
        types.job("headline", json!({"text": "It snowed all night in Chur."}))?,
        types.job(
            "count_words",
            json!({"text": "It snowed all night in Chur."}),
        )?,
    ];
    queue.enqueue(process, jobs)?;
    if let Err(refused) = types.job("count_words", json!({"text": 7})) {
        println!("refused: {refused}");
    }

    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    let settings = match settings.provider()? {
        Some(_) => settings,
        None => settings.flag("llm.provider", "default", Some("extract".to_owned()))?,
    };
    let manager = LlmManager::new(settings)?.job_types(types);
    manager.worker(&queue)?.until_empty(true).run()?;
    queue.consume(process, |results| {
        results
            .iter()
            .for_each(|result| println!("{}", result.line()));
        Ok::<(), batchwright::Error>(())
    })?;
    Ok(())
}
