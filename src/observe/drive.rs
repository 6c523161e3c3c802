//! Runs items on threads and reports the progress, for lists, files and pools alike.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::base::{Clock, Context, Error, Time, Timestamp};
use crate::engine::dispatch::{Counters, Dispatcher, ErrorPolicy, StopReason};
use crate::engine::run::{Finish, Observer, Outlet, Reply, RunSetup, Waker, bad_concurrency, run};
use crate::engine::work::{Settled, Ticket, Work};

use super::progress::{Phase, Progress, ProgressNotifier};
use super::tally::{Summary, Tally};

/// Work whose outcomes are counted.
pub(crate) trait Counted: Work {
    fn tally(&mut self) -> &mut Tally;

    /// Called when all items have ended, before the last report of progress.
    fn conclude(&mut self) {}
}

/// Options that runs of lists, of files and of pools have in common.
#[derive(Clone)]
pub(crate) struct RunOptions<'a> {
    /// Number of calls in flight.
    pub calls: usize,
    pub on_error: ErrorPolicy,
    pub ctx: Context,
    pub notifier: Option<Arc<dyn ProgressNotifier + 'a>>,
    /// No call starts after it.
    pub starts_until: Option<Timestamp>,
}

impl RunOptions<'_> {
    /// Continues after errors, is never cancelled and sends no notifications.
    pub(crate) fn new(calls: usize) -> Self {
        Self {
            calls,
            on_error: ErrorPolicy::default(),
            ctx: Context::new(),
            notifier: None,
            starts_until: None,
        }
    }

    /// The reason why these options allow no run.
    pub(crate) fn misuse(&self) -> Option<String> {
        bad_concurrency(self.calls)
    }
}

/// How a run ended.
pub(crate) struct DriveEnd<W: Work> {
    pub work: W,
    pub stop: Option<StopReason>,
    /// Outcomes that could not be settled.
    pub lost: Vec<Settled<W::Task, W::Done>>,
    pub now: Time,
    counters: Counters,
}

impl<W: Counted> DriveEnd<W> {
    pub(crate) fn summary(&mut self) -> Summary {
        let tally = self.work.tally();
        tally.summary(&self.counters, self.now)
    }
}

/// Runs all items. `watch` is called before each report of progress; it may stop the run.
pub(crate) fn drive<W, R, O>(
    options: &RunOptions<'_>,
    clock: &dyn Clock,
    dispatcher: Dispatcher<W>,
    runner: &R,
    (waker, woken): (Waker, Receiver<()>),
    outlet: Option<Outlet<'_, O>>,
    watch: &dyn Fn(&mut Dispatcher<W>, Time),
) -> Result<DriveEnd<W>, Error>
where
    W: Counted + Send,
    R: Fn(&Ticket<W::Task>, &Context) -> Reply<W::Done> + Sync,
    O: Send,
{
    let notifier = &options.notifier;
    let notify = |progress: &Progress| {
        if let Some(notifier) = notifier {
            notifier.on_progress(progress);
        }
    };
    let setup = RunSetup {
        ctx: &options.ctx,
        clock,
        most_threads: options.calls,
        permits: None,
        waker,
        woken,
        every_call: (notifier.as_ref()).is_some_and(|notifier| notifier.every_item()),
    };
    let mut observer = Observer {
        look: &|dispatcher: &mut Dispatcher<W>, now| {
            watch(dispatcher, now);
            progress(dispatcher, now)
        },
        show: &mut |progress| notify(&progress),
    };
    let Finish {
        mut dispatcher,
        lost,
    } = run(dispatcher, runner, setup, outlet, &mut observer)?;
    dispatcher.work.conclude();
    let now = clock.now();
    notify(&Progress {
        phase: Phase::Finished,
        limited_by: None,
        trouble: None,
        trouble_kind: None,
        resumes_in: None,
        ..progress(&mut dispatcher, now)
    });
    Ok(DriveEnd {
        stop: dispatcher.stop_reason().cloned(),
        counters: dispatcher.counters,
        work: dispatcher.work,
        lost,
        now,
    })
}

fn progress<W: Counted>(dispatcher: &mut Dispatcher<W>, now: Time) -> Progress {
    let phase = match dispatcher.stop_reason() {
        Some(_) => Phase::Stopping,
        None => Phase::Running,
    };
    let trouble = dispatcher.settle_error().or(dispatcher.last_failure());
    let trouble = trouble.cloned();
    let (loading, counters) = (dispatcher.availability.loading_since(), dispatcher.counters);
    let resumes_in = dispatcher.resumes_at.map(|at| at.since(now));
    let limited_by = dispatcher.lately.limited_by(now);
    let tally = dispatcher.work.tally();
    let progress = tally.progress(&counters, now, phase, trouble, loading);
    Progress {
        // While the run waits, its rate says nothing about the end.
        eta: progress.eta.filter(|_| resumes_in.is_none()),
        resumes_in,
        limited_by,
        ..progress
    }
}
