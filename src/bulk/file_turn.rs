//! The calls of a file run: runs the engine over a backlog, makes the calls of its items on worker threads, and writes
//! each result when it arrives.

use std::borrow::Cow;

use super::backlog::{FileBacklog, FileTask};
use super::copies::Copies;
use super::input::{FileIndex, InputFile, Named, Unread};
use super::open_output::{Lines, OpenOutput, REUSED_BUFFER_BYTES, Unsaved, each_line};
use super::options::RunReport;
use super::replies::Replies;
use super::work::{Answered, Job, Sink, call_step, count, dispatcher, measure};
use crate::base::{Context, Error, ErrorKind, MemoryManager, Time};
use crate::engine::dispatch::{Dispatcher, Event, StopReason};
use crate::engine::run::{Outlet, Reply, Waker};
use crate::engine::work::{Settled, Ticket};
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::drive::{RunOptions, drive};
use crate::observe::tally::Tally;

/// Runs the engine over these items. Returns the report, and the output if it is a file.
pub(super) fn turn(
    runner: &FileRunner<'_>,
    backlog: FileBacklog<'_>,
    copies: &Copies,
    output: OpenOutput,
    tally: Tally,
    options: &RunOptions<'_>,
) -> Result<(RunReport, OpenOutput), Error> {
    let (route, clock) = (runner.route, runner.route.clock_ref());
    let is_closed = matches!(output, OpenOutput::Closed);
    let job = Job {
        backlog,
        tally,
        sink: LineSink {
            route,
            output,
            buffer: Vec::new(),
            broken: None,
            unsaved: Vec::new(),
            copies,
        },
    };
    let mut dispatcher = dispatcher(job, route, options);
    if is_closed {
        dispatcher.handle(Event::Stop(StopReason::SinkClosed), clock.now());
    }
    let (waker, woken) = Waker::new();
    let call = |ticket: &Ticket<Pack<FileTask>>, ctx: &Context| runner.call(ticket, ctx);
    let outlet = None::<Outlet<'_, ()>>;
    let wakes = (waker, woken);
    let mut end = drive(options, clock, dispatcher, &call, wakes, outlet, &watch)?;
    let summary = end.summary();
    let sink = end.work.sink;
    let lost = end.lost.iter().map(|lost| sink.lines(lost, end.now));
    let lost: Vec<_> = lost.flat_map(|lines| each_line(&lines)).collect();
    let stop = match sink.broken {
        Some(Unsaved::Now(error) | Unsaved::Ever(error)) => Some(StopReason::Fatal(error)),
        // If something else has stopped the run before, the results that were lost are shown.
        Some(Unsaved::ReaderGone) => end.stop.or(Some(StopReason::SinkClosed)),
        None => end.stop,
    };
    // A signal may have ended the copying.
    let is_cancelled = copies.ctx.is_cancelled() && end.work.tally.pending() > 0;
    let cancelled = is_cancelled.then_some(StopReason::Cancelled);
    let mut unsaved = sink.unsaved;
    unsaved.extend(lost);
    let report = RunReport {
        summary,
        stop: stop.or(cancelled),
        unsaved,
        compaction: Ok(()),
    };
    Ok((report, sink.output))
}

/// Stops the run if another program changes the output, or its reader is gone.
fn watch(dispatcher: &mut Dispatcher<Job<FileBacklog<'_>, LineSink<'_>>>, now: Time) {
    let sink = &mut dispatcher.work.sink;
    let lost = sink.output.file().and_then(|file| file.undisturbed().err());
    let broken = sink.broken.is_some().then_some(StopReason::SinkClosed);
    if let Some(stop) = lost.map(StopReason::OutputLost).or(broken) {
        dispatcher.handle(Event::Stop(stop), now);
    }
}

pub(super) struct FileRunner<'r> {
    pub route: &'r Route<'r>,
    pub input: &'r InputFile,
    pub index: &'r FileIndex,
    /// Where large unusable replies are stored.
    pub replies: Option<Replies>,
}

