//! The workers, the provider and the clock of a simulated schedule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind, JobId, ProcessId, RateHints, Sent, Time, Usd};
use crate::engine::dispatch::{Call, Dispatcher, EndedCall, ErrorPolicy, Event, Io, Options, Turn};
use crate::engine::limiter::{Limits, QuotaKey};
use crate::engine::route::RetryPolicy;
use crate::engine::run;
use crate::engine::run::Reply;
use crate::llm::client::LlmClient;
use crate::llm::pack::Pack;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::backlog::StoreBacklog;
use crate::queue::controls::{Controls, Scope};
use crate::queue::handler::{Children, Handler, RunningJob};
use crate::queue::job::{COMPLETION_KIND, Job, ProcessState, Spent};
use crate::queue::kind::{Done, JobEnd, JobTask, Kind};
use crate::queue::kinds::{Kinds, WorkerSettings};
use crate::queue::store::Store;
use crate::queue::work;
use crate::queue::work::StoreWork;
use crate::testing::ManualClock;

impl Kinds {
    /// Adds or replaces a kind.
    pub(crate) fn set(&self, name: &str, kind: Kind) {
        self.setup.change(|setup| setup.set_kind(name, kind));
    }

    /// Sends prompts through this route.
    pub(crate) fn set_prompts(&self, route: Route<'static>) {
        let kind = Kind::Prompts {
            route: Arc::new(route),
            task: RequestTask::Complete,
            call: None,
        };
        self.set(COMPLETION_KIND, kind);
    }
}

/// Never called: answers come from the schedule.
pub(crate) struct NamedClient(pub(crate) u8);

impl LlmClient for NamedClient {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        unreachable!("the schedule answers")
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        let model = request.model.as_deref().unwrap_or_default();
        QuotaKey::new(&[&self.0.to_string(), model])
    }
}

/// A kind of jobs that wait for prompts.
pub(super) const GATHER: &str = "gather";

/// Beginning of the names of prompts whose model rejects the key for some time.
pub(super) const LOCKED: &str = "locked";

/// Its name, the number of prompts that it waits for, and whether it fails if one of them fails.
type Gather = (String, u64, bool);

/// A call in flight: the time of its end, and its reply if it is known by then.
type Flight = (Time, Call<Pack<JobTask>>, Option<Reply<Done>>);

/// A request to the store. The store may perform it at once, or only when the worker receives the reply.
enum Asked {
    Waits(Io<StoreWork>),
    Answered(Box<Event<StoreWork>>),
}

/// A worker in its own OS process.
pub(super) struct SimulatedWorker {
    dispatcher: Dispatcher<StoreWork>,
    pub(super) store: Arc<Store>,
    in_flight: Vec<Flight>,
    /// A request to the store or its reply, and the time at which the worker receives it.
    io: Vec<(Time, Asked)>,
    asleep_until: Time,
    next_reclaim: Time,
    wake: Option<Time>,
}

/// A prompt for one of 3 models.
pub(super) fn prompt(name: String, n: u64) -> Job {
    let request = Request::new(&*name).with_model(format!("m{}", n % 3));
    Job::from(request.with_id(name)).priority(1 + (n % 10) as u8)
}

/// Sends the prompts of a [`GATHER`] job and returns how many were answered.
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

/// Opens the database once more, as another OS process would.
pub(crate) type Open = Box<dyn Fn() -> Arc<Store>>;

pub(super) struct Scene {
    pub(super) random: Random,
    open: Open,
    pub(super) clock: Arc<ManualClock>,
    pub(super) workers: Vec<SimulatedWorker>,
    pub(super) steps: u8,
    pub(super) slots: usize,
    max_retries: u8,
    /// Until when each step of the route rejects all calls, or cannot be reached.
    out: Vec<(Time, ErrorKind)>,
    /// Until when prompts that are [`LOCKED`] are rejected, and the times at which they were.
    pub(super) locked: (Time, Vec<Time>),
    /// Answers that were paid for, by item.
    pub(super) paid: HashMap<String, u32>,
    /// Prompts in flight, or not yet recorded, when their worker crashed.
    pub(super) at_risk: u64,
    pub(super) errors: HashMap<String, u32>,
}

