//! Runs items on threads and reports the progress: the same for lists, for files and for pools.

use crossbeam_channel::Receiver;

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time};
use crate::base::error::Error;
use crate::engine::counters::Counters;
use crate::engine::dispatch::{Dispatcher, StopReason};
use crate::engine::run::{
    CallsAtOnce, Finish, Observer, Outlet, RunSetup, Runner, TICK, Waker, run,
};
use crate::engine::time_split::TimeSplit;
use crate::engine::work::{Settled, Work};

use super::progress::{Phase, Progress, ProgressNotifier};
use super::tally::{Summary, Tally};

/// Work whose outcomes are counted.
pub(crate) trait Counted: Work {
    fn tally(&mut self) -> &mut Tally;
}

/// What every run needs besides its work.
#[derive(Clone, Copy)]
pub(crate) struct Drive<'d> {
    pub ctx: &'d Context,
    pub clock: &'d dyn Clock,
    pub calls: CallsAtOnce,
    pub notifier: Option<&'d dyn ProgressNotifier>,
}

/// How a run ended.
pub(crate) struct DriveEnd<W: Work> {
    pub work: W,
    pub stop: Option<StopReason>,
    /// Outcomes that could not be settled.
    pub lost: Vec<Settled<W::Task, W::Done>>,
    pub now: Time,
    counters: Counters,
    time: TimeSplit,
}

impl<W: Counted> DriveEnd<W> {
    pub(crate) fn summary(&mut self) -> Summary {
        let tally = self.work.tally();
        tally.summary(&self.counters, self.time, self.now)
    }
}

impl Drive<'_> {
    /// Runs all items. `watch` is called before each report of progress; it may stop the run.
    pub(crate) fn run<W, R, O>(
        &self,
        dispatcher: Dispatcher<W>,
        runner: &R,
        waker: Waker,
        woken: Receiver<()>,
        outlet: Option<Outlet<'_, O>>,
        watch: &dyn Fn(&mut Dispatcher<W>, Time),
    ) -> Result<DriveEnd<W>, Error>
    where
        W: Counted + Send,
        R: Runner<W::Task, W::Done>,
        O: Send,
    {
        let setup = RunSetup {
            ctx: self.ctx,
            clock: self.clock,
            threads: self.calls.threads,
            most_threads: self.calls.most,
            permits: None,
            waker,
            woken,
            tick: TICK,
            every_call: self.notifier.is_some_and(|notifier| notifier.every_item()),
        };
        let mut observer = Observer {
            look: &|dispatcher: &mut Dispatcher<W>, now| {
                watch(dispatcher, now);
                progress(dispatcher, now)
            },
            show: &mut |progress| self.notify(&progress),
        };
        let Finish {
            mut dispatcher,
            lost,
        } = run(dispatcher, runner, setup, outlet, &mut observer)?;
        let now = self.clock.now();
        self.notify(&Progress {
            phase: Phase::Finished,
            limited_by: None,
            learned_limit: None,
            trouble: None,
            trouble_kind: None,
            resumes_in: None,
            ..progress(&mut dispatcher, now)
        });
        Ok(DriveEnd {
            stop: dispatcher.stop_reason().cloned(),
            counters: dispatcher.counters(),
            time: dispatcher.time_split(now),
            work: dispatcher.work,
            lost,
            now,
        })
    }

    fn notify(&self, progress: &Progress) {
        if let Some(notifier) = self.notifier {
            notifier.on_progress(progress);
        }
    }
}

fn progress<W: Counted>(dispatcher: &mut Dispatcher<W>, now: Time) -> Progress {
    let phase = match dispatcher.stop_reason() {
        Some(_) => Phase::Stopping,
        None => Phase::Running,
    };
    let trouble = dispatcher.settle_error().or(dispatcher.last_failure());
    let trouble = trouble.cloned();
    let (loading, counters) = (dispatcher.loading_since(), dispatcher.counters());
    let resumes_in = dispatcher.resumes_at().map(|at| at.since(now));
    let (split, learned) = (dispatcher.time_split(now), dispatcher.learned_limit(now));
    let tally = dispatcher.work.tally();
    tally.lately.note(split, learned);
    let progress = tally.progress(&counters, now, phase, trouble, loading);
    Progress {
        // While the run waits, its rate says nothing about the end.
        eta: progress.eta.filter(|_| resumes_in.is_none()),
        resumes_in,
        ..progress
    }
}
