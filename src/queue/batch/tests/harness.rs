//! What tests of the poller work on: a store, a fake provider whose client can be made to answer otherwise, and
//! the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::unbounded;
use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind, ProcessId, Sent};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::{BatchClient, BatchRefusal, BatchState, BatchStatus, RefusalOutcome};
use crate::llm::providers::extract::Extract;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::controls::Scope;
use crate::queue::job::{Job, JobCounts};
use crate::queue::kinds::Kinds;
use crate::queue::kinds::WorkerSettings;
use crate::queue::store::sqlite::SqliteOptions;
use crate::queue::store::{ClaimRequest, ClaimedJob, JobLane, Settlement, Store, WorkerId};
use crate::testing::ManualClock;

use super::super::context::{BatchContext, BatchControl, BatchOverview};
use super::super::info::BatchInfo;
use super::super::machine::Record;
use super::super::poller::{Poller, PollerOptions};
use super::super::settings::BatchSettings;
use super::super::settle_items::request;
use super::super::spool::Spool;
use super::super::transfer::{Order, Transfers};
use super::fake_client::FakeClient;
use super::fake_provider::{FakeProvider, seconds};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// What a provider answers that refuses a request.
pub(crate) fn refused(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Invalid, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

/// A refusal with this outcome.
pub(crate) fn refusing(outcome: RefusalOutcome, error: Error) -> BatchRefusal {
    BatchRefusal {
        outcome,
        ..error.into()
    }
}

pub(crate) fn transient(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Transient, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

/// A call whose effect is unknown.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe)
}

/// A line of results with the answer to a request.
pub(crate) fn answered((key, prompt): &(String, String)) -> String {
    format!("{key} +{prompt}\n")
}

/// A batch in this state, without counts and results.
pub(crate) fn in_state(state: BatchState) -> BatchStatus {
    BatchStatus {
        state,
        counts: None,
        results: Vec::new(),
        expected: None,
        poll_after: None,
    }
}

/// A store, a fake provider, and the time.
pub(crate) struct Harness {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fake: Arc<Mutex<FakeProvider>>,
    pub(crate) store: Arc<Store>,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) control: BatchControl,
    pub(crate) ctx: Context,
    pub(crate) overview: Arc<BatchOverview>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::seeded(7, 3)
    }

    /// Whose provider has this seed, and whose prompts are tried again so often.
    pub(crate) fn seeded(seed: u64, max_retries: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new());
        let route = Route::new(Extract).clock(clock.clone());
        let kinds = Kinds::new(Some(&route));
        kinds.set_prompts(route);
        let settings = WorkerSettings::default()
            .max_retries(max_retries)
            .batch_size(4);
        kinds.setup.change(|setup| setup.settings = settings);
        let mut harness = Self {
            fake: Arc::new(Mutex::new(FakeProvider::new(seed, clock.clone()))),
            store: open_store(&folder),
            folder,
            clock,
            control: BatchControl::new(),
            kinds: Arc::new(kinds),
            ctx: Context::new(),
            overview: Arc::default(),
        };
        harness.set(BatchSettings::default());
        harness.restart();
        harness
    }

    /// Opens the store anew, as another OS process does.
    pub(crate) fn restart(&mut self) {
        self.store = open_store(&self.folder);
        self.overview = Arc::default();
        self.overview.not_scanned.store(true, Ordering::SeqCst);
        self.fake.lock().overview = self.overview.clone();
    }

    pub(crate) fn set(&self, settings: BatchSettings) {
        let (before, _) = (self.kinds.setup).change(|setup| setup.settings.batches = settings);
        let is_new = before.settings.batches != settings;
        self.control
            .settings_changed
            .fetch_or(is_new, Ordering::SeqCst);
        self.control.wake();
    }

    pub(crate) fn client(&self) -> Arc<FakeClient> {
        self.use_client(FakeClient::of(&self.fake))
    }

    pub(crate) fn use_client(&self, client: FakeClient) -> Arc<FakeClient> {
        let client = Arc::new(client);
        let known: Arc<dyn BatchClient> = client.clone();
        self.kinds.setup.change(|setup| setup.batches = Some(known));
        self.control.wake();
        client
    }

    /// A new one with these prompts and a client that answers them.
    pub(crate) fn with(prompts: &[&str]) -> (Self, Arc<FakeClient>, ProcessId) {
        let harness = Self::new();
        let (client, process) = (harness.client(), harness.enqueue(prompts));
        (harness, client, process)
    }

    pub(crate) fn enqueue(&self, prompts: &[impl AsRef<str>]) -> ProcessId {
        let prompts = prompts.iter().map(AsRef::as_ref);
        self.enqueue_requests(prompts.map(|prompt| Request::new(prompt).with_id(prompt)))
    }

    pub(crate) fn enqueue_requests(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> ProcessId {
        let process = ProcessId::new();
        let jobs = requests.into_iter().map(Job::from).collect();
        let wall = self.clock.wall();
        self.store.insert(process, jobs, true, wall).unwrap();
        process
    }

    pub(crate) fn worker(&self) -> WorkerId {
        self.store.register_worker().unwrap()
    }

    /// A poller of a new worker and all processes.
    pub(crate) fn new_poller(&self) -> Poller<'_> {
        self.poller(self.worker(), &[])
    }

    pub(crate) fn poller<'a>(&'a self, worker: WorkerId, processes: &'a [ProcessId]) -> Poller<'a> {
        self.seeded_poller(worker, processes, 5)
    }

    /// A poller whose transfers are carried out at once.
    pub(crate) fn seeded_poller<'a>(
        &'a self,
        worker: WorkerId,
        processes: &'a [ProcessId],
        seed: u64,
    ) -> Poller<'a> {
        let context = Arc::new(BatchContext {
            store: self.store.clone(),
            worker,
            spool: Spool::new(self.store.folder()),
            kinds: self.kinds.clone(),
            clock: self.clock.clone(),
            jitter: Mutex::new(Random(seed)),
            refused: Mutex::default(),
            overview: self.overview.clone(),
            observer: None,
        });
        self.control.wake();
        Poller::new(PollerOptions {
            transfers: carried_out_at_once(&context, &self.ctx),
            context,
            control: &self.control,
            ctx: &self.ctx,
            scope: Scope {
                processes: processes.to_vec(),
                ..Scope::default()
            },
            on_error: ErrorPolicy::ContinueOnError,
            wake: &|| {},
        })
    }

    /// All that is due.
    pub(crate) fn step(&self, poller: &mut Poller<'_>) {
        poller.receive_answers();
        poller.turn();
        poller.receive_answers();
    }

    /// Lets time pass until something is due.
    pub(crate) fn wait(&self, poller: &Poller<'_>, idle: Duration, longest: Duration) {
        let now = self.clock.now();
        let due = poller.next_due().unwrap_or(now.after(idle)).since(now);
        let wait = due.min(longest).max(Duration::from_millis(10));
        self.clock.advance(wait);
    }

    /// One turn, and the time until the next one.
    pub(crate) fn turn(&self, poller: &mut Poller<'_>) {
        self.step(poller);
        self.answer_calls(poller);
        self.wait(poller, seconds(1), seconds(60));
    }

    pub(crate) fn turns(&self, poller: &mut Poller<'_>, count: u32) {
        (0..count).for_each(|_| self.turn(poller));
    }

    /// Lets so much time pass, from one thing that is due to the next.
    pub(crate) fn pass(&self, poller: &mut Poller<'_>, time: Duration) {
        let end = self.clock.now().after(time);
        while self.clock.now() < end {
            self.step(poller);
            self.wait(poller, HOUR, end.since(self.clock.now()));
        }
    }

    /// Turns until this holds, for two days at most.
    #[track_caller]
    pub(crate) fn until(&self, poller: &mut Poller<'_>, mut holds: impl FnMut() -> bool) {
        let end = self.clock.now().after(48 * HOUR);
        while !holds() {
            let batches = || self.store.batches(None).unwrap();
            assert!(self.clock.now() < end, "{:?}", batches());
            self.turn(poller);
        }
    }

    /// Until this number of batches was created.
    #[track_caller]
    pub(crate) fn until_created(&self, poller: &mut Poller<'_>, batches: u64) {
        self.until(poller, || self.fake.lock().creates == batches);
    }

    /// Turns until a process is over, with its batches.
    #[track_caller]
    pub(crate) fn until_over(&self, poller: &mut Poller<'_>, process: ProcessId) {
        self.until(poller, || self.is_over(process));
    }

    /// Lets a worker carry out a process, with its batches.
    #[track_caller]
    pub(crate) fn run(&self, process: ProcessId) {
        self.until_over(&mut self.new_poller(), process);
    }

    pub(crate) fn counts(&self, process: ProcessId) -> JobCounts {
        self.store.process(process).unwrap().unwrap().counts
    }

    /// How many jobs have completed, failed, been cancelled, and are at the provider.
    #[track_caller]
    pub(crate) fn ended(&self, process: ProcessId, expected: [u64; 4]) {
        let counts = self.counts(process);
        let ends = [
            counts.completed,
            counts.failed,
            counts.cancelled,
            counts.at_provider,
        ];
        assert_eq!(ends, expected, "{:?}", self.store.batches(None).unwrap());
    }

    pub(crate) fn is_over(&self, process: ProcessId) -> bool {
        self.counts(process).is_finished() && self.store.batches(None).unwrap().is_empty()
    }

    pub(crate) fn cancel(&self, process: ProcessId) {
        self.store.cancel(process, self.clock.wall()).unwrap();
        self.control.wake();
    }

    pub(crate) fn retire(&self, worker: WorkerId) {
        let wall = self.clock.wall();
        self.store.unregister_worker(worker, wall).unwrap();
    }

    /// What the batches of the store show.
    pub(crate) fn infos(&self) -> Vec<BatchInfo> {
        let batches = self.store.batches(None).unwrap();
        let wall = self.clock.wall();
        let info = |batch| BatchInfo::new(batch, wall);
        batches.iter().map(info).collect()
    }

    /// The only batch.
    pub(crate) fn the_batch(&self) -> BatchInfo {
        let [batch] = self.infos().try_into().unwrap();
        batch
    }

    /// Whether the record of a batch has this text.
    pub(crate) fn has_record(&self, text: &str) -> bool {
        let batches = self.store.batches(None).unwrap();
        batches.iter().any(|batch| batch.record.contains(text))
    }

    /// Why nothing progresses.
    pub(crate) fn trouble(&self) -> String {
        self.overview.trouble.lock().clone().unwrap_or_default()
    }

    /// Answers downloads with a text that is made of the requests of the batch.
    pub(crate) fn on_download(
        &self,
        client: &FakeClient,
        mut text: impl FnMut(&[(String, String)]) -> Option<String> + Send + 'static,
    ) {
        let fake = self.fake.clone();
        client.download.set(move |id| {
            let fake = fake.lock();
            let remote = fake.batches.iter().find(|remote| remote.id == *id)?;
            text(&remote.items).map(Ok)
        });
    }

    /// Changes what the provider says of its batches.
    pub(crate) fn on_status(
        &self,
        client: &FakeClient,
        mut change: impl FnMut(&mut BatchStatus) + Send + 'static,
    ) {
        let plain = FakeClient::of(&self.fake);
        client.status.set(move |id| {
            let mut status = plain.status(id, &Context::new());
            status.iter_mut().for_each(&mut change);
            Some(status)
        });
    }

    /// How often a prompt was paid for.
    pub(crate) fn bought(&self, prompt: &str) -> u32 {
        self.fake.lock().bought.get(prompt).copied().unwrap_or(0)
    }

    /// The prompts `a` and `b` were sent in one batch.
    #[track_caller]
    pub(crate) fn bought_once(&self) {
        assert_eq!((self.bought("a"), self.bought("b")), (1, 1));
        assert_eq!(self.fake.lock().creates, 1);
    }

    /// Answers the jobs that are to be called because their batch was refused, as the rest of a worker does.
    pub(crate) fn answer_calls(&self, poller: &Poller<'_>) {
        let context = &poller.options.context;
        let mut open = |lane: &Arc<JobLane>| {
            let is_called = lane.step == JobLane::CALLED;
            (if is_called { usize::MAX } else { 0 }, 1)
        };
        let wanted = ClaimRequest {
            most: 1000,
            idle: true,
            processes: &[],
            open: &mut open,
        };
        let wall = self.clock.wall();
        // Some tests take the store or the worker away.
        let Ok(jobs) = context.store.claim(context.worker, wanted, wall) else {
            return;
        };
        let account = FakeClient::of(&self.fake).account();
        let record = Record::new(account, String::new(), None, wall);
        let end = |job: &ClaimedJob| {
            let prompt = request(job).unwrap().messages[0].text();
            let result = if prompt.contains("poison") || prompt.contains("bad") {
                Err(refused("called in vain", 400))
            } else {
                *self.fake.lock().bought.entry(prompt.clone()).or_default() += 1;
                Ok(Response::new("fake", format!("echo: {prompt}")))
            };
            context.settlement(job, &record, result)
        };
        let ends: Vec<Settlement> = jobs.jobs.iter().map(end).collect();
        context.settle(&ends, &record).unwrap();
    }
}

fn carried_out_at_once(context: &Arc<BatchContext>, ctx: &Context) -> Transfers {
    let ((report, done), context, ctx) = (unbounded(), context.clone(), ctx.clone());
    let orders = Box::new(move |(no, work): Order| {
        let _ = report.send((no, work(&context, &ctx)));
    });
    Transfers { orders, done }
}

fn open_store(folder: &tempfile::TempDir) -> Arc<Store> {
    let path = folder.path().join("jobs.db");
    Arc::new(Store::open(&path, SqliteOptions::default()).unwrap())
}
