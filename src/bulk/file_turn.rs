//! One turn of a file run: the engine over a backlog, with its results written as they come.

use std::io::{self, Write};
use std::ops::ControlFlow;

use crossbeam_channel::{Receiver, bounded};

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Event, StopReason};
use crate::engine::pack::{Backlog, Pack, Packed};
use crate::engine::run::{
    CallsAtOnce, Finish, Observer, Outlet, RunSetup, Runner, TICK, Waker, run,
};
use crate::llm::route::Route;
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::Tally;

use super::call::{finished, progress};
use super::lines::{Identified, LineSink, Lines, Target, each_line};
use super::open_output::OpenOutput;
use super::options::RunReport;
use super::results::ResultsFile;
use super::work::Job;

/// What every kind of file run is surrounded by.
pub(super) struct RunEnvironment<'s, 'r> {
    pub route: &'r Route<'r>,
    pub calls: CallsAtOnce,
    pub on_error: ErrorPolicy,
    pub ctx: &'s Context,
    pub notifier: Option<&'s (dyn ProgressNotifier + 's)>,
}

pub(super) struct FileRunEnd {
    pub report: RunReport,
    pub file: Option<ResultsFile>,
    pub superseded: u64,
}

impl FileRunEnd {
    /// Tidies up the output, unless another program changed it. `tidy` gets whether the run ran through.
    pub fn tidy(&mut self, tidy: impl FnOnce(&mut ResultsFile, bool) -> Result<(), Error>) {
        let clean = self.report.stop.is_none() && self.report.unsaved.is_empty();
        let Some(file) = &mut self.file else { return };
        match file.undisturbed() {
            Err(lost) => {
                self.report.stop = Some(StopReason::OutputLost(lost));
                if !file.is_in_place() {
                    // There was no place for a copy either: shown is better than gone.
                    let unsaved = &mut self.report.unsaved;
                    let read = file.lines(&mut |line| unsaved.push([line, b"\n"].concat()));
                    read.unwrap_or_else(|e| log::warn!("{e}"));
                }
            }
            Ok(()) => self.report.compaction = tidy(file, clean),
        }
    }
}

impl<'r> RunEnvironment<'_, 'r> {
    pub fn turn<B, R>(
        &self,
        backlog: B,
        output: OpenOutput,
        tally: Tally,
        runner: &R,
        (waker, woken): (Waker, Receiver<()>),
    ) -> Result<FileRunEnd, Error>
    where
        B: Backlog + Send,
        B::Task: Identified,
        R: Runner<Pack<B::Task>, Lines>,
    {
        let (route, clock) = (self.route, self.route.clock_ref());
        let (tx, rx) = bounded::<Vec<u8>>(self.calls.most);
        let mut unsaved = Vec::new();
        let mut broken = None;
        let (target, mut writer) = match output {
            OpenOutput::File(file) => (Target::File(file), None),
            OpenOutput::Writer(writer) => (Target::Caller(tx), Some(writer)),
            OpenOutput::Closed => {
                broken = Some(io::ErrorKind::BrokenPipe.into());
                (Target::Caller(tx), None)
            }
        };
        let is_closed = broken.is_some();
        let deferring = matches!(target, Target::Caller(_));
        let mut write = |lines: Vec<u8>| {
            if lines.is_empty() {
                return ControlFlow::Continue(());
            }
            if let (Some(writer), None) = (&mut writer, &broken) {
                match writer.write_all(&lines).and_then(|()| writer.flush()) {
                    Ok(()) => return ControlFlow::Continue(()),
                    Err(error) => broken = Some(error),
                }
            }
            unsaved.extend(each_line(&lines));
            ControlFlow::Break(())
        };
        let job = Job {
            backlog: Packed::new(backlog),
            tally,
            sink: LineSink {
                route,
                target,
                superseded: 0,
                buffer: Vec::new(),
            },
        };
        let options = route.options(self.ctx, self.calls.most, self.on_error);
        let mut dispatcher = Dispatcher::new(job, route.limiter(), options);
        if is_closed {
            dispatcher.handle(Event::Stop(StopReason::SinkClosed), clock.now());
        }
        let setup = RunSetup {
            ctx: self.ctx,
            clock,
            threads: self.calls.threads,
            most_threads: self.calls.most,
            permits: None,
            waker,
            woken,
            tick: TICK,
            every_call: self.notifier.is_some_and(|them| them.every_item()),
        };
        let outlet = deferring.then_some(Outlet {
            outcomes: rx,
            sink: &mut write,
        });
        let look = |d: &mut Dispatcher<Job<B, LineSink<'r>>>, now: Time| {
            if let Target::File(file) = &mut d.work.sink.target
                && let Err(lost) = file.undisturbed()
            {
                d.handle(Event::Stop(StopReason::OutputLost(lost)), now);
            }
            progress(d, now)
        };
        let mut observer = Observer {
            look: &look,
            show: &mut |progress| {
                if let Some(notifier) = self.notifier {
                    notifier.on_progress(&progress);
                }
            },
        };
        let Finish {
            mut dispatcher,
            lost,
        } = run(dispatcher, runner, setup, outlet, &mut observer)?;
        let now = clock.now();
        if let Some(notifier) = self.notifier {
            notifier.on_progress(&finished(&mut dispatcher, now));
        }
        let (counters, time) = (dispatcher.counters(), dispatcher.time_split(now));
        let mut stop = dispatcher.stop_reason().cloned();
        let Job {
            mut backlog,
            sink,
            mut tally,
        } = dispatcher.work;
        tally.leave(backlog.items.left());
        unsaved.extend(sink.lines_of(&lost, now));
        if let Some(error) = broken.filter(|e| e.kind() != io::ErrorKind::BrokenPipe) {
            let why = format!("cannot write the results: {error}");
            stop = Some(StopReason::Fatal(Error::new(ErrorKind::Invalid, why)));
        }
        Ok(FileRunEnd {
            report: RunReport {
                summary: tally.summary(&counters, time, now),
                stop,
                unsaved,
                compaction: Ok(()),
            },
            superseded: sink.superseded,
            file: match sink.target {
                Target::File(file) => Some(file),
                Target::Caller(_) => None,
            },
        })
    }
}
