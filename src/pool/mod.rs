//! Runs tasks of any kind on the engine: files to process here, commands to run in `batchwright-exec`.
//!
//! A separate thread reads the source a few items ahead. Each item is one call on a thread of the run, and its end
//! is passed to the caller's thread. The engine handles retries, the rate, the error policy and stopping.

mod work;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;

use crate::base::random::Random;
use crate::base::thread::{spawn, spawn_scoped};
use crate::base::{Clock, Context, Error, ErrorKind, SystemClock, Time};
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Options, StopReason};
use crate::engine::feeder::{Feeder, Tail};
use crate::engine::limiter::{Limiter, Limits, QuotaId, QuotaKey};
use crate::engine::quota::Class;
use crate::engine::route::RetryPolicy;
use crate::engine::run::{Outlet, Reply, Waker};
use crate::engine::work::Ticket;
use crate::observe::drive::{RunOptions, drive};
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::{Summary, Tally};

use derive_setters::Setters;
pub use work::TaskEnd;
use work::{PoolWork, Task};

/// The thread that reads the items.
const SOURCE_THREAD: &str = "batchwright-source";

/// How a run ended.
#[derive(Debug)]
pub struct PoolEnd {
    /// Counts and times.
    pub summary: Summary,
    /// The reason if it ended before its source did.
    pub stop: Option<StopReason>,
}

/// Runs tasks with a limited concurrency.
#[derive(Setters)]
pub struct Pool<'a> {
    #[setters(skip)]
    options: RunOptions<'a>,
    /// Starts per second, evenly spaced; retries count. Default: no limit.
    rate: Option<f64>,
    /// Number and delay of retries, for failures whose kind allows them. Default: no retries.
    retry: RetryPolicy,
    /// Number of items of the source, if known.
    total: Option<u64>,
    /// A function that is called when no more tasks will start, for whatever reason, before the pool waits for the end
    /// of the source. A source that waits for results must stop waiting then.
    #[setters(strip_option)]
    on_end: Option<&'a (dyn Fn() + Sync)>,
    #[setters(skip)]
    clock: &'a dyn Clock,
}

impl<'a> Pool<'a> {
    /// A pool of 5 threads that continues after errors, retries nothing and sends no notifications.
    pub fn new(ctx: &Context) -> Self {
        Self::with(RunOptions {
            ctx: ctx.clone(),
            ..RunOptions::new(5)
        })
    }

    /// A pool with these options that retries nothing.
    pub(crate) fn with(options: RunOptions<'a>) -> Self {
        Self {
            options,
            rate: None,
            retry: RetryPolicy::default().max_retries(0),
            total: None,
            on_end: None,
            clock: &SystemClock,
        }
    }

