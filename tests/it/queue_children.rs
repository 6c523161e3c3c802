//! Jobs that wait for others: what is billed once, when each ends, and where it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
fn only_failed_children_are_repeated_and_billed_again() {
    let scene = Scene::new();
    scene
        .client
        .fail("bad", Error::new(ErrorKind::Invalid, "no").with_status(400));
    let (process, _) = scene.enqueue(&[&["a", "bad", "c"]]);
    scene.work();
    let state = scene.state(process);
    assert_eq!(
        (state.counts.failed, state.spent.input_tokens),
        (1, 2 * TOKENS)
    );
    let [children] = scene.children().try_into().unwrap();
    assert_eq!(
        (children.counts.completed, children.spent.input_tokens),
        (2, 2 * TOKENS)
    );

    assert_eq!(scene.queue.retry_failed(process).unwrap(), 1);
    scene.work();
    let state = scene.state(process);
    assert_eq!(
        (state.counts.completed, state.spent.input_tokens),
        (1, 3 * TOKENS)
    );
    for (text, calls) in [("a", 1), ("bad", 2), ("c", 1)] {
        assert_eq!(scene.client.calls_of(text), calls, "{text}");
    }
    assert!(scene.children().is_empty());
}

#[test]
fn a_cancelled_job_resumes_where_it_was() {
    let scene = Scene::new();
    let (process, _) = scene.enqueue(&[&["a", "b", "c", "d", "e", "f", "g"]]);
    scene.client.hold();
    let worker = scene.worker().handle("gather", scene.gathering());
    let running = worker.completions(scene.prompts()).start().unwrap();
    assert!(scene.client.wait_for_in_flight(4));
    assert_eq!(scene.queue.cancel(process).unwrap(), 1);
    scene.client.release();
    running.join().unwrap();
    let [children] = scene.children().try_into().unwrap();
    assert_eq!(
        (children.counts.completed, children.counts.cancelled),
        (4, 3)
    );
    assert_eq!(scene.state(process).counts.cancelled, 1);

    assert_eq!(scene.queue.retry_failed(process).unwrap(), 1);
    scene.work();
    let state = scene.state(process);
    assert_eq!(
        (state.counts.completed, state.spent.input_tokens),
        (1, 7 * TOKENS)
    );
    assert_eq!(scene.client.calls().len(), 7);
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

/// After its job was cancelled it enqueues nothing, and nothing fails because of that.
#[test]
fn a_parent_that_is_cancelled_while_it_fans_out_enqueues_nothing() {
    let scene = Scene::new();
    let (process, _) = scene.enqueue(&[&["a"]]);
    let (queue, done) = (scene.queue.clone(), AtomicBool::new(false));
    let cancelling =
        Handler::with_children(move |_: &RunningJob, children: &Children, _: &Context| {
            if !done.swap(true, Ordering::SeqCst) {
                queue.cancel(process)?;
            }
            let job = || Ok(vec![Job::from(&Request::new("a"))]);
            Ok(children.gather("late", job)?.map(|results| results.len()))
        });
    let handlers = scene.worker().handle("gather", cancelling);
    let worker = handlers.completions(scene.prompts());
    assert!(worker.run().unwrap().stop.is_none());
    assert_eq!(scene.state(process).counts.cancelled, 1);
    assert!(scene.children().is_empty() && scene.client.calls().is_empty());
}
