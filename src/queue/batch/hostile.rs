//! Single orders of events that the seeded schedules do not make: servers that lie, files that go,
//! calls that fail for good, and what is done elsewhere meanwhile.

use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::id::ProcessId;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::jitter::Jitter;
use crate::engine::route::RetryPolicy;
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchEnd, BatchInput, BatchIntent, BatchLimits, BatchLine,
    BatchStage, BatchState, BatchStatus, Found, Refused,
};
use crate::llm::providers::extract::Extract;
use crate::llm::request::{Request, Task};
use crate::llm::route::Route;
use crate::queue::backlog::Pace;
use crate::queue::job::{COMPLETION, Counts, Job};
use crate::queue::kinds::{Kind, Kinds};
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};
use crate::queue::store::{JobStore, WorkerId};
use crate::testing::ManualClock;

use super::ends::Ends;
use super::outlook::Outlook;
use super::pace::BatchSettings;
use super::poller::{Begin, Poller, Post};
use super::spool::Spool;
use super::transfer::{Office, Transfers};
use super::world::{Client, World, seconds};

/// Answers a call in place of the world, if it has an answer.
type Twist<A, T> = Mutex<Box<dyn FnMut(&A) -> Option<Result<T, Error>> + Send>>;

fn straight<A, T>() -> Twist<A, T> {
    Mutex::new(Box::new(|_| None))
}

/// A world whose calls can be answered otherwise.
struct Twisted {
    world: Client,
    provider: &'static str,
    advance: Twist<BatchStage, BatchStage>,
    status: Twist<String, BatchStatus>,
    discard: Twist<String, ()>,
    download: Twist<String, String>,
    read: Twist<Vec<u8>, BatchLine>,
    cancel: Twist<String, ()>,
}

impl Twisted {
    fn of(world: &Arc<Mutex<World>>) -> Self {
        Self {
            world: Client(world.clone()),
            provider: "world",
            advance: straight(),
            status: straight(),
            discard: straight(),
            download: straight(),
            read: straight(),
            cancel: straight(),
        }
    }
}

macro_rules! twisted {
    ($self:ident.$call:ident($arg:expr), $else:expr) => {{
        let answer = ($self.$call.lock())(&$arg);
        match answer {
            Some(answer) => answer,
            None => $else,
        }
    }};
}

impl BatchClient for Twisted {
    fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.provider.to_owned(),
            ..self.world.account()
        }
    }
    fn limits(&self) -> BatchLimits {
        self.world.limits()
    }
    fn model_for(&self, request: &Request) -> Option<String> {
        self.world.model_for(request)
    }
    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        self.world.line(key, request)
    }
    fn uploads(&self) -> bool {
        self.world.uploads()
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
        twisted!(
            self.advance(*stage),
            self.world.advance(intent, stage, input, ctx)
        )
    }
    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<Found, Error> {
        // What was never uploaded is in no list of a provider that takes files.
        if self.uploads() && *stage == BatchStage::Ready {
            return Ok(Found::None);
        }
        self.world.find(intent, stage, known, ctx)
    }
    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error> {
        twisted!(self.discard(file.to_owned()), self.world.discard(file, ctx))
    }
    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error> {
        twisted!(self.status(id.to_owned()), self.world.status(id, ctx))
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
                sink.write_all(text.as_bytes()).unwrap();
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => self.world.download(id, file, sink, ctx),
        }
    }
    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        twisted!(self.read(line.to_vec()), self.world.read(line))
    }
    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error> {
        twisted!(self.cancel(id.to_owned()), self.world.cancel(id, ctx))
    }
}

