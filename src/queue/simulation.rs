//! Seeded schedules of the real dispatcher over the real store, on a clock moved by hand: two workers
//! of two processes, a provider with outages, and deaths at any moment.
//!
//! `SIMULATION_SEED=n cargo test queue::simulation` replays one schedule; of `SIMULATION_SEEDS=n` it
//! runs one in 250: each opens a database several times.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time, Timestamp};
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::RateHints;
use crate::base::id::ProcessId;
use crate::engine::dispatch::{Call, Dispatcher, EndedCall, ErrorPolicy, Event, Options, Turn};
use crate::engine::jitter::Jitter;
use crate::engine::limiter::{Limits, QuotaKey};
use crate::engine::pack::Pack;
use crate::engine::route::RetryPolicy;
use crate::llm::client::LlmClient;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::testing::ManualClock;

use super::backlog::{Scope, StoreBacklog};
use super::job::{COMPLETION_KIND, Job, JobStatus};
use super::kind::Kind;
use super::kinds::Kinds;
use super::settings::WorkerSettings;
use super::store::sqlite::{SqliteOptions, SqliteStore};
use super::store::{JobStore, MAX_CRASHES};
use super::task::{Done, JobEnd, JobTask};
use super::work::StoreWork;

/// Never called: answers come from the schedule.
struct NamedClient(u8);

impl LlmClient for NamedClient {
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
struct SimulatedWorker {
    dispatcher: Dispatcher<StoreWork>,
    store: Arc<SqliteStore>,
    in_flight: Vec<(Time, Call<Pack<JobTask>>)>,
    asleep_until: Time,
    next_reclaim: Time,
    wake: Option<Time>,
}

struct Scene {
    random: Random,
    path: PathBuf,
    clock: Arc<ManualClock>,
    workers: Vec<SimulatedWorker>,
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
            workers: Vec::new(),
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
            let worker = scene.start_worker();
            scene.workers.push(worker);
        }
        scene
    }

    fn start_worker(&mut self) -> SimulatedWorker {
        let store = Arc::new(SqliteStore::open(&self.path, SqliteOptions::default()).unwrap());
        let (now, wall) = (self.clock.now(), self.clock.wall());
        store.reclaim(wall).unwrap();
        let worker = store.register_worker(wall).unwrap();
        let limits = Limits::default().burst(3);
        let mut route = Route::limited(NamedClient(0), limits).clock(self.clock.clone());
        for step in 1..self.steps {
            route = route.then(NamedClient(step), limits);
        }
        let kinds = Kinds::new(Some(&route));
        let kind = Kind::Prompts {
            route: Arc::new(route),
            task: RequestTask::Complete,
            call: None,
        };
        kinds.set(COMPLETION_KIND, kind);
        let settings = WorkerSettings::default()
            .max_retries(self.max_retries)
            .batch_size(4)
            .poll_interval(Duration::from_secs(1));
        kinds.setup.change(|setup| setup.settings = settings);
        let options = Options {
            concurrency: self.slots,
            retry: RetryPolicy::default(),
            trails: kinds.trails.clone(),
            on_error: ErrorPolicy::ContinueOnError,
            deadline: None,
            jitter: Jitter(now.as_nanos()),
            durable: true,
            of_many: true,
            independent: false,
        };
        let limiter = kinds.limiter.clone();
        let backlog = StoreBacklog::new(
            store.clone(),
            worker,
            Arc::new(kinds),
            self.clock.clone(),
            Scope::default(),
        );
        SimulatedWorker {
            dispatcher: Dispatcher::new(StoreWork::new(backlog), limiter, options),
            store,
            in_flight: Vec::new(),
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
        let ids = self.workers[0]
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
                self.at_risk += self.workers[at].in_flight.len() as u64;
                // Dropped without a word: its locks go with it, as those of a killed process.
                self.workers.remove(at);
                let worker = self.start_worker();
                self.workers.insert(at, worker);
            }
            if self.random.chance(3) {
                let at = self.random.below(2) as usize;
                let nap = Duration::from_millis(self.random.below(20_000));
                self.workers[at].asleep_until = self.clock.now().after(nap);
            }
        }
        self.check(process, &ids);
    }

    fn state(&self, process: ProcessId) -> super::job::ProcessState {
        self.workers[0].store.process(process).unwrap().unwrap()
    }

    /// What a worker does in an instant: ends of calls, a turn, maintenance.
    fn turn(&mut self, at: usize) {
        let now = self.clock.now();
        if self.workers[at].asleep_until > now {
            return;
        }
        let in_flight = std::mem::take(&mut self.workers[at].in_flight);
        let (next_end, in_flight): (Vec<_>, Vec<_>) =
            in_flight.into_iter().partition(|(end, _)| *end <= now);
        self.workers[at].in_flight = in_flight;
        for (_, call) in next_end {
            let ended = self.end_call(call, now);
            self.workers[at]
                .dispatcher
                .handle(Event::CallEnded(ended), now);
        }
        let worker = &mut self.workers[at];
        if worker.next_reclaim <= now {
            worker.next_reclaim = now.after(Duration::from_millis(500));
            worker.store.reclaim(self.clock.wall()).unwrap();
            while worker.store.maintain(self.clock.wall()).unwrap() {}
        }
        let mut start = Vec::new();
        match worker.dispatcher.turn(now, &mut start) {
            Turn::Wait(until) => worker.wake = until,
            Turn::Finished => panic!("stopped: {:?}", worker.dispatcher.stop_reason()),
        }
        for call in start {
            let took = Duration::from_millis(1 + self.random.below(3000));
            self.workers[at].in_flight.push((now.after(took), call));
        }
        let worker = &self.workers[at];
        assert!(
            worker.in_flight.len() <= self.slots,
            "more calls than slots"
        );
        let suspects = worker.in_flight.iter();
        let suspects = suspects.filter(|(_, call)| call.ticket.task[0].task.claimed.crashes >= 2);
        assert!(
            suspects.count() == 0 || worker.in_flight.len() == 1,
            "a suspect had neighbours"
        );
    }

    fn end_call(&mut self, call: Call<Pack<JobTask>>, now: Time) -> EndedCall<Pack<JobTask>, Done> {
        let task = &call.ticket.task[0].task;
        let job = task.claimed.receipt.job;
        let (until, kind) = self.out[usize::from(call.ticket.tries.step)];
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
        EndedCall {
            call,
            result: result.map(|()| vec![JobEnd::Result(RawValue::NULL.to_owned(), None)]),
            used: None,
            hints: RateHints::default(),
            fatal: false,
        }
    }

    /// To the next moment at which something can happen.
    fn advance(&mut self) {
        let now = self.clock.now();
        let mut next = now.after(Duration::from_secs(30));
        for worker in &self.workers {
            let ends = worker.in_flight.iter().map(|(end, _)| *end);
            let duties = [worker.wake.unwrap_or(Time::FAR), worker.next_reclaim];
            for at in ends.chain(duties) {
                next = next.min(at.max(worker.asleep_until));
            }
        }
        let step = next.since(now).max(Duration::from_millis(1));
        self.clock.advance(step);
    }

    fn check(&self, process: ProcessId, ids: &[crate::JobId]) {
        let mut twice = 0;
        for id in ids {
            let job = self.workers[0].store.job(*id).unwrap().unwrap();
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
        let findings = self.workers[0].store.check(self.clock.wall()).unwrap();
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
