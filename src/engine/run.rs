//! The shell that turns the dispatcher with real threads.
//!
//! A fixed pool takes calls from one bounded channel and each thread makes one at a time. Whoever ends a
//! call hands it over and, if the lock is free, settles all that queued up and starts what is
//! runnable; if it is not free, its holder looks again before it lets go. The caller's thread waits
//! for time, source, cancellation and the end. Calls never block on the lock, and the channel has
//! room for every permit, so no send blocks under it.

use std::any::Any;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time};
use crate::base::error::{Error, ErrorKind};
use crate::base::hints::RateHints;

use super::dispatch::{Call, Dispatcher, EndedCall, Event, Io, StopReason, Turn};
use super::work::{Settled, Ticket, Work};

mod watch;

use watch::{Pool, wait_out, wakes};

/// More threads than this are a slip of the finger, not a plan.
pub(crate) const MOST_THREADS: usize = 10_000;
/// How often progress is told.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Threads that a run starts with which may make more calls at once than it needs.
const FIRST_THREADS: usize = 8;
/// Items read ahead of calls that may never be made at once would be memory for nothing.
const MOST_AHEAD: usize = 128;

/// How many calls a run makes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallsAtOnce {
    /// Threads at the start.
    pub threads: usize,
    pub most: usize,
}

impl CallsAtOnce {
    pub(crate) fn exactly(calls: usize) -> Self {
        Self {
            threads: calls,
            most: calls,
        }
    }

    /// As many as limits allow.
    pub(crate) fn up_to(most: usize) -> Self {
        let threads = most.min(FIRST_THREADS);
        Self { threads, most }
    }

    /// Items that are read before there is a call for them.
    pub(crate) fn read_ahead(self) -> usize {
        let ahead = self.most.clamp(1, MOST_THREADS) * 2;
        if self.threads == self.most {
            ahead
        } else {
            ahead.min(MOST_AHEAD)
        }
    }
}

/// Why a number of calls in flight is not possible.
pub(crate) fn bad_concurrency(concurrency: usize) -> Option<String> {
    (!(1..=MOST_THREADS).contains(&concurrency))
        .then(|| format!("the concurrency must be from 1 to {MOST_THREADS}, not {concurrency}"))
}

/// What one call brought.
pub(crate) struct Reply<D> {
    pub result: Result<D, Error>,
    /// Tokens used by this call for input and output, if the reply told.
    pub used: Option<(u64, u64)>,
    pub hints: RateHints,
    pub fatal: bool,
}

impl<D> Reply<D> {
    pub(crate) fn map<E>(self, made: impl FnOnce(D) -> E) -> Reply<E> {
        Reply {
            result: self.result.map(made),
            used: self.used,
            hints: self.hints,
            fatal: self.fatal,
        }
    }
}

impl<D> From<Error> for Reply<D> {
    fn from(error: Error) -> Self {
        Self {
            used: error.paid().tokens(),
            hints: error.rate_hints(),
            result: Err(error),
            fatal: false,
        }
    }
}

/// Makes one call; asked by many threads at once.
pub(crate) trait Runner<T, D>: Sync {
    fn call(&self, ticket: &Ticket<T>, ctx: &Context) -> Reply<D>;
}

/// Wakes the thread that waits in [`run`].
#[derive(Clone)]
pub(crate) struct Waker(Sender<()>);

impl Waker {
    pub(crate) fn new() -> (Self, Receiver<()>) {
        let (tx, rx) = bounded(1);
        (Self(tx), rx)
    }

    pub(crate) fn wake(&self) {
        // A wake-up that is already waiting serves for this one too.
        let _ = self.0.try_send(());
    }
}

/// Outcomes for the caller's thread, whose permits return once they were taken.
pub(crate) struct Outlet<'a, O> {
    pub outcomes: Receiver<O>,
    pub sink: &'a mut dyn FnMut(O) -> ControlFlow<()>,
}

/// Takes a picture of the run under the lock, where it may stop it too, and shows it without.
pub(crate) struct Observer<'a, W: Work, S> {
    pub look: &'a dyn Fn(&mut Dispatcher<W>, Time) -> S,
    pub show: &'a mut dyn FnMut(S),
}

/// How a run ended.
pub(crate) struct Finish<W: Work> {
    pub dispatcher: Dispatcher<W>,
    /// Outcomes that could not be settled although all was tried.
    pub lost: Vec<Settled<W::Task, W::Done>>,
}

