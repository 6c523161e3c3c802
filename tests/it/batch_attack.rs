//! What somebody else does to a batch's files and to its provider while it is worked on.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::batch::{BatchAccount, BatchSettings};
use batchwright::unstable::{
    BatchClient, BatchInput, BatchIntent, BatchLimits, BatchLine, BatchStage, BatchStatus,
    ListedBatches,
};
use batchwright::{
    Context, Error, Job, JobQueue, LlmConfig, ProcessId, Request, Route, Secret, Worker,
};
use batchwright_simulate::{BatchConfig, SimConfig};

use super::common::{Desk, simulator};

/// A provider that does not count what it has answered, and names an empty file beside the results.
/// While the empty one is fetched for the first time, somebody removes the other.
struct Removed<C> {
    api: C,
    folder: PathBuf,
    removed: AtomicUsize,
}

const EMPTY: &str = "empty";

impl<C: BatchClient> BatchClient for Removed<C> {
    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error> {
        let mut status = self.api.status(id, ctx)?;
        (status.counts, status.expected) = (None, None);
        if status.state.is_final() {
            status.results.push(EMPTY.to_owned());
        }
        Ok(status)
    }

    fn download(
        &self,
        id: &str,
        file: &str,
        sink: &mut dyn Write,
        ctx: &Context,
    ) -> Result<(), Error> {
        if file != EMPTY {
            return self.api.download(id, file, sink, ctx);
        }
        if self.removed.load(Ordering::SeqCst) == 0 {
            for file in std::fs::read_dir(&self.folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|name| name == "results") {
                    std::fs::remove_file(path).unwrap();
                    self.removed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }

    fn account(&self) -> BatchAccount {
        self.api.account()
    }
    fn limits(&self) -> BatchLimits {
        self.api.limits()
    }
    fn model_for(&self, request: &Request) -> Option<String> {
        self.api.model_for(request)
    }
    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        self.api.line(key, request)
    }
    fn uploads(&self) -> bool {
        self.api.uploads()
    }
    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        ctx: &Context,
    ) -> Result<BatchStage, Error> {
        self.api.advance(intent, stage, input, ctx)
    }
    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<ListedBatches, Error> {
        self.api.find(intent, stage, known, ctx)
    }
    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error> {
        self.api.discard(file, ctx)
    }
    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        self.api.read(line)
    }
    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error> {
        self.api.cancel(id, ctx)
    }
}

#[test]
fn results_that_are_removed_before_they_are_read_are_fetched_again_and_not_bought_again() {
    let batches = BatchConfig::default().duration(Duration::from_millis(20));
    let sim = simulator(SimConfig::default().batches(batches));
    let desk = Desk::new();
    let queue = JobQueue::open(&desk.path("llm_jobs.db")).unwrap();
    let openai = LlmConfig::new("openai").model("m").base_url(sim.base_url());
    let openai = openai.api_key(Secret::new("k"));
    let process = ProcessId::new();
    let jobs = (0..10).map(|i| Job::from(Request::new(format!("prompt {i}"))));
    queue.enqueue(process, jobs.collect::<Vec<_>>()).unwrap();
    let api = Removed {
        api: openai.batch_client().unwrap(),
        folder: desk.path("llm_jobs.db.batches"),
        removed: AtomicUsize::new(0),
    };
    let often = BatchSettings::default().poll_interval(Some(Duration::from_millis(20)));
    let report = Worker::new(&queue)
        .batches(api)
        .batch_settings(often)
        .completions(Route::new(openai.client().unwrap()))
        .until_empty(true)
        .run()
        .unwrap();
    assert_eq!(report.completed, 10, "{report:?}");
    let stats = sim.batch_stats();
    assert_eq!((stats.created, stats.bought_twice), (1, 0), "{stats:?}");
}
