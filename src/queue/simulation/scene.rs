//! Seeded schedules of the real dispatcher over the real store, on a clock moved by hand: two workers
//! of two processes, a provider with outages, deaths at any moment, and jobs that wait for others.
//!
//! `SIMULATION_SEED=n cargo test queue::simulation` replays one schedule; of `SIMULATION_SEEDS=n` it
//! runs one in 250: each opens a database several times.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::seeds::{each_seed, seeds};
use crate::base::{
    Clock, Context, Error, ErrorKind, ProcessId, RateHints, Sent, Time, Timestamp, Usd,
};
use crate::engine::dispatch::{Call, Dispatcher, EndedCall, ErrorPolicy, Event, Io, Options, Turn};
use crate::engine::jitter::Jitter;
use crate::engine::limiter::{Limits, QuotaKey};
use crate::engine::pack::Pack;
use crate::engine::route::RetryPolicy;
use crate::engine::run::Reply;
use crate::llm::client::LlmClient;
use crate::llm::outcome::Outcome;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::testing::ManualClock;

use crate::queue::backlog::{Scope, StoreBacklog};
use crate::queue::children::Children;
use crate::queue::handler::{Handler, RunningJob};
use crate::queue::job::{COMPLETION_KIND, Job, JobState, JobStatus, ProcessState, Spent};
use crate::queue::kind::Kind;
use crate::queue::kinds::Kinds;
use crate::queue::purse::Purses;
use crate::queue::settings::WorkerSettings;
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};
use crate::queue::store::{JobStore, MAX_CRASHES};
use crate::queue::task::{Done, JobEnd, JobTask};
use crate::queue::work::{self, StoreWork};

/// Where the time of a job went that was tried more than once.
pub(crate) fn check_time(job: &JobState, now: Timestamp) {
    if let Some(time) = job.time {
        assert!(time.total() <= now.since(job.created_at), "{time:?}");
    }
    let line = job.result.as_ref().map(|result| result.get());
    let Some(outcome) = line.and_then(|line| serde_json::from_str::<Outcome>(line).ok()) else {
        return;
    };
    let total = outcome.time.map(|time| time.total());
    let told = total.is_some() || outcome.attempts <= 1;
    assert!(told, "{line:?}");
    assert!(
        total.is_none_or(|total| total == outcome.latency),
        "{line:?}"
    );
}

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

/// A kind of jobs that wait for prompts.
const GATHER: &str = "gather";

/// Beginning of the names of prompts whose model rejects the key for some time.
const LOCKED: &str = "locked";

/// How many prompts it waits for, and whether it fails when one of them does.
type Gather = (String, u64, bool);

/// A call in flight: when it ends, and what came of it if that is known by then.
type Flight = (Time, Call<Pack<JobTask>>, Option<Reply<Done>>);

/// The store may have finished its part long before the worker receives the reply, or only then.
enum Asked {
    Waits(Io<StoreWork>),
    Answered(Box<Event<StoreWork>>),
}

/// A worker's process.
struct SimulatedWorker {
    dispatcher: Dispatcher<StoreWork>,
    store: Arc<dyn JobStore>,
    in_flight: Vec<Flight>,
    /// A request to the store or its reply, and the time at which the worker receives it.
    io: Vec<(Time, Asked)>,
    asleep_until: Time,
    next_reclaim: Time,
    wake: Option<Time>,
}

fn prompt(name: String, n: u64) -> Job {
    let request = Request::new(&*name).with_model(format!("m{}", n % 3));
    Job::from(request.with_id(name)).priority(1 + (n % 10) as u8)
}

/// Tells how many were answered.
fn gather(job: &RunningJob, children: &Children, _: &Context) -> Result<Option<u64>, Error> {
    let (name, prompts, strict): Gather = job.parse()?;
    let asked = || {
        Ok((0..prompts)
            .map(|n| prompt(format!("{name}-{n}"), n))
            .collect())
    };
    let Some(results) = children.gather("prompts", asked)? else {
        return Ok(None);
    };
    assert_eq!(results.len() as u64, prompts, "it looked too early");
    let answered = results.iter().filter(|result| result.is_success()).count() as u64;
    if strict && answered < prompts {
        Err(Error::new(ErrorKind::Invalid, "one has failed"))
    } else {
        Ok(Some(answered))
    }
}

/// Opens the database once more, as another process would.
type Open = Box<dyn Fn() -> Arc<dyn JobStore>>;

struct Scene {
    random: Random,
    open: Open,
    clock: Arc<ManualClock>,
    workers: Vec<SimulatedWorker>,
    steps: u8,
    slots: usize,
    max_retries: u8,
    /// Until when each step refuses everybody, or cannot be reached.
    out: Vec<(Time, ErrorKind)>,
    /// Until when prompts that are [`LOCKED`] are rejected, and the times at which they were.
    locked: (Time, Vec<Time>),
    /// Answers that were paid for, by item.
    paid: HashMap<String, u32>,
    /// Prompts in flight, or not yet recorded, when their worker crashed.
    at_risk: u64,
    errors: HashMap<String, u32>,
}