impl Scene {
    pub(super) fn new(seed: u64, open: Open) -> Self {
        let mut random = Random(seed);
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

    pub(super) fn start_worker(&mut self) -> SimulatedWorker {
        let store = (self.open)();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        store.reclaim(wall).unwrap();
        let limits = Limits::default().burst(3);
        let mut route = Route::limited(NamedClient(0), limits).clock(self.clock.clone());
        for step in 1..self.steps {
            route = route.then(NamedClient(step), limits);
        }
        let settings = WorkerSettings::default()
            .max_retries(self.max_retries)
            .batch_size(4)
            .poll_interval(Duration::from_secs(1));
        let options = (settings, self.slots, now.as_nanos());
        SimulatedWorker {
            dispatcher: dispatcher(&store, route, &self.clock, options),
            store,
            in_flight: Vec::new(),
            io: Vec::new(),
            asleep_until: Time::ZERO,
            next_reclaim: Time::ZERO,
            wake: None,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.workers[0].store
    }

    pub(super) fn insert(&self, process: ProcessId, jobs: Vec<Job>) -> Vec<JobId> {
        let inserted = self.store().insert(process, jobs, true, self.clock.wall());
        inserted.unwrap()
    }

    pub(super) fn state(&self, process: ProcessId) -> ProcessState {
        self.store().process(process).unwrap().unwrap()
    }

    pub(super) fn processes(&self) -> Vec<ProcessState> {
        self.store().open_processes().unwrap()
    }

    /// A job that waits for prompts.
    pub(super) fn gather(&mut self, n: u64) -> Job {
        let name = format!("p{n}");
        let gather: Gather = (name.clone(), self.random.below(8), self.random.chance(50));
        let priority = 1 + self.random.below(10) as u8;
        let job = Job::new(GATHER, &gather).unwrap();
        job.item_id(name).priority(priority)
    }

    /// A step of the route rejects all calls for some time, or cannot be reached.
    pub(super) fn begin_outage(&mut self) {
        let step = self.random.below(self.steps.into()) as usize;
        let kind = [ErrorKind::Auth, ErrorKind::Transient][self.random.below(2) as usize];
        let lasts = Duration::from_secs(self.random.below(200));
        self.out[step] = (self.clock.now().after(lasts), kind);
    }

    /// A worker crashes, and another one starts.
    pub(super) fn crash(&mut self) {
        let at = self.random.below(2) as usize;
        let worker = &self.workers[at];
        let prompts = worker.in_flight.iter();
        let prompts = prompts.filter(|(_, call, _)| !is_gather(call)).count();
        // Answers that are not yet recorded in the store.
        let held = worker.dispatcher.counters.in_flight;
        self.at_risk += (prompts + held - worker.in_flight.len()) as u64;
        // Dropping it releases its locks, as the kernel does for a killed process.
        self.workers.remove(at);
        let worker = self.start_worker();
        self.workers.insert(at, worker);
    }

    /// A worker does nothing for up to 20 seconds.
    pub(super) fn suspend(&mut self) {
        let at = self.random.below(2) as usize;
        let nap = Duration::from_millis(self.random.below(20_000));
        self.workers[at].asleep_until = self.clock.now().after(nap);
    }

    /// One step of a worker: ends of calls, replies of the store, maintenance, new calls.
    pub(super) fn turn(&mut self, at: usize) {
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
                let reply = reply.unwrap_or_else(|| self.call_handler(at, &call));
                Event::CallEnded(run::ended(call, reply))
            } else {
                self.end_call(call, now)
            };
            self.workers[at].dispatcher.handle(ended, now);
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
            // The handler may end long before the worker records it, or crashes.
            let early = is_gather(&call) && self.random.chance(50);
            let reply = early.then(|| self.call_handler(at, &call));
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
        let suspects = suspects.filter(|(_, call, _)| call.ticket.task[0].claimed.crashes >= 2);
        assert!(
            suspects.count() == 0 || worker.in_flight.len() == 1,
            "a suspect had neighbours"
        );
    }

    /// Calls the handler of a job that waits for others.
    fn call_handler(&self, at: usize, call: &Call<Pack<JobTask>>) -> Reply<Done> {
        let backlog = &self.workers[at].dispatcher.work.backlog;
        work::call(&backlog.controls, &call.ticket, &Context::new())
    }

    fn end_call(&mut self, call: Call<Pack<JobTask>>, now: Time) -> Event<StoreWork> {
        let task = &call.ticket.task[0];
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
        ended(call, result, RateHints::default())
    }

    /// Moves the clock to the next event.
    pub(super) fn advance(&mut self) {
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
}

/// The dispatcher of a new worker, which continues after every error, with its settings, slots and seed.
pub(crate) fn dispatcher(
    store: &Arc<Store>,
    route: Route<'static>,
    clock: &Arc<ManualClock>,
    (settings, slots, seed): (WorkerSettings, usize, u64),
) -> Dispatcher<StoreWork> {
    let kinds = Kinds::new(Some(&route));
    kinds.set_prompts(route);
    kinds.set(GATHER, Kind::Host(Handler::with_children(gather)));
    kinds.setup.change(|setup| setup.settings = settings);
    let (worker, scope) = (store.register_worker().unwrap(), Scope::default());
    let (controls, _) = Controls::new(store.clone(), kinds, clock.clone());
    controls.register(worker);
    let controls = Arc::new(controls);
    let backlog = StoreBacklog::new(controls.clone(), scope);
    let options = Options {
        concurrency: slots,
        retry: RetryPolicy::default(),
        on_error: ErrorPolicy::ContinueOnError,
        deadline: None,
        jitter: Random(seed),
        durable: true,
        multi_tenant: true,
        no_shared_fate: false,
    };
    let work = StoreWork::new(backlog, None);
    Dispatcher::new(work, controls.kinds.limiter.clone(), options)
}

/// The end of a call, whose answer cost one token and one picodollar.
pub(crate) fn ended(
    call: Call<Pack<JobTask>>,
    result: Result<(), Error>,
    hints: RateHints,
) -> Event<StoreWork> {
    let spent = Spent {
        input_tokens: 1,
        cost_usd: Some(Usd::from_picos(1)),
        ..Spent::default()
    };
    let answer = JobEnd::Result(RawValue::NULL.to_owned(), Some(spent), None);
    Event::CallEnded(EndedCall {
        call,
        result: result.map(|()| vec![answer]),
        used: None,
        hints,
        fatal: false,
    })
}

fn is_gather(call: &Call<Pack<JobTask>>) -> bool {
    matches!(*call.ticket.task[0].kind, Kind::Host(_))
}