impl FileRunner<'_> {
    pub(super) fn call(&self, ticket: &Ticket<Pack<FileTask>>, ctx: &Context) -> Reply<Lines> {
        let tasks = &ticket.task;
        let bytes = |task: &FileTask| self.input.record_bytes(task.index as usize, self.index);
        let bytes = tasks.iter().map(bytes).sum();
        // Released when the call has ended.
        let mut room = match MemoryManager::of_process().wait_for_prompts(bytes, ctx) {
            Ok(room) => room,
            Err(error) => return error.into(),
        };
        let mut requests = Vec::with_capacity(tasks.len());
        for task in tasks {
            match self.read(task) {
                Ok(request) => requests.push(request),
                Err(reply) => return *reply,
            }
        }
        if let Some(room) = &mut room {
            room.holds_requests();
        }
        let carried = &tasks[0].carried;
        let reply = call_step(self.route, &requests, &ticket.tries, carried, ctx);
        let lines = reply
            .result
            .and_then(|answered| self.lines(ticket, &requests, answered));
        Reply {
            // The reply is the item's last one: such a request is not retried.
            result: lines.map_err(|error| self.with_reply_in_file(error)),
            paid: reply.paid,
            hints: reply.hints,
            fatal: reply.fatal,
        }
    }

    fn read(&self, task: &FileTask) -> Result<Request, Box<Reply<Lines>>> {
        let i = task.index as usize;
        match self.input.read(i, self.index) {
            Ok(mut item) => {
                task.named.get_or_init(|| Named::of(&mut item));
                Ok(item.request)
            }
            // Nothing more of the input may be sent.
            Err(Unread::Changed(changed)) => Err(Box::new(Reply {
                fatal: true,
                ..changed.into()
            })),
            Err(Unread::File(row)) => {
                let error = row.error();
                task.named.get_or_init(|| row.named);
                Err(Box::new(error.into()))
            }
        }
    }

    /// The lines of an answered pack.
    fn lines(
        &self,
        ticket: &Ticket<Pack<FileTask>>,
        requests: &[Request],
        answered: Answered,
    ) -> Result<Lines, Error> {
        let mut tries = ticket.tries.clone();
        tries.calls = tries.calls.saturating_add(1);
        let mut lines = Lines {
            bytes: Vec::with_capacity(512),
            measure: measure(&answered),
            ..Lines::default()
        };
        let now = self.route.clock_ref().now();
        let latency = tries.latency(now);
        let pack = requests.iter().zip(&ticket.task);
        for (result, (request, task)) in answered.responses.into_iter().zip(pack) {
            let Some(named) = task.named.get() else {
                continue;
            };
            let result = result.map_err(|error| self.with_reply_in_file(error));
            lines.failures.extend(result.as_ref().err().cloned());
            let outcome = self.route.outcome(request, &tries, latency, result);
            named.item(outcome).write_line(&mut lines.bytes)?;
        }
        lines.unwritten = MemoryManager::of_process().holds_result(lines.bytes.len());
        Ok(lines)
    }

    fn with_reply_in_file(&self, error: Error) -> Error {
        match &self.replies {
            Some(replies) => replies.put(error),
            None => error,
        }
    }
}

/// The sink of a run that writes lines.
pub(super) struct LineSink<'r> {
    pub route: &'r Route<'r>,
    pub output: OpenOutput,
    pub buffer: Vec<u8>,
    /// Why a stream takes no more lines, and the lines that it did not take.
    pub broken: Option<Unsaved>,
    pub unsaved: Vec<Vec<u8>>,
    /// Items that get copies of these lines at the end.
    pub copies: &'r Copies,
}

impl LineSink<'_> {
    /// The lines of an end; empty for unsent items.
    pub(super) fn lines<'e>(
        &self,
        end: &'e Settled<Pack<FileTask>, Lines>,
        now: Time,
    ) -> Cow<'e, [u8]> {
        match end {
            Settled::Final(_, Ok(lines)) => Cow::Borrowed(&lines.bytes),
            Settled::Final(ticket, Err(error)) => {
                let (tries, mut bytes) = (&ticket.tries, Vec::new());
                for named in ticket.task.iter().filter_map(|task| task.named.get()) {
                    let request = Request {
                        model: named.model.clone(),
                        ..Request::default()
                    };
                    let (latency, error) = (tries.latency(now), Err(error.clone()));
                    let outcome = self.route.outcome(&request, tries, latency, error);
                    let begins = bytes.len();
                    if named.item(outcome).write_line(&mut bytes).is_err() {
                        bytes.truncate(begins);
                    }
                }
                Cow::Owned(bytes)
            }
            Settled::Unsent(..) | Settled::Later(..) => Cow::Borrowed(&[]),
        }
    }
}

impl Sink<FileTask> for LineSink<'_> {
    type Done = Lines;

    fn failure_of_one(done: &Lines) -> Option<&Error> {
        done.failures.first()
    }

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<FileTask>, Lines>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for end in ends.iter() {
            buffer.extend_from_slice(&self.lines(end, now));
        }
        if self.broken.is_none() {
            match self.output.write(&mut buffer) {
                Ok(()) => {}
                Err(Unsaved::Now(error)) => return Err(error),
                Err(lost) => self.broken = Some(lost),
            }
        }
        self.unsaved.extend(each_line(&buffer));
        buffer.clear();
        buffer.shrink_to(REUSED_BUFFER_BYTES);
        self.buffer = buffer;
        for end in ends.drain(..) {
            count(tally, &end, |lines| lines.measure);
            if let Settled::Final(_, Ok(lines)) = &end {
                let failures = lines.failures.iter();
                failures.for_each(|error| tally.failed(error, 1));
            }
        }
        if self.broken.is_none() {
            return Ok(());
        }
        // No call starts any more.
        let why = "the output takes no more results";
        Err(Error::new(ErrorKind::Invalid, why))
    }

    fn conclude(&mut self, tally: &mut Tally) {
        let OpenOutput::File(file) = &mut self.output else {
            return;
        };
        if file.undisturbed().is_err() {
            return;
        }
        // The next run copies what is missing.
        if let Err(error) = self.copies.of_this_run(file, tally) {
            log::warn!("{error}");
        }
    }
}
