//! What tests of the poller work on: a store, a fake provider whose client can be made to answer otherwise, and
//! the time.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind, ProcessId, Sent, Timestamp};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchInput, BatchIntent, BatchLimits, BatchLine, BatchStage,
    BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::extract::Extract;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::job::{Job, JobCounts};
use crate::queue::kinds::Kinds;
use crate::queue::live::WorkerSettings;
use crate::queue::store::sqlite::SqliteOptions;
use crate::queue::store::{ClaimRequest, ClaimedJob, JobLane, Settlement, Store, WorkerId};
use crate::testing::ManualClock;

use super::super::context::{BatchContext, BatchControl, BatchOverview};
use super::super::info::BatchInfo;
use super::super::machine::Record;
use super::super::poller::{Poller, PollerOptions};
use super::super::settings::BatchSettings;
use super::super::settle_items::{AskedProvider, ItemSettler, request};
use super::super::spool::Spool;
use super::super::transfer::Transfers;
use super::fake_provider::{FakeClient, FakeProvider, seconds};

/// What a provider answers that refuses a request.
pub(crate) fn refused(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Invalid, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

/// A call whose effect is unknown.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe)
}

/// Two requests of a batch with this label.
pub(crate) fn intent(label: &str) -> BatchIntent {
    BatchIntent {
        label: label.to_owned(),
        model: None,
        items: 2,
        bytes: 0,
        begun: Timestamp(0),
    }
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

/// Answers a call in place of the fake provider, if it has an answer.
pub(crate) type Script<A, T> = Mutex<Box<dyn FnMut(&A) -> Option<Result<T, Error>> + Send>>;

fn unscripted<A, T>() -> Script<A, T> {
    Mutex::new(Box::new(|_| None))
}

/// A fake provider whose calls can be answered otherwise.
pub(crate) struct ScriptedClient {
    pub(crate) fake: FakeClient,
    pub(crate) provider: &'static str,
    pub(crate) credential: &'static str,
    pub(crate) line: Script<(String, Request), Vec<u8>>,
    pub(crate) advance: Script<BatchStage, BatchStage>,
    pub(crate) status: Script<String, BatchStatus>,
    pub(crate) discard: Script<String, ()>,
    pub(crate) download: Script<String, String>,
    pub(crate) read: Script<Vec<u8>, BatchLine>,
    pub(crate) cancel: Script<String, ()>,
}

impl ScriptedClient {
    pub(crate) fn of(fake: &Arc<Mutex<FakeProvider>>) -> Self {
        Self {
            fake: FakeClient(fake.clone()),
            provider: "fake",
            credential: "k",
            line: unscripted(),
            advance: unscripted(),
            status: unscripted(),
            discard: unscripted(),
            download: unscripted(),
            read: unscripted(),
            cancel: unscripted(),
        }
    }
}

macro_rules! scripted {
    ($self:ident.$call:ident($arg:expr), $else:expr) => {{
        let answer = ($self.$call.lock())(&$arg);
        match answer {
            Some(answer) => answer,
            None => $else,
        }
    }};
}

impl BatchClient for ScriptedClient {
    fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.provider.to_owned(),
            credential: self.credential.to_owned(),
            ..self.fake.account()
        }
    }
    fn limits(&self) -> BatchLimits {
        self.fake.limits()
    }
    fn model_for(&self, request: &Request) -> Option<String> {
        self.fake.model_for(request)
    }
    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        let named = (key.to_owned(), request.clone());
        scripted!(self.line(named), self.fake.line(key, request))
    }
    fn uploads(&self) -> bool {
        self.fake.uploads()
    }
    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        ctx: &Context,
    ) -> Result<BatchStage, Error> {
        // As the real ones do, before anything is sent.
        if *stage == BatchStage::Ready {
            drop(input.open()?);
        }
        scripted!(
            self.advance(*stage),
            self.fake.advance(intent, stage, input, ctx)
        )
    }
    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<ListedBatches, Error> {
        // What was never uploaded is in no list of a provider that takes files.
        if self.uploads() && *stage == BatchStage::Ready {
            return Ok(ListedBatches::None);
        }
        self.fake.find(intent, stage, known, ctx)
    }
    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error> {
        scripted!(self.discard(file.to_owned()), self.fake.discard(file, ctx))
    }
    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error> {
        scripted!(self.status(id.to_owned()), self.fake.status(id, ctx))
    }
    fn download(
        &self,
        id: &str,
        file: &str,
        sink: &mut dyn Write,
        ctx: &Context,
    ) -> Result<(), Error> {
        match (self.download.lock())(&id.to_owned()) {
            Some(Ok(text)) => {
                let written = sink.write_all(text.as_bytes());
                // As the transport has it.
                written.map_err(|error| {
                    Error::new(ErrorKind::Invalid, error.to_string()).with_sent(Sent::Maybe)
                })
            }
            Some(Err(error)) => Err(error),
            None => self.fake.download(id, file, sink, ctx),
        }
    }
    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        scripted!(self.read(line.to_vec()), self.fake.read(line))
    }
    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error> {
        scripted!(self.cancel(id.to_owned()), self.fake.cancel(id, ctx))
    }
}