/// Permits that may become more or fewer.
#[derive(Clone, Copy)]
pub(crate) struct Permits<'a> {
    pub now: &'a AtomicUsize,
    /// There are never more.
    pub most: usize,
}

/// Surroundings of a run.
pub(crate) struct RunSetup<'a> {
    pub ctx: &'a Context,
    pub clock: &'a dyn Clock,
    pub threads: usize,
    /// More are started one by one as calls need them, up to this many.
    pub most_threads: usize,
    /// A number of permits that changes while the run goes on; whoever changes it pulls the waker.
    pub permits: Option<Permits<'a>>,
    pub waker: Waker,
    pub woken: Receiver<()>,
    /// How often the observer looks.
    pub tick: Duration,
    /// Whether it looks at the end of each call, too. Calls that end while it looks share the next look.
    pub every_call: bool,
}

struct State<W: Work> {
    dispatcher: Dispatcher<W>,
    start: Vec<Call<W::Task>>,
    tasks: Option<Outgoing<W>>,
    wake_at: Option<Time>,
    /// Everything was tried to settle; what cannot be goes back to the caller.
    giving_up: bool,
    lost: Vec<Settled<W::Task, W::Done>>,
}

/// Channels to the threads. The threads end when the channels are closed.
struct Outgoing<W: Work> {
    calls: Sender<Call<W::Task>>,
    /// If the work has a store, each channel has a separate thread.
    settles: Sender<Io<W>>,
    takes: Sender<Io<W>>,
}

struct Shell<'a, W: Work> {
    state: Mutex<State<W>>,
    post: Sender<Event<W>>,
    inbox: Receiver<Event<W>>,
    clock: &'a dyn Clock,
    ctx: &'a Context,
    /// What all calls have in common.
    calls: &'a Context,
    /// The contexts of calls that may be given up on, by their numbers.
    own: Mutex<HashMap<u64, Context>>,
    waker: Waker,
    /// What the caller's thread waits for, in nanoseconds; it is woken for anything earlier.
    waits_for: AtomicU64,
    /// Threads that the calls in flight need.
    needed: AtomicUsize,
    /// Calls that have ended, where each is to be looked at.
    ended: Option<AtomicU64>,
}

