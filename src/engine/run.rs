//! Drives the dispatcher with real threads.
//!
//! Calls come from one channel. Each thread of a fixed pool takes a call, makes it, and queues its end. If
//! the lock is free, the thread then settles all queued ends and starts the next calls. If it is not free, its holder
//! checks the queue again before it releases the lock. The caller's thread waits for time, source, cancellation and
//! the end. Calls never block on the lock, and the channels are unbounded, so no send blocks under the lock.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::base::thread::spawn_scoped;
use crate::base::{Clock, Context, Error, ErrorKind, Paid, RateHints, Time};

use super::dispatch::{Call, Dispatcher, EndedCall, Event, Io, StopReason, Turn};
use super::work::{Settled, Ticket, Work};

mod watch;

use watch::{Pool, wait_out, wakes};

/// A higher number of threads is rejected as a mistake.
pub(crate) const MOST_THREADS: usize = 10_000;
/// Interval of progress reports.
const TICK: Duration = Duration::from_millis(100);

/// Threads at the start of a run. Further ones start when calls need them.
const FIRST_THREADS: usize = 8;
/// Limit of items read ahead, to save memory.
const MOST_AHEAD: usize = 128;

/// Items that are read before a call needs them.
pub(crate) fn read_ahead(concurrency: usize) -> usize {
    concurrency.max(1).saturating_mul(2).min(MOST_AHEAD)
}

/// Why a number of calls in flight is not possible.
pub(crate) fn bad_concurrency(concurrency: usize) -> Option<String> {
    (!(1..=MOST_THREADS).contains(&concurrency))
        .then(|| format!("the concurrency must be from 1 to {MOST_THREADS}, not {concurrency}"))
}

/// The result of one call.
pub(crate) struct Reply<D> {
    pub result: Result<D, Error>,
    /// What this call has cost, without earlier calls of the item.
    pub paid: Paid,
    pub hints: RateHints,
    pub fatal: bool,
}

impl<D> Reply<D> {
    pub(crate) fn map<E>(self, made: impl FnOnce(D) -> E) -> Reply<E> {
        Reply {
            result: self.result.map(made),
            paid: self.paid,
            hints: self.hints,
            fatal: self.fatal,
        }
    }
}

impl<D> From<Error> for Reply<D> {
    fn from(error: Error) -> Self {
        Self {
            paid: error.paid(),
            hints: error.rate_hints(),
            result: Err(error),
            fatal: false,
        }
    }
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
        // A pending wake-up covers this one too.
        let _ = self.0.try_send(());
    }
}

/// Outcomes for the caller's thread. A permit returns when its outcome was taken.
pub(crate) struct Outlet<'a, O> {
    pub outcomes: Receiver<O>,
    pub sink: &'a mut dyn FnMut(O) -> ControlFlow<()>,
}

/// Takes a snapshot of the run under the lock, where it may also stop the run, and shows it without the lock.
pub(crate) struct Observer<'a, W: Work, S> {
    pub look: &'a dyn Fn(&mut Dispatcher<W>, Time) -> S,
    pub show: &'a mut dyn FnMut(S),
}

/// How a run ended.
pub(crate) struct Finish<W: Work> {
    pub dispatcher: Dispatcher<W>,
    /// Outcomes that could not be settled after all attempts.
    pub lost: Vec<Settled<W::Task, W::Done>>,
}

/// Options of a run.
pub(crate) struct RunSetup<'a> {
    pub ctx: &'a Context,
    pub clock: &'a dyn Clock,
    /// Threads start when calls need them, up to this number.
    pub most_threads: usize,
    /// A number of permits that can change during the run; each change notifies the waker.
    pub permits: Option<&'a AtomicUsize>,
    pub waker: Waker,
    pub woken: Receiver<()>,
    /// Whether the observer also runs after each call. Calls that end while it runs share its next run.
    pub every_call: bool,
}

struct State<W: Work> {
    dispatcher: Dispatcher<W>,
    start: Vec<Call<W::Task>>,
    tasks: Option<Outgoing<W>>,
    wake_at: Option<Time>,
    /// All attempts to settle have failed; unsettled outcomes return to the caller.
    giving_up: bool,
    lost: Vec<Settled<W::Task, W::Done>>,
}

