//! Seeded schedules of the real dispatcher over the real store, on a clock moved by hand: two workers
//! of two processes, a provider with outages, and deaths at any moment.
//!
//! `SIMULATION_SEED=n cargo test queue::simulation` replays one schedule; of `SIMULATION_SEEDS=n` it
//! runs one in 250: each opens a database several times.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time, Timestamp};
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::RateHints;
use crate::base::id::ProcessId;
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Event, Flight, Landed, Options, Turn};
use crate::engine::jitter::Jitter;
use crate::engine::limiter::{Limits, QuotaKey};
use crate::engine::pack::Pack;
use crate::engine::route::RetryPolicy;
use crate::llm::client::LlmClient;
use crate::llm::request::{Request, RequestTask};
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::testing::ManualClock;

use super::backlog::{Pace, Scope, StoreBacklog};
use super::job::{COMPLETION_KIND, Job, JobStatus};
use super::kinds::{Kind, Kinds};
use super::store::sqlite::{SqliteOptions, SqliteStore};
use super::store::{JobStore, MAX_CRASHES};
use super::task::{Done, JobTask};
use super::work::StoreWork;

/// Never called: answers come from the schedule.
struct Named(u8);

impl LlmClient for Named {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        unreachable!("the schedule answers")
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        let model = request.model.as_deref().unwrap_or_default();
        QuotaKey::new(&[&self.0.to_string(), model])
    }
}

