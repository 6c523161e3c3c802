//! Seeded schedules of the real poller over the real store and a provider in memory: creations whose
//! reply is lost, that take effect late or are listed late, refusals, expiry, truncated results, and
//! changes that the store does not take for a while,
//! deaths at any moment. Nothing is bought twice, and every job has exactly one outcome.
//!
//! `SIMULATION_SEED=n cargo test --lib batch::tests::simulation` replays one schedule.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::base::random::Random;
use crate::base::seeds::{each_seed, seeds};
use crate::base::{Clock, Error, ErrorKind, ProcessId, Time};
use crate::config::choices::OnUnknown;
use crate::llm::batch::BatchLimits;
use crate::queue::job::{JobStatus, ProcessState};

use super::super::info::BatchInfo;
use super::super::settings::BatchSettings;
use super::fake_provider::{Died, seconds};
use super::harness::Harness;

const RECONCILE: Duration = Duration::from_secs(300);

struct Scene {
    random: Random,
    world: Harness,
    settings: BatchSettings,
    deaths: u64,
    /// Percent of the store's transactions that fail, for any reason.
    unwritable: u64,
    cancelled: bool,
    twice: u64,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let world = Harness::seeded(seed ^ 0x5eed, 10);
        world.client();
        Self {
            random: Random(seed),
            world,
            settings: BatchSettings::default().reconcile_wait(RECONCILE),
            deaths: 0,
            unwritable: 0,
            cancelled: false,
            twice: 0,
        }
    }

    /// One life of a worker's poller, until all is done or it dies.
    fn live(&mut self, process: ProcessId, cancel_at: Option<Time>) -> bool {
        self.world.restart();
        let Harness { store, clock, .. } = &self.world;
        store.reclaim(clock.wall()).unwrap();
        let worker = store.register_worker().unwrap();
        self.world.set(self.settings);
        let works = Arc::new(AtomicBool::new(true));
        let (percent, well) = (self.unwritable, works.clone());
        let mut fate = Random(self.random.below(1 << 40));
        *store.faults.unwritable.lock() = Some(Box::new(move || {
            let kind = ErrorKind::ALL[fate.below(ErrorKind::ALL.len() as u64) as usize];
            let fails = !well.load(Ordering::SeqCst) && fate.chance(percent);
            fails.then(|| Error::new(kind, "not now"))
        }));
        let seed = self.random.below(1 << 40);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut poller = self.world.seeded_poller(worker, &[], seed);
            for round in 0.. {
                let state = store.process(process).unwrap();
                assert!(
                    round < 50_000,
                    "it does not end: {state:?} {:?} {:?}",
                    store.batches(None).unwrap(),
                    self.world.fake.lock().batches
                );
                works.store(false, Ordering::SeqCst);
                self.world.step(&mut poller);
                works.store(true, Ordering::SeqCst);
                self.world.answer_calls(&poller);
                // Whoever cancels what has ended does without its results, and is not simulated.
                let undecided = ["preparing", "submitting", "creating", "looking_for"];
                let is_undecided = |batch: &BatchInfo| undecided.contains(&&*batch.state);
                let again = || self.world.infos().iter().all(is_undecided);
                let due = cancel_at.is_some_and(|at| at <= clock.now());
                if due && (!self.cancelled || again()) {
                    self.cancelled = true;
                    self.world.cancel(process);
                    while store.maintain(clock.wall()).unwrap() {}
                }
                let open = self.world.infos();
                if is_done(&state) && open.is_empty() {
                    return;
                }
                let is_long = open.iter().all(|open| open.age_seconds > 5_000);
                if open.iter().any(|open| open.state == "held") && is_long {
                    // All that was late has happened by now: somebody looks there, and decides.
                    assert!(!self.world.fake.lock().uploads);
                    let decided = self.settings.on_unknown(Some(OnUnknown::Resubmit));
                    self.world.set(decided);
                } else {
                    self.world.set(self.settings);
                }
                self.world.wait(&poller, seconds(1), seconds(100));
            }
        }));
        self.twice += self.world.overview.tally.lock().possibly_paid_twice;
        match ended {
            Ok(()) => true,
            Err(cause) if cause.is::<Died>() => false,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }

    fn run(&mut self, prompts: &[String], cancel_at: Option<Time>) -> Vec<(String, JobStatus)> {
        let process = self.world.enqueue(prompts);
        let mut lives = 0;
        loop {
            lives += 1;
            let dies_in = (self.deaths > 0).then(|| self.random.below(120));
            self.world.fake.lock().dies_in = dies_in;
            self.deaths = self.deaths.saturating_sub(1);
            if self.live(process, cancel_at) {
                break;
            }
            let nap = self.random.below(400);
            self.world.clock.advance(seconds(nap));
            assert!(lives < 100);
        }
        let results = self.world.store.peek(process, None, 10_000, usize::MAX);
        let results = results.unwrap();
        assert_eq!(results.len(), prompts.len());
        let outcome = |result: crate::queue::job::JobResult| {
            let id = result.item_id.clone().unwrap();
            if result.status == JobStatus::Completed {
                let line: serde_json::Value = serde_json::from_str(&result.line()).unwrap();
                assert_eq!(line["text"], format!("echo: {id}"), "{line}");
                assert_eq!(line["provider"], "fake");
            }
            (id, result.status)
        };
        results
            .into_iter()
            .map(|done| outcome(done.result))
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
    let mut scene = Scene::new(seed);
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
        let mut fake = scene.world.fake.lock();
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
    let wait = seconds(random.below(500));
    let cancel_at = cancelled.then(|| scene.world.clock.now().after(wait));
    let outcomes = scene.run(&prompts, cancel_at);
    let mut fake = scene.world.fake.lock();
    for (prompt, status) in &outcomes {
        let bought = fake.bought.get(prompt).copied().unwrap_or(0);
        let all = ["bad", "poison", "unspeakable"];
        let fails = all.iter().any(|word| prompt.contains(word));
        let where_to = || fake.with(prompt);
        assert!(bought <= 1, "{prompt} bought {bought}: {:#?}", where_to());
        match status {
            JobStatus::Completed => {
                assert_eq!(bought, 1, "{prompt}");
                let is_poisoned = prompt.contains("poison") && !fake.uploads;
                assert!(!fails || is_poisoned, "{prompt}");
            }
            JobStatus::Failed => assert!(fails || bought == 0, "{prompt} was paid for and failed"),
            JobStatus::Cancelled => {
                assert!(cancelled, "{prompt}");
                assert_eq!(bought, 0, "{prompt} thrown away: {:#?}", where_to());
            }
            other => panic!("{prompt} is {other:?}"),
        }
        if !cancelled && !fails {
            // Ten retries: nothing fails for trouble that passes, but for expiry again and again.
            let is_done = *status == JobStatus::Completed;
            assert!(is_done || fake.expiring > 0, "{prompt} {status:?}");
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