/// Channels to the threads. The threads end when the channels are closed.
struct Outgoing<W: Work> {
    calls: Sender<Call<W::Task>>,
    /// If the work has a store, a thread settles and another one claims.
    io: Sender<Io<W>>,
}

struct Shell<'a, W: Work> {
    state: Mutex<State<W>>,
    post: Sender<Event<W>>,
    inbox: Receiver<Event<W>>,
    setup: &'a RunSetup<'a>,
    /// When the caller's thread wakes next, in nanoseconds; anything earlier must wake it.
    waits_for: AtomicU64,
    /// Threads that the calls in flight need.
    needed: AtomicUsize,
}

impl<W: Work> Shell<'_, W> {
    fn end_io(&self, event: Event<W>) {
        let _ = self.post.send(event);
        self.turn();
    }

    fn end_call(&self, event: Event<W>) {
        self.end_io(event);
        if self.setup.every_call {
            self.setup.waker.wake();
        }
    }

    fn turn(&self) {
        loop {
            // Either the holder of the lock sees our event, or we find the lock free: the fences prevent that both
            // miss.
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
        let now = self.setup.clock.now();
        // Checked first: an aborted call must not count as failed, and none may start after a cancellation, however
        // late the caller's thread wakes.
        if self.setup.ctx.is_cancelled() {
            let stop = Event::Stop(StopReason::Cancelled);
            state.dispatcher.handle(stop, now);
        }
        while let Ok(event) = self.inbox.try_recv() {
            // A cancellation since then may have sent this event, and no other event reports it.
            if matches!(event, Event::Woken) && self.setup.ctx.is_cancelled() {
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
        if let Some(tasks) = &state.tasks {
            for call in state.start.drain(..) {
                // The threads take calls until this channel is closed.
                let _ = tasks.calls.send(call);
            }
            for io in state.dispatcher.take_io() {
                // The channel is unbounded, and holds at most one request of each kind.
                let _ = tasks.io.send(io);
            }
        }
        let busy = state.dispatcher.counters.in_flight;
        if busy > self.needed.fetch_max(busy, Ordering::SeqCst) {
            self.setup.waker.wake();
        }
        match turn {
            Turn::Finished => {
                state.tasks = None;
                state.wake_at = None;
                self.setup.waker.wake();
            }
            Turn::Wait(until) => {
                state.wake_at = until;
                if until.is_some_and(|at| at.as_nanos() < self.waits_for.load(Ordering::SeqCst)) {
                    self.setup.waker.wake();
                }
            }
        }
    }
}

/// Runs the dispatcher's work to its end on up to `setup.most_threads` threads. `runner` makes one call; many threads use
/// it at once.
///
/// # Errors
/// If the threads cannot be started; no call was made then.
pub(crate) fn run<W, R, O, S>(
    dispatcher: Dispatcher<W>,
    runner: &R,
    setup: RunSetup<'_>,
    mut outlet: Option<Outlet<'_, O>>,
    observer: &mut Observer<'_, W, S>,
) -> Result<Finish<W>, Error>
where
    W: Work + Send,
    R: Fn(&Ticket<W::Task>, &Context) -> Reply<W::Done> + Sync,
    O: Send,
{
    // Not a bounded channel: while the thread that sends to one is suspended in the middle, all receivers turn in a loop
    // and take its turn of the processor.
    let (tasks, inbox) = unbounded();
    let (io, io_inbox) = unbounded();
    let io_threads = if dispatcher.work.has_store() { 2 } else { 0 };
    let (post, events) = unbounded();
    let calls = setup.ctx.for_calls();
    let threads = setup.most_threads.min(FIRST_THREADS);
    let shell = Shell {
        state: Mutex::new(State {
            dispatcher,
            start: Vec::new(),
            tasks: Some(Outgoing { calls: tasks, io }),
            wake_at: None,
            giving_up: false,
            lost: Vec::new(),
        }),
        post,
        inbox: events,
        setup: &setup,
        waits_for: AtomicU64::new(0),
        needed: AtomicUsize::new(threads),
    };
    thread::scope(|scope| -> Result<(), Error> {
        let start = |i: usize| {
            let (shell, calls, inbox) = (&shell, &calls, inbox.clone());
            let make = |call: Call<W::Task>| {
                let reply = make_call(runner, &call.ticket, calls);
                shell.end_call(Event::CallEnded(ended(call, reply)));
            };
            let work = move || work_off(shell, calls, &inbox, make);
            spawn_scoped(scope, format!("batchwright-{i}"), work).map(drop)
        };
        let start_io = |i: usize| {
            let (shell, calls, inbox) = (&shell, &calls, io_inbox.clone());
            // Without the lock.
            let carry_out = |io: Io<W>| shell.end_io(io.run());
            let work = move || work_off(shell, calls, &inbox, carry_out);
            spawn_scoped(scope, format!("batchwright-store-{i}"), work).map(drop)
        };
        let started = (0..threads).map(&start);
        let started = started.chain((0..io_threads).map(start_io));
        for started in started {
            if let Err(error) = started {
                shell.state.lock().tasks = None;
                return Err(error.context("use a smaller concurrency"));
            }
        }
        let _guard = PanicGuard(&shell, &calls);
        let mut pool = Pool {
            threads,
            most: setup.most_threads,
            start: &start,
        };
        wait_out(&shell, &calls, &mut pool, outlet.as_mut(), observer);
        Ok(())
    })?;
    let State {
        dispatcher, lost, ..
    } = shell.state.into_inner();
    Ok(Finish { dispatcher, lost })
}

/// Does what a channel asks for until it is closed.
fn work_off<W: Work, T>(shell: &Shell<'_, W>, ctx: &Context, inbox: &Receiver<T>, act: impl Fn(T)) {
    let _guard = PanicGuard(shell, ctx);
    inbox.iter().for_each(act);
}

/// Foreign code (a sink, a notifier) may panic on a thread that others wait for. This guard then releases the others,
/// and the scope that joins them propagates the panic.
struct PanicGuard<'c, 'a, W: Work>(&'c Shell<'a, W>, &'c Context);

impl<W: Work> Drop for PanicGuard<'_, '_, W> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.1.abort();
            self.0.state.lock().tasks = None;
            self.0.setup.waker.wake();
        }
    }
}