impl BatchControl {
    pub(crate) fn set(&self, settings: BatchSettings) {
        if self.settings() != settings {
            self.change(|setup| setup.settings.batches = settings);
        }
    }

    pub(crate) fn set_client(&self, client: Option<Arc<dyn BatchClient>>) {
        self.change(|setup| setup.batches = client);
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

/// Prompts alone, tried again so often.
pub(crate) fn prompt_kinds(clock: &Arc<ManualClock>, max_retries: u8) -> Kinds {
    let route = Route::new(Extract).clock(clock.clone());
    let kinds = Kinds::new(Some(&route));
    kinds.set_prompts(route);
    let settings = WorkerSettings::default()
        .max_retries(max_retries)
        .batch_size(4);
    kinds.setup.change(|setup| setup.settings = settings);
    kinds
}

/// What a poller works with.
pub(crate) fn context(
    store: &Arc<Store>,
    worker: WorkerId,
    kinds: &Arc<Kinds>,
    clock: &Arc<ManualClock>,
    overview: &Arc<BatchOverview>,
    seed: u64,
) -> Arc<BatchContext> {
    Arc::new(BatchContext {
        store: store.clone(),
        worker,
        spool: Spool::new(store.folder()),
        settler: ItemSettler {
            kinds: kinds.clone(),
            clock: clock.clone(),
            jitter: Mutex::new(Random(seed)),
            refused: Mutex::default(),
        },
        overview: overview.clone(),
        observer: None,
    })
}

/// A poller of all processes, whose transfers are carried out at once.
pub(crate) fn options<'a>(
    context: Arc<BatchContext>,
    kinds: &'a Kinds,
    control: &'a BatchControl,
    ctx: &'a Context,
    seed: u64,
) -> PollerOptions<'a> {
    PollerOptions {
        transfers: Transfers::inline(&context, ctx),
        context,
        kinds,
        control,
        ctx,
        processes: &[],
        on_error: ErrorPolicy::ContinueOnError,
        until_empty: false,
        until_submitted: false,
        wake: &|| {},
        seed,
    }
}

