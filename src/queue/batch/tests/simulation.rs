//! Seeded schedules of the real poller over the real store and a provider in memory: creations whose
//! reply is lost, that take effect late or are listed late, refusals, expiry, truncated results, and
//! changes that the store does not take for a while,
//! deaths at any moment. Nothing is bought twice, and every job has exactly one outcome.
//!
//! `SIMULATION_SEED=n cargo test --lib batch::tests::simulation` replays one schedule.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::seeds::{each_seed, seeds};
use crate::base::{Clock, Context, Error, ErrorKind, ProcessId, Time};
use crate::config::choices::OnUnknown;
use crate::llm::batch::BatchLimits;
use crate::llm::request::Request;
use crate::queue::job::{Job, JobStatus, ProcessState};
use crate::queue::kinds::Kinds;
use crate::queue::store::Store;
use crate::queue::store::sqlite::SqliteOptions;
use crate::testing::ManualClock;

use super::super::context::BatchControl;
use super::super::info::BatchInfo;
use super::super::poller::Poller;
use super::super::settings::BatchSettings;
use super::fake_provider::{Died, FakeClient, FakeProvider, seconds};
use super::harness::{answer_calls, context, options, prompt_kinds};

const RECONCILE: Duration = Duration::from_secs(300);

struct Scene {
    random: Random,
    path: PathBuf,
    clock: Arc<ManualClock>,
    fake: Arc<Mutex<FakeProvider>>,
    settings: BatchSettings,
    control: BatchControl,
    kinds: Arc<Kinds>,
    ctx: Context,
    deaths: u64,
    /// Percent of the store's transactions that fail, for any reason.
    unwritable: u64,
    cancelled: bool,
    twice: u64,
}

impl Scene {
    fn new(seed: u64, folder: &Path) -> Self {
        let clock = Arc::new(ManualClock::new());
        let kinds = prompt_kinds(&clock, 10);
        let fake = FakeProvider::new(seed ^ 0x5eed, clock.clone());
        let scene = Self {
            random: Random(seed),
            path: folder.join("jobs.db"),
            fake: Arc::new(Mutex::new(fake)),
            clock,
            settings: BatchSettings::default().reconcile_wait(RECONCILE),
            control: BatchControl::new(kinds.setup.clone()),
            kinds: Arc::new(kinds),
            ctx: Context::new(),
            deaths: 0,
            unwritable: 0,
            cancelled: false,
            twice: 0,
        };
        scene
            .control
            .set_client(Some(Arc::new(FakeClient(scene.fake.clone()))));
        scene
    }

    fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.path, SqliteOptions::default()).unwrap())
    }

    /// One life of a worker's poller, until all is done or it dies.
    fn live(&mut self, process: ProcessId, cancel_at: Option<Time>) -> bool {
        let store = self.store();
        let wall = self.clock.wall();
        store.reclaim(wall).unwrap();
        let worker = store.register_worker().unwrap();
        let (overview, seed) = (Arc::default(), self.random.below(1 << 40));
        let context = context(&store, worker, &self.kinds, &self.clock, &overview, seed);
        self.fake.lock().overview = context.overview.clone();
        self.control.set(self.settings);
        self.control.wake();
        let works = Arc::new(AtomicBool::new(true));
        let (percent, well) = (self.unwritable, works.clone());
        let mut fate = Random(self.random.below(1 << 40));
        *store.unwritable.lock() = Some(Box::new(move || {
            let kind = ErrorKind::ALL[fate.below(ErrorKind::ALL.len() as u64) as usize];
            let fails = !well.load(Ordering::SeqCst) && fate.chance(percent);
            fails.then(|| Error::new(kind, "not now"))
        }));
        let seed = self.random.below(1 << 40);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let (kinds, control) = (&self.kinds, &self.control);
            let options = options(context.clone(), kinds, control, &self.ctx, seed);
            let mut poller = Poller::new(options);
            for round in 0.. {
                let state = store.process(process).unwrap();
                assert!(
                    round < 50_000,
                    "it does not end: {state:?} {:?} {:?}",
                    store.batches(None).unwrap(),
                    self.fake.lock().batches
                );
                works.store(false, Ordering::SeqCst);
                poller.receive_answers();
                poller.turn();
                poller.receive_answers();
                works.store(true, Ordering::SeqCst);
                answer_calls(&context, &self.fake);
                // Whoever cancels what has ended does without its results, and is not simulated.
                let undecided = ["preparing", "submitting", "creating", "looking_for"];
                let again = || {
                    let open = store.batches(None).unwrap();
                    let info = |batch| BatchInfo::new(batch, self.clock.wall());
                    open.iter()
                        .all(|batch| undecided.contains(&&*info(batch).state))
                };
                let due = cancel_at.is_some_and(|at| at <= self.clock.now());
                if due && (!self.cancelled || again()) {
                    self.cancelled = true;
                    store.cancel(process, self.clock.wall()).unwrap();
                    while store.maintain(self.clock.wall()).unwrap() {}
                    self.control.wake();
                }
                if is_done(&state) && store.batches(None).unwrap().is_empty() {
                    return;
                }
                let held = |open: &BatchInfo| open.state == "held";
                let wall = self.clock.wall();
                let open = store.batches(None).unwrap();
                let open: Vec<BatchInfo> = open
                    .iter()
                    .map(|batch| BatchInfo::new(batch, wall))
                    .collect();
                let long = open.iter().all(|open| open.age_seconds > 5_000);
                if open.iter().any(held) && long {
                    // All that was late has happened by now: somebody looks there, and decides.
                    assert!(!self.fake.lock().uploads);
                    let decided = self.settings.on_unknown(Some(OnUnknown::Resubmit));
                    self.control.set(decided);
                } else {
                    self.control.set(self.settings);
                }
                let now = self.clock.now();
                let due = poller.next_due().unwrap_or(now.after(seconds(1)));
                let wait = due
                    .since(now)
                    .clamp(Duration::from_millis(10), seconds(100));
                self.clock.advance(wait);
            }
        }));
        let twice = &context.overview.possibly_paid_twice;
        self.twice += twice.load(Ordering::SeqCst);
        match ended {
            Ok(()) => true,
            Err(cause) if cause.is::<Died>() => false,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }

    fn run(&mut self, prompts: Vec<String>, cancel_at: Option<Time>) -> Vec<(String, JobStatus)> {
        let process = ProcessId::new();
        let store = self.store();
        let jobs = prompts
            .iter()
            .map(|prompt| Job::from(Request::new(prompt.as_str()).with_id(prompt)));
        let jobs: Vec<Job> = jobs.collect();
        store
            .insert(process, jobs, true, self.clock.wall())
            .unwrap();
        let mut lives = 0;
        loop {
            lives += 1;
            self.fake.lock().dies_in = if self.deaths > 0 {
                Some(self.random.below(120))
            } else {
                None
            };
            self.deaths = self.deaths.saturating_sub(1);
            if self.live(process, cancel_at) {
                break;
            }
            let nap = self.random.below(400);
            self.clock.advance(seconds(nap));
            assert!(lives < 100);
        }
        let results = store.peek(process, None, 10_000, usize::MAX).unwrap();
        assert_eq!(results.len(), prompts.len());
        results
            .into_iter()
            .map(|delivery| {
                let result = delivery.result;
                let id = result.item_id.clone().unwrap();
                if result.status == JobStatus::Completed {
                    let line: serde_json::Value = serde_json::from_str(&result.line()).unwrap();
                    assert_eq!(line["text"], format!("echo: {id}"), "{line}");
                    assert_eq!(line["provider"], "fake");
                }
                (id, result.status)
            })
            .collect()
    }
}