impl Scene {
    fn new(seed: u64, open: Open) -> Self {
        let mut random = Random(Jitter(seed));
        let mut scene = Self {
            open,
            clock: Arc::default(),
            workers: Vec::new(),
            steps: 1 + random.below(2) as u8,
            slots: 1 + random.below(6) as usize,
            max_retries: random.below(4) as u8,
            out: vec![(Time::ZERO, ErrorKind::Auth); 2],
            locked: (Time::ZERO, Vec::new()),
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
        let store = (self.open)();
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
        kinds.set(GATHER, Kind::Host(Handler::with_children(gather)));
        let settings = WorkerSettings::default()
            .max_retries(self.max_retries)
            .batch_size(4)
            .poll_interval(Duration::from_secs(1));
        kinds.setup.change(|setup| setup.settings = settings);
        let options = Options {
            concurrency: self.slots,
            retry: RetryPolicy::default(),
            fallback_histories: kinds.fallback_histories.clone(),
            on_error: ErrorPolicy::ContinueOnError,
            deadline: None,
            jitter: Jitter(now.as_nanos()),
            durable: true,
            multi_tenant: true,
            no_shared_fate: false,
        };
        let limiter = kinds.limiter.clone();
        let backlog = StoreBacklog::new(
            store.clone(),
            worker,
            Arc::new(kinds),
            self.clock.clone(),
            Scope::default(),
        );
        let work = StoreWork::new(backlog, None);
        SimulatedWorker {
            dispatcher: Dispatcher::new(work, limiter, options),
            store,
            in_flight: Vec::new(),
            io: Vec::new(),
            asleep_until: Time::ZERO,
            next_reclaim: Time::ZERO,
            wake: None,
        }
    }

    fn run(mut self) {
        let jobs = 5 + self.random.below(40);
        let (process, parents) = (ProcessId::new(), ProcessId::new());
        let all: Vec<Job> = (0..jobs).map(|n| prompt(format!("j-{n}"), n)).collect();
        let gathers = 1 + self.random.below(3);
        let gather = |n| {
            let of = (
                format!("p{n}"),
                self.random.below(8),
                self.random.chance(50),
            );
            let priority = 1 + self.random.below(10) as u8;
            let job = Job::new(GATHER, &of).unwrap();
            job.item_id(of.0).priority(priority)
        };
        let gathers: Vec<Job> = (0..gathers).map(gather).collect();
        let insert = |process, jobs| {
            let store = &self.workers[0].store;
            store
                .insert(process, jobs, true, self.clock.wall())
                .unwrap()
        };
        let ids = [insert(process, all), insert(parents, gathers)];
        let mut deaths = self.random.below(6);
        let mut cancels = self.random.chance(30);
        let mut put_back = true;
        // Claims without the lock take more rounds in the same time, and no time would be left without an outage.
        let mut outages = 50;
        for round in 0.. {
            assert!(round < 20_000, "it does not end: {:?}", self.processes());
            for at in 0..2 {
                self.turn(at);
            }
            if self
                .processes()
                .iter()
                .all(|process| process.counts.is_finished())
            {
                if !std::mem::take(&mut put_back) {
                    break;
                }
                // What has failed or was cancelled once more; what was answered is not asked again.
                let wall = self.clock.wall();
                self.workers[0].store.retry_failed(parents, wall).unwrap();
            }
            if cancels && self.random.chance(3) {
                cancels = false;
                let wall = self.clock.wall();
                self.workers[1].store.cancel(parents, wall).unwrap();
            }
            self.advance();
            if outages > 0 && self.random.chance(3) {
                outages -= 1;
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
                let worker = &self.workers[at];
                let prompts = worker.in_flight.iter();
                let prompts = prompts.filter(|(_, call, _)| !is_gather(call)).count();
                // Answers that are not yet recorded in the store.
                let held = worker.dispatcher.counters().in_flight;
                self.at_risk += (prompts + held - worker.in_flight.len()) as u64;
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
        self.check([process, parents], &ids);
    }

    fn state(&self, process: ProcessId) -> ProcessState {
        self.workers[0].store.process(process).unwrap().unwrap()
    }

    fn processes(&self) -> Vec<ProcessState> {
        self.workers[0].store.processes().unwrap()
    }

    /// What a worker does in an instant: ends of calls, a turn, maintenance.
    fn turn(&mut self, at: usize) {
        let now = self.clock.now();
        if self.workers[at].asleep_until > now {
            return;
        }
        let in_flight = std::mem::take(&mut self.workers[at].in_flight);
        let (next_end, in_flight): (Vec<_>, Vec<_>) =
            in_flight.into_iter().partition(|(end, ..)| *end <= now);
        self.workers[at].in_flight = in_flight;
        for (_, call, reply) in next_end {
            let ended = if is_gather(&call) {
                let Reply {
                    result,
                    paid,
                    hints,
                    fatal,
                } = match reply {
                    Some(reply) => reply,
                    None => self.look(at, &call),
                };
                EndedCall {
                    call,
                    result,
                    used: paid.tokens(),
                    hints,
                    fatal,
                }
            } else {
                self.end_call(call, now)
            };
            self.workers[at]
                .dispatcher
                .handle(Event::CallEnded(ended), now);
        }
        let worker = &mut self.workers[at];
        let replies = worker.io.extract_if(.., |(at, _)| *at <= now);
        for (_, asked) in replies.collect::<Vec<_>>() {
            let event = match asked {
                Asked::Waits(io) => io.run(),
                Asked::Answered(event) => *event,
            };
            worker.dispatcher.handle(event, now);
        }
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
        for io in worker.dispatcher.take_io() {
            let took = Duration::from_millis(self.random.below(300));
            let asked = if self.random.chance(50) {
                Asked::Answered(Box::new(io.run()))
            } else {
                Asked::Waits(io)
            };
            worker.io.push((now.after(took), asked));
        }
        for call in start {
            let took = Duration::from_millis(1 + self.random.below(3000));
            // It may have done its part, and die before that is recorded.
            let early = is_gather(&call) && self.random.chance(50);
            let reply = early.then(|| self.look(at, &call));
            self.workers[at]
                .in_flight
                .push((now.after(took), call, reply));
        }
        let worker = &self.workers[at];
        assert!(
            worker.in_flight.len() <= self.slots,
            "more calls than slots"
        );
        let suspects = worker.in_flight.iter();
        let suspects =
            suspects.filter(|(_, call, _)| call.ticket.task[0].task.claimed.crashes >= 2);
        assert!(
            suspects.count() == 0 || worker.in_flight.len() == 1,
            "a suspect had neighbours"
        );
    }

    /// Calls the handler of a job that waits for others.
    fn look(&self, at: usize, call: &Call<Pack<JobTask>>) -> Reply<Done> {
        let store: Arc<dyn JobStore> = self.workers[at].store.clone();
        let clock: Arc<dyn Clock> = self.clock.clone();
        let purses = Purses::new(store.clone(), clock.clone());
        work::call(&store, &call.ticket, &Context::new(), &clock, None, &purses)
    }

    fn end_call(&mut self, call: Call<Pack<JobTask>>, now: Time) -> EndedCall<Pack<JobTask>, Done> {
        let task = &call.ticket.task[0].task;
        let item = task.claimed.item_id.clone().unwrap();
        let (mut until, mut kind) = self.out[usize::from(call.ticket.tries.step)];
        if item.starts_with(LOCKED) && now < self.locked.0 {
            (until, kind) = (self.locked.0, ErrorKind::Auth);
            self.locked.1.push(now);
        }
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
            *self.paid.entry(item).or_default() += 1;
        } else if until <= now {
            *self.errors.entry(item).or_default() += 1;
        }
        let spent = Spent {
            input_tokens: 1,
            output_tokens: 0,
            cost_usd: Some(Usd::from_picos(1)),
            unpriced: 0,
        };
        EndedCall {
            call,
            result: result
                .map(|()| vec![JobEnd::Result(RawValue::NULL.to_owned(), Some(spent), None)]),
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
            let ends = worker.in_flight.iter().map(|(end, ..)| *end);
            let ends = ends.chain(worker.io.iter().map(|(at, _)| *at));
            let duties = [worker.wake.unwrap_or(Time::FAR), worker.next_reclaim];
            for at in ends.chain(duties) {
                next = next.min(at.max(worker.asleep_until));
            }
        }
        let step = next.since(now).max(Duration::from_millis(1));
        self.clock.advance(step);
    }

    fn check(&self, [process, parents]: [ProcessId; 2], ids: &[Vec<crate::JobId>; 2]) {
        let mut answered = 0;
        for id in ids.iter().flatten() {
            let job = self.workers[0].store.job(*id).unwrap().unwrap();
            let item = job.item_id.as_deref().unwrap();
            let paid = self.paid.get(item).copied().unwrap_or(0);
            let failures = self.errors.get(item).copied().unwrap_or(0);
            let gathers = job.kind == GATHER;
            check_time(&job, self.clock.wall());
            match job.status {
                JobStatus::Completed if gathers => {
                    let told = job.result.as_ref().unwrap().get();
                    answered += told.parse::<u64>().unwrap();
                }
                JobStatus::Completed => {
                    assert!(paid > 0, "{job:?}");
                    answered += 1;
                }
                JobStatus::Failed => {
                    let kind = job.error.as_ref().unwrap().kind();
                    match kind {
                        ErrorKind::Crashed => assert_eq!(job.crashes, MAX_CRASHES),
                        // An outage fails nobody.
                        ErrorKind::Auth => panic!("{job:?}"),
                        _ => assert!(gathers || failures > 0, "{job:?}"),
                    }
                    if kind != ErrorKind::Crashed && !gathers {
                        assert!(job.attempts >= 1, "{job:?}");
                    }
                }
                // Cancelled again after it was put back.
                JobStatus::Cancelled if gathers => {}
                other => panic!("{other:?}"),
            }
        }
        let twice: u64 = self.paid.values().map(|paid| u64::from(paid - 1)).sum();
        assert!(
            twice <= self.at_risk,
            "{twice} bought twice, {} at risk",
            self.at_risk
        );
        // What was used is counted once: with a parent that has ended, or still with what it waited for.
        let all = self.processes();
        let children = all.iter().filter(|process| process.info.parent.is_some());
        answered += children
            .map(|process| process.counts.completed)
            .sum::<u64>();
        let tokens: u64 = all.iter().map(|process| process.spent.input_tokens).sum();
        assert_eq!(tokens, answered, "{all:?}");
        let costs = all.iter().filter_map(|process| process.spent.cost_usd);
        assert_eq!(costs.sum::<Usd>(), Usd::from_picos(answered));
        for (process, ids) in [process, parents].into_iter().zip(ids) {
            let state = self.state(process);
            assert_eq!(state.counts.total, ids.len() as u64);
            let time = state.time;
            assert_eq!(time.split.total(), time.until.since(time.since));
            assert!(time.since >= state.created_at && time.until >= state.changed_at);
        }
        let findings = self.workers[0].store.check(self.clock.wall()).unwrap();
        for finding in findings {
            assert!(
                finding.verdict <= crate::queue::store::Severity::Note,
                "{finding:?}"
            );
        }
    }
}

fn is_gather(call: &Call<Pack<JobTask>>) -> bool {
    matches!(*call.ticket.task[0].task.kind, Kind::Host(_))
}

/// Runs these schedules, each on a new database.
pub(crate) fn run_seeds(every: u64, new: impl Fn() -> Open + Sync + std::panic::RefUnwindSafe) {
    let count = seeds().unwrap_or(3_000) / every;
    each_seed(count, |seed| Scene::new(seed, new()).run());
}

#[test]
fn seeded_lives_and_deaths_keep_every_promise() {
    run_seeds(250, || {
        let folder = tempfile::tempdir().unwrap();
        Box::new(move || {
            let path = folder.path().join("jobs.db");
            let store = SqliteStore::open(path, SqliteOptions::default());
            Arc::new(store.unwrap())
        })
    });
}

#[test]
fn one_job_at_a_time_probes_a_model_for_which_the_key_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let open = move || -> Arc<dyn JobStore> {
        let path = folder.path().join("jobs.db");
        Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap())
    };
    let mut scene = Scene::new(1, Box::new(open));
    (scene.steps, scene.slots) = (1, 6);
    scene.workers = vec![scene.start_worker()];
    let unlocked = Time::ZERO.after(Duration::from_secs(65));
    scene.locked.0 = unlocked;
    let [rejected, others] = [(LOCKED, 0), ("free", 1)].map(|(name, model)| {
        let jobs = (0..30).map(|n| prompt(format!("{name}-{n}"), model));
        let process = ProcessId::new();
        let wall = scene.clock.wall();
        let store = &scene.workers[0].store;
        store.insert(process, jobs.collect(), true, wall).unwrap();
        process
    });
    let mut others_ended = None;
    while !scene.state(rejected).counts.is_finished() {
        scene.turn(0);
        let now = scene.clock.now();
        if others_ended.is_none() && scene.state(others).counts.is_finished() {
            others_ended = Some(now);
        }
        scene.advance();
    }
    assert!(
        others_ended.is_some_and(|end| end < unlocked),
        "{others_ended:?}"
    );
    // Those that were in flight at the first rejection, and then one call every 10 seconds.
    let rejections = &scene.locked.1;
    let first = rejections[0].after(Duration::from_secs(9));
    let probes: Vec<Time> = rejections
        .iter()
        .copied()
        .filter(|at| *at > first)
        .collect();
    assert!((3..=6).contains(&probes.len()), "{probes:?}");
    for pair in probes.windows(2) {
        assert!(
            pair[1].since(pair[0]) >= Duration::from_secs(10),
            "{probes:?}"
        );
    }
    assert_eq!(
        scene.state(rejected).counts.completed + scene.state(rejected).counts.failed,
        30
    );
}