impl Harness {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new());
        let kinds = prompt_kinds(&clock, 3);
        let path = folder.path().join("jobs.db");
        let harness = Self {
            fake: Arc::new(Mutex::new(FakeProvider::new(7, clock.clone()))),
            store: Arc::new(Store::open(&path, SqliteOptions::default()).unwrap()),
            folder,
            clock,
            control: BatchControl::new(kinds.setup.clone()),
            kinds: Arc::new(kinds),
            ctx: Context::new(),
            overview: Arc::default(),
        };
        harness.control.set(BatchSettings::default());
        harness.overview.not_scanned.store(true, Ordering::SeqCst);
        harness.fake.lock().overview = harness.overview.clone();
        harness
    }

    pub(crate) fn client(&self) -> Arc<ScriptedClient> {
        let client = Arc::new(ScriptedClient::of(&self.fake));
        self.control.set_client(Some(client.clone()));
        client
    }

    /// A new one with these prompts and a client that answers them.
    pub(crate) fn with(prompts: &[&str]) -> (Self, Arc<ScriptedClient>, ProcessId) {
        let harness = Self::new();
        let (client, process) = (harness.client(), harness.enqueue(prompts));
        (harness, client, process)
    }

    pub(crate) fn enqueue(&self, prompts: &[&str]) -> ProcessId {
        let requests = prompts.iter().map(|p| Request::new(*p).with_id(*p));
        self.enqueue_requests(requests)
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

    pub(crate) fn poller<'a>(&'a self, worker: WorkerId, processes: &'a [ProcessId]) -> Poller<'a> {
        let (store, overview) = (&self.store, &self.overview);
        let context = context(store, worker, &self.kinds, &self.clock, overview, 1);
        self.control.wake();
        let options = options(context, &self.kinds, &self.control, &self.ctx, 5);
        Poller::new(PollerOptions {
            processes,
            ..options
        })
    }

    /// One turn, and the time until the next one.
    pub(crate) fn turn(&self, poller: &mut Poller<'_>) {
        poller.receive_answers();
        poller.turn();
        poller.receive_answers();
        answer_calls(&poller.options.context, &self.fake);
        let now = self.clock.now();
        let due = poller.next_due().unwrap_or(now.after(seconds(1)));
        let wait = due.since(now).clamp(Duration::from_millis(10), seconds(60));
        self.clock.advance(wait);
    }

    /// Turns until this holds, for two days at most.
    pub(crate) fn until(&self, poller: &mut Poller<'_>, mut holds: impl FnMut() -> bool) -> bool {
        let end = self.clock.now().after(seconds(2 * 86_400));
        while self.clock.now() < end {
            if holds() {
                return true;
            }
            self.turn(poller);
        }
        holds()
    }

    pub(crate) fn counts(&self, process: ProcessId) -> JobCounts {
        self.store.process(process).unwrap().unwrap().counts
    }

    pub(crate) fn is_over(&self, process: ProcessId) -> bool {
        self.counts(process).is_finished() && self.store.batches(None).unwrap().is_empty()
    }

    /// Lets a worker carry out a process, with its batches.
    pub(crate) fn run(&self, process: ProcessId) {
        self.until_over(&mut self.poller(self.worker(), &[]), process);
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
        batches
            .iter()
            .map(|batch| BatchInfo::new(batch, wall))
            .collect()
    }

    /// Answers downloads with a text that is made of the requests of the batch.
    pub(crate) fn on_download(
        &self,
        client: &ScriptedClient,
        mut text: impl FnMut(&[(String, String)]) -> Option<String> + Send + 'static,
    ) {
        let fake = self.fake.clone();
        *client.download.lock() = Box::new(move |id| {
            let fake = fake.lock();
            let remote = fake.batches.iter().find(|remote| remote.id == *id)?;
            text(&remote.items).map(Ok)
        });
    }

    /// Turns until a process is over, with its batches.
    pub(crate) fn until_over(&self, poller: &mut Poller<'_>, process: ProcessId) {
        let over = self.until(poller, || self.is_over(process));
        assert!(over, "{:?}", self.store.batches(None).unwrap());
    }

    /// How often a prompt was paid for.
    pub(crate) fn bought(&self, prompt: &str) -> u32 {
        self.fake.lock().bought.get(prompt).copied().unwrap_or(0)
    }
}

/// Answers the jobs that are to be called because their batch was refused, as the rest of a worker does.
pub(crate) fn answer_calls(context: &BatchContext, fake: &Arc<Mutex<FakeProvider>>) {
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
    let wall = context.settler.clock.wall();
    // Some tests take the store or the worker away.
    let Ok(jobs) = context.store.claim(context.worker, wanted, wall) else {
        return;
    };
    let account = FakeClient(fake.clone()).account();
    let asked = AskedProvider::from(&Record::new(account, String::new(), None, wall));
    let end = |job: &ClaimedJob| {
        let prompt = request(job).unwrap().messages[0].text();
        let result = if prompt.contains("poison") || prompt.contains("bad") {
            Err(refused("called in vain", 400))
        } else {
            *fake.lock().bought.entry(prompt.clone()).or_default() += 1;
            Ok(Response::new("fake", format!("echo: {prompt}")))
        };
        context.settler.settlement(job, &asked, result)
    };
    let ends: Vec<Settlement> = jobs.jobs.iter().map(end).collect();
    context.settle(&ends, &asked).unwrap();
}
