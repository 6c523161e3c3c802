//! Jobs that wait for others: what is billed once, when each ends, and where it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::queue::{Children, ConsumeError, ProcessState, WorkerScale, WorkerSettings};
use batchwright::testing::ScriptedClient;
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, JobId, JobQueue, LlmClient, ProcessId, Request, Route,
    RunningJob, Usage, Worker, client_fn,
};

use crate::common::PATIENCE;

const TOKENS: u64 = 3;

/// A queue in memory, with prompts that cost three tokens each.
struct Scene {
    queue: JobQueue,
    client: Arc<ScriptedClient>,
    /// Number of calls of a parent.
    looks: Arc<AtomicUsize>,
}

impl Scene {
    fn new() -> Self {
        Self {
            queue: JobQueue::in_memory().unwrap(),
            client: Arc::new(ScriptedClient::new()),
            looks: Arc::default(),
        }
    }

    fn enqueue(&self, parents: &[&[&str]]) -> (ProcessId, Vec<JobId>) {
        let process = ProcessId::new();
        let job = |texts: &&[&str]| Job::new("gather", texts).unwrap().item_id(texts[0]);
        let jobs: Vec<Job> = parents.iter().map(job).collect();
        let ids = self.queue.enqueue(process, jobs).unwrap();
        (process, ids)
    }

    /// A worker that ends by itself; otherwise the time-out of its context ends it.
    fn worker(&self) -> Worker {
        Worker::new(&self.queue)
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(4)))
            .context(&Context::new().with_timeout(PATIENCE))
            .until_empty(true)
    }

    /// A handler that collects one prompt for each text, and fails if one of them fails.
    fn gathering(&self) -> Handler {
        let looks = self.looks.clone();
        Handler::with_children(move |job: &RunningJob, children: &Children, _: &Context| {
            looks.fetch_add(1, Ordering::SeqCst);
            let texts: Vec<String> = job.parse()?;
            let prompts = || {
                Ok(texts
                    .iter()
                    .map(Request::new)
                    .map(|r| Job::from(&r))
                    .collect())
            };
            let Some(results) = children.gather("prompts", prompts)? else {
                return Ok(None);
            };
            let answers = results
                .iter()
                .map(|result| result.parse::<serde_json::Value>());
            Ok(Some(answers.collect::<Result<Vec<_>, _>>()?.len()))
        })
    }

    fn prompts(&self) -> Route<'static> {
        let client = self.client.clone();
        Route::new(client_fn(move |request, ctx| {
            let usage = Usage {
                input_tokens: TOKENS,
                ..Usage::default()
            };
            Ok(client.complete(request, ctx)?.with_usage(usage))
        }))
    }

    /// Runs parents and prompts.
    fn work(&self) {
        let worker = self.worker().handle("gather", self.gathering());
        let report = worker.completions(self.prompts()).run().unwrap();
        assert!(report.stop.is_none(), "{report:?}");
    }

    fn state(&self, process: ProcessId) -> ProcessState {
        self.queue.process(process).unwrap().unwrap()
    }

    fn children(&self) -> Vec<ProcessState> {
        let mut all = self.queue.open_processes().unwrap();
        all.retain(|process| process.info.parent.is_some());
        all
    }
}

#[test]
fn results_that_a_parent_collects_are_not_returned_to_hosts() {
    let scene = Scene::new();
    let (process, _) = scene.enqueue(&[&["a", "b"]]);
    scene
        .worker()
        .handle("gather", scene.gathering())
        .run()
        .unwrap();
    scene.worker().completions(scene.prompts()).run().unwrap();
    let [children] = scene.children().try_into().unwrap();
    let id = children.process_id;
    let taken = scene
        .queue
        .consume(id, |_| panic!("nothing is handed out") as Result<(), Error>);
    let Err(ConsumeError::Queue(error)) = taken else {
        panic!("{taken:?}")
    };
    assert!(error.message().contains(&process.to_string()), "{error}");
    let receipts: Vec<_> = scene
        .queue
        .peek(id, 9)
        .unwrap()
        .iter()
        .map(|one| one.receipt)
        .collect();
    assert_eq!(receipts.len(), 2);
    assert_eq!(
        scene.queue.ack(&receipts).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    scene.work();
    assert_eq!(scene.state(process).counts.completed, 1);
}