impl<W: Work> Shell<'_, W> {
    /// The context of a call that may be given up on. Whoever asks first makes it: a call may be given
    /// up on before its thread has come to it.
    fn context_of(&self, number: u64) -> Context {
        let mut own = self.own.lock();
        own.entry(number)
            .or_insert_with(|| self.calls.for_calls())
            .clone()
    }

    fn end_io(&self, event: Event<W>) {
        let _ = self.post.send(event);
        self.turn();
    }

    fn end_call(&self, event: Event<W>) {
        self.end_io(event);
        if let Some(ended) = &self.ended {
            ended.fetch_add(1, Ordering::SeqCst);
            self.waker.wake();
        }
    }

    /// Calls that have ended, where each is to be looked at.
    fn calls_ended(&self) -> Option<u64> {
        let ended = self.ended.as_ref()?;
        Some(ended.load(Ordering::SeqCst))
    }

    fn turn(&self) {
        loop {
            // Either the holder of the lock sees our event, or we find the lock free: the fences
            // forbid that both miss.
            fence(Ordering::SeqCst);
            let Some(mut state) = self.state.try_lock() else {
                return;
            };
            self.turn_locked(&mut state);
            drop(state);
            fence(Ordering::SeqCst);
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    fn turn_locked(&self, state: &mut State<W>) {
        if state.tasks.is_none() {
            while self.inbox.try_recv().is_ok() {}
            return;
        }
        let now = self.clock.now();
        // Asked first: a call that was ended by us must not end as if it had failed, and none may
        // start after a cancel, however late the caller's thread wakes.
        if self.ctx.is_cancelled() {
            let stop = Event::Stop(StopReason::Cancelled);
            state.dispatcher.handle(stop, now);
        }
        while let Ok(event) = self.inbox.try_recv() {
            if let Event::CallEnded(ended) = &event
                && ended.call.may_leave
            {
                self.own.lock().remove(&ended.call.number);
            }
            // A cancel since then may have sent it, and nothing else will tell of that.
            if matches!(event, Event::Woken) && self.ctx.is_cancelled() {
                let stop = Event::Stop(StopReason::Cancelled);
                state.dispatcher.handle(stop, now);
            }
            state.dispatcher.handle(event, now);
        }
        let mut turn = state.dispatcher.turn(now, &mut state.start);
        if state.giving_up && state.dispatcher.settle_error().is_some() {
            state.lost.append(&mut state.dispatcher.take_unsettled());
            turn = state.dispatcher.turn(now, &mut state.start);
        }
        for number in state.dispatcher.take_given_up() {
            self.context_of(number).abort();
        }
        if let Some(tasks) = &state.tasks {
            for call in state.start.drain(..) {
                if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
                    tasks.calls.try_send(call)
                {
                    unreachable!("the task channel has room for every permit");
                }
            }
            for io in state.dispatcher.take_io() {
                // The channels are unbounded; each holds at most one request.
                let _ = match io {
                    Io::Settle(_) => tasks.settles.send(io),
                    Io::Take(_) => tasks.takes.send(io),
                };
            }
        }
        let busy = state.dispatcher.counters().in_flight;
        if busy > self.needed.fetch_max(busy, Ordering::SeqCst) {
            self.waker.wake();
        }
        match turn {
            Turn::Finished => {
                state.tasks = None;
                state.wake_at = None;
                self.waker.wake();
            }
            Turn::Wait(until) => {
                state.wake_at = until;
                if until.is_some_and(|at| at.as_nanos() < self.waits_for.load(Ordering::SeqCst)) {
                    self.waker.wake();
                }
            }
        }
    }
}

/// Runs the dispatcher's work to its end on `setup.threads` threads.
///
/// # Errors
/// When the threads cannot be started; nothing was called then.
pub(crate) fn run<W, R, O, S>(
    dispatcher: Dispatcher<W>,
    runner: &R,
    setup: RunSetup<'_>,
    mut outlet: Option<Outlet<'_, O>>,
    observer: &mut Observer<'_, W, S>,
) -> Result<Finish<W>, Error>
where
    W: Work + Send,
    R: Runner<W::Task, W::Done>,
    O: Send,
{
    let (tasks, inbox) = bounded(
        setup
            .permits
            .map_or(setup.most_threads, |permits| permits.most),
    );
    let (settles, settle_inbox) = unbounded();
    let (takes, take_inbox) = unbounded();
    let has_store = dispatcher.work.has_store();
    let (post, events) = unbounded();
    let calls = setup.ctx.for_calls();
    let shell = Shell {
        state: Mutex::new(State {
            dispatcher,
            start: Vec::new(),
            tasks: Some(Outgoing {
                calls: tasks,
                settles,
                takes,
            }),
            wake_at: None,
            giving_up: false,
            lost: Vec::new(),
        }),
        post,
        inbox: events,
        clock: setup.clock,
        ctx: setup.ctx,
        calls: &calls,
        own: Mutex::default(),
        waker: setup.waker.clone(),
        waits_for: AtomicU64::new(0),
        needed: AtomicUsize::new(setup.threads),
        ended: setup.every_call.then(AtomicU64::default),
    };
    thread::scope(|scope| -> Result<(), Error> {
        let start = |i: usize| {
            let (shell, calls, inbox) = (&shell, &calls, inbox.clone());
            let work = move || work_off(shell, runner, &inbox, calls);
            thread::Builder::new()
                .name(format!("batchwright-{i}"))
                .spawn_scoped(scope, work)
                .map(drop)
        };
        let start_io = |name: &str, inbox: &Receiver<Io<W>>| {
            let (shell, calls, inbox) = (&shell, &calls, inbox.clone());
            thread::Builder::new()
                .name(format!("batchwright-{name}"))
                .spawn_scoped(scope, move || carry_out(shell, &inbox, calls))
                .map(drop)
        };
        let ways = [("settle", &settle_inbox), ("claim", &take_inbox)];
        let io = ways.into_iter().filter(|_| has_store);
        let io = io.map(|(name, inbox)| start_io(name, inbox));
        for (i, started) in (0..setup.threads).map(&start).chain(io).enumerate() {
            if let Err(error) = started {
                shell.state.lock().tasks = None;
                let why = format!(
                    "cannot start thread {} of {}: {error}; use a smaller concurrency",
                    i + 1,
                    setup.threads
                );
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        }
        let _guard = PanicGuard(&shell, &calls);
        let mut pool = Pool {
            threads: setup.threads,
            most: setup.most_threads,
            start: &start,
        };
        wait_out(&shell, &setup, &calls, &mut pool, outlet.as_mut(), observer);
        Ok(())
    })?;
    let State {
        dispatcher, lost, ..
    } = shell.state.into_inner();
    Ok(Finish { dispatcher, lost })
}

fn work_off<W, R>(shell: &Shell<'_, W>, runner: &R, inbox: &Receiver<Call<W::Task>>, ctx: &Context)
where
    W: Work,
    R: Runner<W::Task, W::Done>,
{
    let guard = PanicGuard(shell, ctx);
    for call in inbox {
        let own = call.may_leave.then(|| shell.context_of(call.number));
        let reply = make_call(runner, &call.ticket, own.as_ref().unwrap_or(ctx));
        shell.end_call(Event::CallEnded(ended(call, reply)));
    }
    drop(guard);
}

/// Reads from and writes to the store, without the lock.
fn carry_out<W: Work>(shell: &Shell<'_, W>, inbox: &Receiver<Io<W>>, ctx: &Context) {
    let guard = PanicGuard(shell, ctx);
    for io in inbox {
        shell.end_io(io.run());
    }
    drop(guard);
}

/// Foreign code (a sink, a notifier) may panic on a thread that the others wait for; then all of
/// them are let go, and the scope that joins them passes the panic on.
struct PanicGuard<'c, 'a, W: Work>(&'c Shell<'a, W>, &'c Context);

impl<W: Work> Drop for PanicGuard<'_, '_, W> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.1.abort();
            self.0.state.lock().tasks = None;
            self.0.waker.wake();
        }
    }
}

fn make_call<T, D, R: Runner<T, D>>(runner: &R, ticket: &Ticket<T>, ctx: &Context) -> Reply<D> {
    catch_unwind(AssertUnwindSafe(|| runner.call(ticket, ctx)))
        .unwrap_or_else(|panic| panicked("the client", panic).into())
}

/// The error of foreign code that panicked.
pub(crate) fn panicked(who: &str, panic: Box<dyn Any + Send>) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let error = Error::new(ErrorKind::Panic, format!("{who} panicked: {text}"));
    // What was thrown may panic again when it is dropped; what that throws is not dropped at all.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    error
}

