//! Jobs that wait for a prompt cache, and others of the same quota.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::{Context, Error, ProcessId};
use crate::config::choices::CachePrompt;
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::host::JobQueue;
use crate::queue::job::Job;
use crate::queue::worker::Worker;

/// Reports the prompt of each call. Prompts that begin with `shared` wait until the test goes on.
struct Reports(Sender<String>, Receiver<()>);

impl LlmClient for Reports {
    fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
        let prompt = request.messages.last().unwrap().content.to_string();
        let prompt = prompt.replace('"', "");
        let waits = prompt.starts_with("shared");
        self.0.send(prompt).unwrap();
        if waits {
            let _ = self.1.recv();
        }
        Ok(Response::new("claude-sonnet-4-5", "yes"))
    }

    fn provider(&self) -> &str {
        "anthropic"
    }

    fn caches_prompts(&self, _: &Request, _: u32) -> bool {
        true
    }
}

#[test]
fn jobs_that_wait_for_a_prompt_cache_hold_up_no_other_jobs_and_no_direct_ones() {
    const PATIENCE: Duration = Duration::from_secs(15);
    let queue = JobQueue::in_memory().unwrap();
    let (began, has_begun) = bounded(100);
    let (go, may_go) = bounded::<()>(0);
    let route = Route::new(Reports(began, may_go)).cache_prompt(CachePrompt::Always);
    let worker = Worker::new(&queue).completions(route).start().unwrap();
    // Dropped before the worker, which waits for its calls.
    let go = go;
    let rules = "All rules. ".repeat(2_000);
    let shared = |prompt: &str| {
        let request = Request::new(prompt).with_system(rules.clone());
        Job::from(&request.with_model("claude-sonnet-4-5"))
    };
    let process = ProcessId::new();
    let jobs = [1, 2, 3].map(|i| shared(&format!("shared {i}")));
    queue.enqueue(process, jobs).unwrap();
    let first = has_begun.recv_timeout(PATIENCE).unwrap();
    assert!(first.starts_with("shared"));
    let other = Request::new("other").with_model("claude-sonnet-4-5");
    let jobs = [Job::from(&other), shared("direct").direct()];
    queue.enqueue(process, jobs).unwrap();
    let mut next: Vec<String> = (0..2)
        .map(|_| has_begun.recv_timeout(PATIENCE).unwrap())
        .collect();
    next.sort();
    assert_eq!(next, ["direct", "other"]);
    drop(go);
    worker.stop().unwrap();
}