/// A store, a world, and the time.
struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    world: Arc<Mutex<World>>,
    store: Arc<SqliteStore>,
    kinds: Arc<Kinds>,
    post: Post,
    ctx: Context,
    outlook: Arc<Outlook>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new());
        let route = Route::new(Extract).clock(clock.clone());
        let kinds = Kinds::new(Some(&route));
        let kind = Kind::Prompts {
            route: Arc::new(route),
            task: Task::Complete,
        };
        kinds.set(COMPLETION, kind);
        let path = folder.path().join("jobs.db");
        let bench = Self {
            world: Arc::new(Mutex::new(World::new(7, clock.clone()))),
            store: Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap()),
            folder,
            clock,
            kinds: Arc::new(kinds),
            post: Post::default(),
            ctx: Context::new(),
            outlook: Arc::default(),
        };
        bench.post.set(BatchSettings::default());
        bench.outlook.blind.store(true, Ordering::SeqCst);
        bench.world.lock().outlook = bench.outlook.clone();
        bench
    }

    fn client(&self) -> Arc<Twisted> {
        let client = Arc::new(Twisted::of(&self.world));
        *self.post.client.write() = Some(client.clone());
        client
    }

    fn enqueue(&self, prompts: &[&str]) -> ProcessId {
        let process = ProcessId::new();
        let jobs = prompts
            .iter()
            .map(|p| Job::from(Request::new(*p).with_id(*p)));
        let wall = self.clock.wall();
        self.store
            .insert(process, jobs.collect(), true, wall)
            .unwrap();
        process
    }

    fn worker(&self) -> WorkerId {
        self.store.enlist(self.clock.wall()).unwrap()
    }

    fn poller<'a>(&'a self, worker: WorkerId, processes: &'a [ProcessId]) -> Poller<'a> {
        let office = Arc::new(Office {
            store: self.store.clone(),
            worker,
            spool: Spool::new(self.store.folder()),
            ends: Ends {
                kinds: self.kinds.clone(),
                pace: Arc::new(Pace {
                    max_retries: AtomicU8::new(3),
                    batch: AtomicU64::new(4),
                    poll_millis: AtomicU64::new(1000),
                }),
                clock: self.clock.clone(),
                retry: RetryPolicy::default(),
                jitter: Mutex::new(Jitter(1)),
                refused: Mutex::default(),
            },
            outlook: self.outlook.clone(),
        });
        self.post.ring();
        Poller::new(Begin {
            transfers: Transfers::inline(&office, &self.ctx),
            office,
            kinds: &self.kinds,
            post: &self.post,
            ctx: &self.ctx,
            processes,
            on_error: ErrorPolicy::ContinueOnError,
            until_empty: false,
            wake: &|| {},
            seed: 5,
        })
    }

    /// One turn, and the time until the next one.
    fn turn(&self, poller: &mut Poller<'_>) {
        poller.settle_in();
        poller.turn();
        poller.settle_in();
        let now = self.clock.now();
        let due = poller.next_due().unwrap_or(now.after(seconds(1)));
        let wait = due.since(now).clamp(Duration::from_millis(10), seconds(60));
        self.clock.advance(wait);
    }

    /// Turns until this holds, for two days at most.
    fn until(&self, poller: &mut Poller<'_>, mut holds: impl FnMut() -> bool) -> bool {
        let end = self.clock.now().after(seconds(2 * 86_400));
        while self.clock.now() < end {
            if holds() {
                return true;
            }
            self.turn(poller);
        }
        holds()
    }

    fn counts(&self, process: ProcessId) -> Counts {
        self.store.process(process).unwrap().unwrap().counts
    }

    fn is_over(&self, process: ProcessId) -> bool {
        self.counts(process).is_finished() && self.store.batches(None).unwrap().is_empty()
    }

    /// How often a prompt was paid for.
    fn bought(&self, prompt: &str) -> u32 {
        self.world.lock().bought.get(prompt).copied().unwrap_or(0)
    }
}