fn is_done(state: &Option<ProcessState>) -> bool {
    state.as_ref().is_none_or(|state| {
        let c = &state.counts;
        let sum = c.pending + c.in_progress + c.at_provider + c.completed + c.failed + c.cancelled;
        assert_eq!(sum, c.total);
        c.is_finished()
    })
}

fn schedule(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(seed, folder.path());
    let random = &mut scene.random;
    let n = 1 + random.below(120);
    let cancelled = random.chance(15);
    let mut prompts: Vec<String> = (0..n).map(|n| format!("p{n}")).collect();
    for prompt in &mut prompts {
        match random.below(60) {
            0 => prompt.push_str(" bad"),
            1 => prompt.push_str(" flaky"),
            2 if seed.is_multiple_of(3) => prompt.push_str(" poison"),
            3 => prompt.push_str(" unspeakable"),
            _ => {}
        }
    }
    scene.deaths = random.below(6);
    scene.unwritable = [0, 0, 15][(seed % 3) as usize];
    {
        let mut fake = scene.fake.lock();
        fake.uploads = seed % 4 != 3;
        fake.names_lines = random.chance(50);
        fake.trouble = [0, 3, 10][random.below(3) as usize];
        fake.late = seconds([0, 20, 2000][random.below(3) as usize]);
        fake.lag = seconds(random.below(200));
        fake.expiring = [0, 30][random.below(2) as usize];
        fake.limits = BatchLimits {
            requests: 1 + random.below(60) as usize,
            bytes: 100 + random.below(2000),
        };
        fake.most_queued = random.chance(20).then(|| 20 + random.below(50) as usize);
    }
    let cancel_at = cancelled.then(|| scene.clock.now().after(seconds(random.below(500))));
    let outcomes = scene.run(prompts, cancel_at);
    let fake = scene.fake.clone();
    let mut fake = fake.lock();
    for (prompt, status) in &outcomes {
        let bought = fake.bought.get(prompt).copied().unwrap_or(0);
        let fails = ["bad", "poison", "unspeakable"]
            .iter()
            .any(|word| prompt.contains(word));
        let poisoned = prompt.contains("poison");
        assert!(
            bought <= 1,
            "{prompt} was bought {bought} times: {:#?}",
            fake.with(prompt)
        );
        match status {
            JobStatus::Completed => {
                assert_eq!(bought, 1, "{prompt}");
                assert!(!fails || poisoned && !fake.uploads, "{prompt}");
            }
            JobStatus::Failed => assert!(fails || bought == 0, "{prompt} was paid for and failed"),
            JobStatus::Cancelled => {
                assert!(cancelled, "{prompt}");
                assert_eq!(bought, 0, "{prompt} thrown away: {:#?}", fake.with(prompt));
            }
            other => panic!("{prompt} is {other:?}"),
        }
        if !cancelled && !fails {
            // Ten retries: nothing fails for trouble that passes, but for expiry again and again.
            assert!(
                *status == JobStatus::Completed || fake.expiring > 0,
                "{prompt} {status:?}"
            );
        }
    }
    assert_eq!(fake.alive(), 0, "a batch runs that nobody waits for");
    assert!(scene.twice == 0 || !fake.uploads);
}

#[test]
fn nothing_is_lost_or_bought_twice_whatever_happens_when() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Died>() {
            hook(info);
        }
    }));
    each_seed(seeds().map_or(15, |seeds| (seeds / 250).max(15)), schedule);
}