struct Random(Jitter);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        ((self.0.next() * n as f64) as u64).min(n - 1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A worker's process.
struct Life {
    dispatcher: Dispatcher<StoreWork>,
    store: Arc<SqliteStore>,
    flying: Vec<(Time, Flight<Pack<JobTask>>)>,
    asleep_until: Time,
    next_reclaim: Time,
    wake: Option<Time>,
}

struct Scene {
    random: Random,
    path: PathBuf,
    clock: Arc<ManualClock>,
    lives: Vec<Life>,
    steps: u8,
    slots: usize,
    max_retries: u8,
    /// Until when each step refuses everybody, or cannot be reached.
    out: Vec<(Time, ErrorKind)>,
    /// Answers that were paid for, by job.
    paid: HashMap<i64, u32>,
    /// Jobs in flight when their worker died.
    at_risk: u64,
    errors: HashMap<i64, u32>,
}

impl Scene {
    fn new(seed: u64, folder: &Path) -> Self {
        let mut random = Random(Jitter(seed));
        let mut scene = Self {
            path: folder.join("jobs.db"),
            clock: Arc::default(),
            lives: Vec::new(),
            steps: 1 + random.below(2) as u8,
            slots: 1 + random.below(6) as usize,
            max_retries: random.below(4) as u8,
            out: vec![(Time::ZERO, ErrorKind::Auth); 2],
            paid: HashMap::new(),
            at_risk: 0,
            errors: HashMap::new(),
            random,
        };
        for _ in 0..2 {
            let life = scene.born();
            scene.lives.push(life);
        }
        scene
    }

    fn born(&mut self) -> Life {
        let store = Arc::new(SqliteStore::open(&self.path, SqliteOptions::default()).unwrap());
        let (now, wall) = (self.clock.now(), self.clock.wall());
        store.reclaim(wall).unwrap();
        let worker = store.enlist(wall).unwrap();
        let limits = Limits::default().burst(3);
        let mut route = Route::limited(Named(0), limits).clock(self.clock.clone());
        for step in 1..self.steps {
            route = route.then(Named(step), limits);
        }
        let kinds = Kinds::new(Some(&route));
        let kind = Kind::Prompts {
            route: Arc::new(route),
            task: RequestTask::Complete,
        };
        kinds.set(COMPLETION_KIND, kind);
        let pace = Pace {
            max_retries: AtomicU8::new(self.max_retries),
            batch: AtomicU64::new(4),
            poll_millis: AtomicU64::new(1000),
        };
        let options = Options {
            concurrency: self.slots,
            retry: RetryPolicy::default(),
            trails: kinds.trails.clone(),
            on_error: ErrorPolicy::ContinueOnError,
            deadline: None,
            jitter: Jitter(now.as_nanos()),
            durable: true,
            of_many: true,
        };
        let limiter = kinds.limiter.clone();
        let backlog = StoreBacklog::new(
            store.clone(),
            worker,
            Arc::new(kinds),
            self.clock.clone(),
            Arc::new(pace),
            Scope::default(),
        );
        Life {
            dispatcher: Dispatcher::new(StoreWork::new(backlog), limiter, options),
            store,
            flying: Vec::new(),
            asleep_until: Time::ZERO,
            next_reclaim: Time::ZERO,
            wake: None,
        }
    }

    fn run(mut self) {
        let jobs = 5 + self.random.below(40);
        let process = ProcessId::new();
        let job = |n: u64| {
            let model = format!("m{}", n % 3);
            Job::from(Request::new(n.to_string()).with_model(model)).priority(1 + (n % 10) as u8)
        };
        let all: Vec<Job> = (0..jobs).map(job).collect();
        let ids = self.lives[0]
            .store
            .insert(process, all, true, self.clock.wall())
            .unwrap();
        let mut deaths = self.random.below(6);
        for round in 0.. {
            assert!(round < 20_000, "it does not end: {:?}", self.state(process));
            for at in 0..2 {
                self.turn(at);
            }
            if self.state(process).counts.is_finished() {
                break;
            }
            self.advance();
            if self.random.chance(3) {
                let step = self.random.below(self.steps.into()) as usize;
                let kind = [ErrorKind::Auth, ErrorKind::Transient][self.random.below(2) as usize];
                let until = self
                    .clock
                    .now()
                    .after(Duration::from_secs(self.random.below(200)));
                self.out[step] = (until, kind);
            }
            if deaths > 0 && self.random.chance(4) {
                deaths -= 1;
                let at = self.random.below(2) as usize;
                self.at_risk += self.lives[at].flying.len() as u64;
                // Dropped without a word: its locks go with it, as those of a killed process.
                self.lives.remove(at);
                let life = self.born();
                self.lives.insert(at, life);
            }
            if self.random.chance(3) {
                let at = self.random.below(2) as usize;
                let nap = Duration::from_millis(self.random.below(20_000));
                self.lives[at].asleep_until = self.clock.now().after(nap);
            }
        }
        self.check(process, &ids);
    }

    fn state(&self, process: ProcessId) -> super::job::ProcessState {
        self.lives[0].store.process(process).unwrap().unwrap()
    }

    /// What a worker does in an instant: landings, a turn, the minder's duties.
    fn turn(&mut self, at: usize) {
        let now = self.clock.now();
        if self.lives[at].asleep_until > now {
            return;
        }
        let flying = std::mem::take(&mut self.lives[at].flying);
        let (landing, flying): (Vec<_>, Vec<_>) =
            flying.into_iter().partition(|(end, _)| *end <= now);
        self.lives[at].flying = flying;
        for (_, flight) in landing {
            let landed = self.land(flight, now);
            self.lives[at].dispatcher.handle(Event::Landed(landed), now);
        }
        let life = &mut self.lives[at];
        if life.next_reclaim <= now {
            life.next_reclaim = now.after(Duration::from_millis(500));
            life.store.reclaim(self.clock.wall()).unwrap();
            while life.store.chore(self.clock.wall()).unwrap() {}
        }
        let mut start = Vec::new();
        match life.dispatcher.turn(now, &mut start) {
            Turn::Wait(until) => life.wake = until,
            Turn::Finished => panic!("stopped: {:?}", life.dispatcher.stop_reason()),
        }
        for flight in start {
            let took = Duration::from_millis(1 + self.random.below(3000));
            self.lives[at].flying.push((now.after(took), flight));
        }
        let life = &self.lives[at];
        assert!(life.flying.len() <= self.slots, "more calls than slots");
        let suspects = life.flying.iter();
        let suspects =
            suspects.filter(|(_, flight)| flight.ticket.task[0].task.claimed.crashes >= 2);
        assert!(
            suspects.count() == 0 || life.flying.len() == 1,
            "a suspect had neighbours"
        );
    }

    fn land(&mut self, flight: Flight<Pack<JobTask>>, now: Time) -> Landed<Pack<JobTask>, Done> {
        let task = &flight.ticket.task[0].task;
        let job = task.claimed.receipt.job;
        let (until, kind) = self.out[usize::from(flight.ticket.tries.step)];
        let result = if until > now {
            match kind {
                ErrorKind::Auth => Err(Error::new(kind, "no").with_status(401)),
                _ => Err(Error::new(kind, "nobody there").with_unreachable()),
            }
        } else {
            match self.random.below(100) {
                0..10 => Err(Error::new(ErrorKind::Transient, "busy").with_status(503)),
                10..15 => Err(Error::new(ErrorKind::RateLimited, "slow").with_status(429)),
                15..18 => Err(Error::new(ErrorKind::Transient, "reset").with_sent(Sent::Maybe)),
                18..20 => Err(Error::new(ErrorKind::Invalid, "never").with_status(400)),
                _ => Ok(()),
            }
        };
        if result.is_ok() {
            *self.paid.entry(job).or_default() += 1;
        } else if until <= now {
            *self.errors.entry(job).or_default() += 1;
        }
        Landed {
            flight,
            result: result.map(|()| vec![(RawValue::NULL.to_owned(), None)]),
            used: None,
            hints: RateHints::default(),
            fatal: false,
        }
    }

    /// To the next moment at which something can happen.
    fn advance(&mut self) {
        let now = self.clock.now();
        let mut next = now.after(Duration::from_secs(30));
        for life in &self.lives {
            let landings = life.flying.iter().map(|(end, _)| *end);
            let duties = [life.wake.unwrap_or(Time::FAR), life.next_reclaim];
            for at in landings.chain(duties) {
                next = next.min(at.max(life.asleep_until));
            }
        }
        let step = next.since(now).max(Duration::from_millis(1));
        self.clock.advance(step);
    }

    fn check(&self, process: ProcessId, ids: &[crate::JobId]) {
        let mut twice = 0;
        for id in ids {
            let job = self.lives[0].store.job(*id).unwrap().unwrap();
            let key = id.bytes();
            let key = i64::from_be_bytes(key[8..].try_into().unwrap()) & ((1 << 62) - 1);
            let paid = self.paid.get(&key).copied().unwrap_or(0);
            let failures = self.errors.get(&key).copied().unwrap_or(0);
            match job.status {
                JobStatus::Completed => assert!(paid > 0, "{job:?}"),
                JobStatus::Failed => {
                    let kind = job.error.as_ref().unwrap().kind();
                    match kind {
                        ErrorKind::Crashed => assert_eq!(job.crashes, MAX_CRASHES),
                        // An outage fails nobody.
                        ErrorKind::Auth => panic!("{job:?}"),
                        _ => assert!(failures > 0, "{job:?}"),
                    }
                    if kind != ErrorKind::Crashed {
                        assert!(job.attempts >= 1, "{job:?}");
                    }
                }
                other => panic!("{other:?}"),
            }
            twice += u64::from(paid.saturating_sub(1));
        }
        assert!(
            twice <= self.at_risk,
            "{twice} bought twice, {} at risk",
            self.at_risk
        );
        let counts = self.state(process).counts;
        assert_eq!(counts.total, ids.len() as u64);
        let findings = self.lives[0].store.check(self.clock.wall()).unwrap();
        for finding in findings {
            assert!(
                finding.verdict <= super::store::Severity::Note,
                "{finding:?}"
            );
        }
        let _: Timestamp = self.clock.wall();
    }
}

#[test]
fn seeded_lives_and_deaths_keep_every_promise() {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(10_000) / 250,
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let folder = tempfile::tempdir().unwrap();
            Scene::new(seed, folder.path()).run();
        });
        if let Err(panic) = outcome {
            eprintln!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