fn transient(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Transient, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

fn invalid(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Invalid, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

#[test]
fn a_deadline_that_passes_during_the_upload_fails_no_job() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let mut first = true;
    *client.advance.lock() = Box::new(move |_| {
        let ended = Error::new(ErrorKind::DeadlineExceeded, "the deadline passed");
        std::mem::take(&mut first).then_some(Err(ended))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!(bench.counts(process).failed, 0);
}

#[test]
fn results_under_strange_ids_are_not_bought_again_and_again() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    *client.download.lock() = Box::new(|_| Some(Ok("x-1 +a\nx-2 +b\n".to_owned())));
    let mut poller = bench.poller(bench.worker(), &[]);
    bench.until(&mut poller, || bench.is_over(process));
    // Four calls at most, as for any job that fails.
    assert!(bench.bought("a") <= 4, "bought {} times", bench.bought("a"));
}

#[test]
fn what_a_short_download_lacks_is_not_bought_again() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let mut left = 3;
    *client.download.lock() = Box::new(move |_| {
        left -= 1;
        (left >= 0).then(|| Ok(String::new()))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!((bench.bought("a"), bench.bought("b")), (1, 1));
}

#[test]
fn one_404_for_fresh_results_loses_nothing() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let mut first = true;
    *client.download.lock() = Box::new(move |_| {
        std::mem::take(&mut first).then(|| Err(invalid("<html>not found</html>", 404)))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!(bench.counts(process).completed, 2);
}

#[test]
fn an_input_that_was_removed_is_written_again() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let folder = bench.store.folder();
    let mut first = true;
    *client.advance.lock() = Box::new(move |_| {
        std::mem::take(&mut first).then(|| {
            std::fs::remove_dir_all(&folder).unwrap();
            Err(transient("busy", 503))
        })
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(
        bench.until(&mut poller, || bench.is_over(process)),
        "{:?}",
        bench.store.batches(None).unwrap()
    );
    assert_eq!(bench.counts(process).completed, 2);
    assert!(bench.folder.path().exists());
}

#[test]
fn batches_that_a_provider_does_not_take_keep_no_other_from_its_work() {
    let bench = Bench::new();
    let broke = Twisted {
        provider: "broke",
        ..Twisted::of(&bench.world)
    };
    *broke.advance.lock() = Box::new(|_| {
        Some(Err(
            Error::new(ErrorKind::Quota, "no credit").with_status(402)
        ))
    });
    let broke = Arc::new(broke);
    *bench.post.client.write() = Some(broke.clone());
    bench.world.lock().limits.requests = 1;
    bench.enqueue(&["a", "b", "c", "d"]);
    let mut poller = bench.poller(bench.worker(), &[]);
    let begun = || bench.store.batches(None).unwrap().len();
    assert!(bench.until(&mut poller, || begun() > 0));
    for _ in 0..40 {
        bench.turn(&mut poller);
    }
    // The provider is changed.
    bench.client();
    let process = bench.enqueue(&["e"]);
    bench.post.ring();
    let ended = bench.until(&mut poller, || bench.counts(process).is_finished());
    assert!(ended, "{:?}", bench.counts(process));
}

#[test]
fn a_creation_that_somebody_left_undecided_keeps_no_other_process_waiting() {
    let bench = Bench::new();
    bench.world.lock().uploads = false;
    let client = bench.client();
    let left = bench.enqueue(&["a", "b"]);
    let process = bench.enqueue(&["c"]);
    *client.advance.lock() = Box::new(|_| {
        let lost = Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe);
        Some(Err(lost))
    });
    let worker = bench.worker();
    let only = [left];
    let mut poller = bench.poller(worker, &only);
    assert!(bench.until(&mut poller, || {
        let batches = bench.store.batches(None).unwrap();
        batches.iter().any(|batch| batch.record.contains("doubt"))
    }));
    drop(poller);
    bench.store.retire(worker, bench.clock.wall()).unwrap();
    // `run` of another file: it looks after its own process alone.
    bench.client();
    let only = [process];
    let mut poller = bench.poller(bench.worker(), &only);
    let ended = bench.until(&mut poller, || bench.counts(process).is_finished());
    assert!(ended, "{:?}", bench.store.batches(None).unwrap());
}

#[test]
fn a_cancellation_that_is_refused_for_good_keeps_nobody_from_the_results() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    *client.cancel.lock() = Box::new(|_| Some(Err(transient("cannot", 500))));
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || !bench.world.lock().batches.is_empty()));
    bench.store.cancel(process, bench.clock.wall()).unwrap();
    bench.post.ring();
    assert!(
        bench.until(&mut poller, || bench.is_over(process)),
        "{:?}",
        bench.store.batches(None).unwrap()
    );
    assert_eq!(bench.counts(process).completed, 2);
}

#[test]
fn an_input_that_cannot_be_deleted_does_not_hide_a_batch_that_is_there() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    {
        let mut world = bench.world.lock();
        // It is listed after the time to reconcile.
        world.lag = seconds(1_000_000);
    }
    *client.discard.lock() = Box::new(|_| Some(Err(invalid("this key deletes no files", 403))));
    let (world, mut first) = (Client(bench.world.clone()), true);
    *client.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { .. } = stage else {
            return None;
        };
        if !std::mem::take(&mut first) {
            return None;
        }
        struct None_;
        impl BatchInput for None_ {
            fn open(&mut self) -> Result<Box<dyn std::io::Read + Send + '_>, Error> {
                unreachable!("no input")
            }
        }
        let intent = BatchIntent {
            label: "late".to_owned(),
            model: None,
            items: 2,
            bytes: 0,
            begun: crate::base::clock::Wall(0),
        };
        world
            .advance(&intent, stage, &mut None_, &Context::new())
            .unwrap();
        Some(Err(
            Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe)
        ))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    for _ in 0..60 {
        bench.turn(&mut poller);
    }
    bench.world.lock().list_all();
    assert!(
        bench.until(&mut poller, || bench.is_over(process)),
        "{:?}",
        bench.store.batches(None).unwrap()
    );
    assert_eq!((bench.bought("a"), bench.bought("b")), (1, 1));
}