    /// Number of concurrent tasks, each on its own thread.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.options.calls = tasks;
        self
    }

    /// How the failure of a task affects the others. Default: not at all.
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.options.on_error = policy;
        self
    }

    /// Receives the progress. Default: no notifier.
    pub fn notifier(mut self, notifier: Option<Arc<dyn ProgressNotifier + 'a>>) -> Self {
        self.options.notifier = notifier;
        self
    }

    /// Runs a task for each item of `items`, which may be endless and may block. `call` receives the number of the
    /// attempt, from 1. `sink` receives each end on this thread, in the order of completion; returning `Break` ends the
    /// run. Every item that was read from `items` reaches `sink`, at the latest as [`ErrorKind::Cancelled`]. An error
    /// of the source ends the run. Cancelling waits for a `next()` that blocks; [`run_detached`](Self::run_detached)
    /// does not.
    pub fn run<T, D>(
        &self,
        items: impl Iterator<Item = Result<T, Error>> + Send,
        call: impl Fn(&T, u32, &Context) -> Result<D, Error> + Sync,
        sink: impl FnMut(TaskEnd<T, D>) -> ControlFlow<()>,
    ) -> PoolEnd
    where
        T: Send,
        D: Send,
    {
        thread::scope(|scope| {
            self.turn(call, sink, Tail::drain, |feeder| {
                spawn_scoped(scope, SOURCE_THREAD, move || feeder.feed(items)).map(drop)
            })
        })
    }

    /// As [`run`](Self::run), for a source such as standard input, where a read may block for ever: the thread that
    /// reads it is abandoned. Items that it returns after the end of the run are lost.
    pub fn run_detached<T, D>(
        &self,
        items: impl Iterator<Item = Result<T, Error>> + Send + 'static,
        call: impl Fn(&T, u32, &Context) -> Result<D, Error> + Sync,
        sink: impl FnMut(TaskEnd<T, D>) -> ControlFlow<()>,
    ) -> PoolEnd
    where
        T: Send + 'static,
        D: Send,
    {
        self.turn(call, sink, Tail::drain_ready, |feeder| {
            spawn(SOURCE_THREAD, move || feeder.feed(items)).map(drop)
        })
    }

    fn turn<T, D>(
        &self,
        call: impl Fn(&T, u32, &Context) -> Result<D, Error> + Sync,
        mut sink: impl FnMut(TaskEnd<T, D>) -> ControlFlow<()>,
        drain: fn(Tail<T>) -> (usize, Vec<T>),
        start: impl FnOnce(Feeder<T>) -> Result<(), Error>,
    ) -> PoolEnd
    where
        T: Send,
        D: Send,
    {
        let began = self.clock.now();
        if let Some(why) = self.misuse() {
            return self.not_begun(&why, began);
        }
        let (waker, woken) = Waker::new();
        let most = self.options.calls;
        let (feeder, source, tail) = Feeder::new(2 * most, (1, |_| None), waker.clone());
        if let Err(error) = start(feeder) {
            return self.not_begun(error.message(), began);
        }
        let limiter = Arc::new(Limiter::new());
        let class = Class::new([self.quota(&limiter, began)]);
        let (ends, outcomes) = bounded(most);
        let work = PoolWork {
            source,
            class,
            tally: Tally::new(self.total, began),
            ends,
            waiting: Default::default(),
            read: 0,
            ended: false,
            broken: None,
        };
        let dispatcher = Dispatcher::new(work, limiter, self.dispatch_options(began));
        let runner = |ticket: &Ticket<Task<T>>, ctx: &Context| {
            let attempt = u32::from(ticket.tries.calls) + 1;
            let started = self.clock.now();
            match call(&ticket.task.item, attempt, ctx) {
                Ok(done) => Reply {
                    result: Ok((done, self.clock.now().since(started))),
                    paid: Default::default(),
                    hints: Default::default(),
                    fatal: false,
                },
                Err(error) => error.into(),
            }
        };
        let sink = &mut sink;
        let outlet = Some(Outlet { outcomes, sink });
        let (options, wakes, watch) = (&self.options, (waker, woken), &|_: &mut _, _| {});
        let ended = drive(
            options, self.clock, dispatcher, &runner, wakes, outlet, watch,
        );
        if let Some(on_end) = self.on_end {
            on_end();
        }
        let mut ended = match ended {
            Ok(ended) => ended,
            Err(error) => return self.not_begun(error.message(), began),
        };
        for end in left_over(&mut ended.work, drain(tail), ended.stop.as_ref()) {
            let _ = sink(end);
        }
        PoolEnd {
            summary: ended.summary(),
            stop: ended.stop,
        }
    }

    fn misuse(&self) -> Option<String> {
        let bad_rate = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0));
        let bad_rate =
            bad_rate.map(|rate| format!("the rate must be above 0 a second, not {rate}"));
        self.options.misuse().or(bad_rate)
    }

    fn not_begun(&self, why: &str, now: Time) -> PoolEnd {
        let tally = Tally::new(self.total, now);
        PoolEnd {
            summary: tally.summary(&Default::default(), now),
            stop: Some(StopReason::Misuse(why.to_owned())),
        }
    }

    fn quota(&self, limiter: &Limiter, now: Time) -> QuotaId {
        let Some(rate) = self.rate else {
            return QuotaId::NONE;
        };
        let limits = Limits::default().requests_per_minute(rate * 60.0);
        limiter.quota(QuotaKey::new(&["rate"]), limits.burst(1).known(), 0, now)
    }

    fn dispatch_options(&self, now: Time) -> Options {
        let options = &self.options;
        Options {
            concurrency: options.calls,
            retry: self.retry,
            on_error: options.on_error,
            deadline: options.ctx.remaining().map(|left| now.after(left)),
            jitter: Random(now.as_nanos() ^ u64::from(std::process::id()).rotate_left(32)),
            durable: false,
            multi_tenant: false,
            no_shared_fate: true,
        }
    }
}

/// Items that were read but never run, in the order of the source.
fn left_over<T, D>(
    work: &mut PoolWork<T, D>,
    (next, unread): (usize, Vec<T>),
    stop: Option<&StopReason>,
) -> Vec<TaskEnd<T, D>> {
    let waiting = work.rest();
    let unread = (next as u64..).zip(unread);
    let unread = unread.map(|(index, item)| (Task { index, item }, 0));
    let why = match stop {
        Some(StopReason::DeadlineExceeded) => Error::new(
            ErrorKind::DeadlineExceeded,
            "not carried out before the deadline",
        ),
        Some(reason) => Error::new(
            ErrorKind::Cancelled,
            format!("not carried out, since the run ended early: {reason}"),
        ),
        None => Error::cancelled(),
    };
    let ends = waiting.into_iter().chain(unread);
    let ends = ends.map(|(task, attempts)| {
        work.tally.unsent(&why, 1);
        TaskEnd {
            index: task.index,
            task: task.item,
            attempts,
            result: Err(why.clone()),
        }
    });
    ends.collect()
}

#[cfg(test)]
mod tests;