fn ended<T, D>(call: Call<T>, reply: Reply<D>) -> EndedCall<T, D> {
    EndedCall {
        call,
        result: reply.result,
        used: reply.used,
        hints: reply.hints,
        fatal: reply.fatal,
    }
}

/// Runs the dispatcher's work on the calling thread, one call at a time.
pub(crate) fn run_inline<W, R>(
    mut dispatcher: Dispatcher<W>,
    runner: &R,
    ctx: &Context,
    clock: &dyn Clock,
) -> Dispatcher<W>
where
    W: Work,
    R: Runner<W::Task, W::Done>,
{
    let (waker, woken) = Waker::new();
    let _on_cancel = ctx.on_cancel(wakes(&waker));
    clock.on_jump(Box::new(wakes(&waker)));
    let mut start = Vec::new();
    if ctx.is_cancelled() {
        dispatcher.handle(Event::Stop(StopReason::Cancelled), clock.now());
    }
    loop {
        let turn = dispatcher.turn(clock.now(), &mut start);
        if let Some(call) = start.pop() {
            let reply = make_call(runner, &call.ticket, ctx);
            dispatcher.handle(Event::CallEnded(ended(call, reply)), clock.now());
            continue;
        }
        match turn {
            Turn::Finished => return dispatcher,
            Turn::Wait(until) => {
                if let Err(error) = ctx.check() {
                    let reason = match error.kind() {
                        ErrorKind::DeadlineExceeded => StopReason::DeadlineExceeded,
                        _ => StopReason::Cancelled,
                    };
                    dispatcher.handle(Event::Stop(reason), clock.now());
                    continue;
                }
                let until = until.unwrap_or(Time::FAR);
                let wait = clock.real_wait(until).unwrap_or(Duration::from_secs(3600));
                let wait = ctx.remaining().map_or(wait, |left| left.min(wait));
                let _ = woken.recv_timeout(wait);
            }
        }
    }
}

#[cfg(test)]
#[path = "store_io_tests.rs"]
mod tests;