#[test]
fn a_cancelled_batch_that_is_not_known_yet_is_not_left_running() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || !bench.world.lock().batches.is_empty()));
    // What was created shows a moment later.
    let shows = bench.clock.now().after(seconds(30));
    let clock = bench.clock.clone();
    let hidden = move || (clock.now() < shows).then(|| Err(invalid("no such batch", 404)));
    let also = hidden.clone();
    *client.status.lock() =
        Box::new(move |_| hidden().map(|hidden: Result<(), Error>| Err(hidden.unwrap_err())));
    *client.cancel.lock() = Box::new(move |_| also());
    bench.store.cancel(process, bench.clock.wall()).unwrap();
    bench.post.ring();
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!(bench.world.lock().alive(), 0, "it runs on, and is paid for");
}

#[test]
fn what_is_refused_whatever_it_holds_is_not_bisected_line_by_line() {
    let bench = Bench::new();
    let client = bench.client();
    let names: Vec<String> = (0..32).map(|n| format!("p{n}")).collect();
    let prompts: Vec<&str> = names.iter().map(String::as_str).collect();
    let process = bench.enqueue(&prompts);
    *client.status.lock() = Box::new(|_| {
        let why = invalid("something that nobody knows here", 400);
        Some(Ok(BatchStatus {
            state: BatchState::Refused(Refused::SomeLine(why)),
            counts: None,
            results: Vec::new(),
            expected: None,
            poll_after: None,
        }))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    bench.until(&mut poller, || bench.is_over(process));
    let creates = bench.world.lock().creates;
    assert!(creates <= 2 * 32, "{creates} submissions of 32 requests");
}

#[test]
fn lines_that_a_batch_does_not_have_are_not_complained_of_for_ever() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    *client.status.lock() = Box::new(|_| {
        let lines = vec![(900, invalid("bad line", 400))];
        Some(Ok(BatchStatus {
            state: BatchState::Refused(Refused::Lines(lines)),
            counts: None,
            results: Vec::new(),
            expected: None,
            poll_after: None,
        }))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    bench.until(&mut poller, || bench.is_over(process));
    let creates = bench.world.lock().creates;
    assert!(creates < 100, "{creates} submissions of two requests");
}

#[test]
fn a_line_that_was_refused_is_failed_once_though_the_batch_could_not_be_closed() {
    let bench = Bench::new();
    let _client = bench.client();
    let process = bench.enqueue(&["poison", "b", "c"]);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || !bench.world.lock().batches.is_empty()));
    // The disk is full when the batch is to be closed, and has room again later.
    bench.store.chunks_left.store(0, Ordering::Relaxed);
    assert!(bench.until(&mut poller, || bench.counts(process).failed > 0));
    bench.turn(&mut poller);
    bench.store.chunks_left.store(i64::MAX, Ordering::Relaxed);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    let counts = bench.counts(process);
    assert_eq!((counts.completed, counts.failed), (2, 1));
}

#[test]
fn a_client_that_panics_ends_no_poller() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    let mut first = true;
    *client.status.lock() = Box::new(move |_| {
        assert!(!std::mem::take(&mut first), "the host's client panics");
        None
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    let over = catch_unwind(AssertUnwindSafe(|| {
        bench.until(&mut poller, || bench.is_over(process))
    }));
    assert!(over.is_ok_and(|over| over), "its thread has ended");
}

#[test]
fn requests_that_had_no_turn_because_somebody_cancelled_the_batch_go_back() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    let mut first = true;
    // As Anthropic's `canceled` is read.
    *client.read.lock() = Box::new(move |line| {
        let text = String::from_utf8(line.clone()).unwrap();
        std::mem::take(&mut first).then(|| {
            let why = "the batch was cancelled before this request's turn";
            let error = Error::new(ErrorKind::Cancelled, why).with_sent(Sent::Answered);
            Ok(BatchLine {
                key: text.split(' ').next().unwrap().to_owned(),
                end: BatchEnd::NotProcessed(error),
            })
        })
    });
    // In the first batch it has no turn.
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!(bench.counts(process).completed, 1);
}

#[test]
fn a_queue_that_others_fill_for_a_day_fails_nothing() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    let (clock, free) = (
        bench.clock.clone(),
        bench.clock.now().after(seconds(86_400)),
    );
    *client.status.lock() = Box::new(move |_| {
        let full = invalid("enqueued token limit reached", 400);
        (clock.now() < free).then(|| {
            Ok(BatchStatus {
                state: BatchState::Refused(Refused::TooMuchQueued(full)),
                counts: None,
                results: Vec::new(),
                expected: None,
                poll_after: None,
            })
        })
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    bench.until(&mut poller, || bench.is_over(process));
    assert_eq!(bench.counts(process).failed, 0);
}

#[test]
fn who_could_not_look_does_not_say_that_nothing_is_there() {
    let bench = Bench::new();
    let _client = bench.client();
    let process = bench.enqueue(&["a"]);
    let worker = bench.worker();
    let mut poller = bench.poller(worker, &[]);
    assert!(bench.until(&mut poller, || bench.counts(process).at_provider == 1));
    drop(poller);
    bench.store.retire(worker, bench.clock.wall()).unwrap();
    // Another life, whose first look at the store fails.
    bench.outlook.blind.store(true, Ordering::SeqCst);
    bench.outlook.tell(0, 0, 0);
    bench.outlook.blind.store(true, Ordering::SeqCst);
    let conn = rusqlite::Connection::open(bench.folder.path().join("jobs.db")).unwrap();
    conn.execute("ALTER TABLE batches RENAME TO away", [])
        .unwrap();
    let mut poller = bench.poller(bench.worker(), &[]);
    poller.turn();
    assert!(
        bench.outlook.open(false),
        "a worker that ends when all is done would end now"
    );
}

#[test]
fn credit_that_is_gone_when_the_batch_has_been_made_fails_no_job() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    let mut first = true;
    *client.status.lock() = Box::new(move |_| {
        let gone = Error::new(ErrorKind::Quota, "billing_hard_limit_reached");
        std::mem::take(&mut first).then(|| {
            Ok(BatchStatus {
                state: BatchState::Refused(Refused::Whole(gone)),
                counts: None,
                results: Vec::new(),
                expected: None,
                poll_after: None,
            })
        })
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    bench.until(&mut poller, || bench.is_over(process));
    assert_eq!(bench.counts(process).failed, 0);
}

#[test]
fn a_wait_without_measure_does_not_outlast_the_results() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    let mut first = true;
    *client.status.lock() = Box::new(move |_| {
        let months = transient("busy", 503).with_retry_after(Some(seconds(10_000_000)));
        std::mem::take(&mut first).then_some(Err(months))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.is_over(process)));
}

#[test]
fn a_cancelled_batch_that_was_never_made_ends_though_its_input_stays() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a"]);
    *client.advance.lock() = Box::new(|stage| match stage {
        BatchStage::Uploaded { .. } => Some(Err(transient("busy", 429))),
        _ => None,
    });
    *client.discard.lock() = Box::new(|_| Some(Err(invalid("this key deletes no files", 403))));
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || {
        let batches = bench.store.batches(None).unwrap();
        batches
            .iter()
            .any(|batch| batch.record.contains("uploaded"))
    }));
    bench.store.cancel(process, bench.clock.wall()).unwrap();
    bench.post.ring();
    assert!(bench.until(&mut poller, || bench.is_over(process)));
}

#[test]
fn what_waits_once_is_put_into_one_batch() {
    let bench = Bench::new();
    let client = bench.client();
    bench.enqueue(&["a"]);
    // The account is left alone for a while before anything is moved.
    *client.advance.lock() = Box::new(|_| {
        Some(Err(
            Error::new(ErrorKind::Quota, "no credit").with_status(402)
        ))
    });
    let mut poller = bench.poller(bench.worker(), &[]);
    for _ in 0..20 {
        bench.turn(&mut poller);
    }
    bench.enqueue(&["b"]);
    bench.post.ring();
    for _ in 0..200 {
        bench.post.ring();
        poller.turn();
        bench.clock.advance(Duration::from_millis(250));
    }
    assert_eq!(bench.store.batches(None).unwrap().len(), 2);
}