fn make_call<T, D>(
    runner: &impl Fn(&Ticket<T>, &Context) -> Reply<D>,
    ticket: &Ticket<T>,
    ctx: &Context,
) -> Reply<D> {
    catch_unwind(AssertUnwindSafe(|| runner(ticket, ctx)))
        .unwrap_or_else(|panic| panicked("the client", panic).into())
}

/// The error for a panic of foreign code.
pub(crate) fn panicked(who: &str, panic: Box<dyn Any + Send>) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let error = Error::new(ErrorKind::Panic, format!("{who} panicked: {text}"));
    // Dropping the panic payload may panic again; that payload is leaked.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    error
}

pub(crate) fn ended<T, D>(call: Call<T>, reply: Reply<D>) -> EndedCall<T, D> {
    EndedCall {
        call,
        result: reply.result,
        used: reply.paid.tokens(),
        hints: reply.hints,
        fatal: reply.fatal,
    }
}

/// Runs the dispatcher's work on the calling thread, one call at a time.
pub(crate) fn run_inline<W: Work>(
    mut dispatcher: Dispatcher<W>,
    runner: impl Fn(&Ticket<W::Task>, &Context) -> Reply<W::Done>,
    ctx: &Context,
    clock: &dyn Clock,
) -> Dispatcher<W> {
    let (waker, woken) = Waker::new();
    let _on_cancel = ctx.on_cancel(wakes(&waker));
    clock.on_jump(Box::new(wakes(&waker)));
    let mut start = Vec::new();
    loop {
        // The caller knows whether it was cancelled or its deadline passed.
        if ctx.check().is_err() {
            dispatcher.handle(Event::Stop(StopReason::Cancelled), clock.now());
        }
        let turn = dispatcher.turn(clock.now(), &mut start);
        if let Some(call) = start.pop() {
            let reply = make_call(&runner, &call.ticket, ctx);
            dispatcher.handle(Event::CallEnded(ended(call, reply)), clock.now());
            continue;
        }
        let Turn::Wait(until) = turn else {
            return dispatcher;
        };
        let wait = clock.real_wait(until.unwrap_or(Time::FAR));
        let wait = wait.unwrap_or(Duration::from_secs(3600));
        let wait = ctx.remaining().map_or(wait, |left| left.min(wait));
        let _ = woken.recv_timeout(wait);
    }
}

#[cfg(test)]
#[path = "store_io_tests.rs"]
mod tests;
