//! One turn of a file run: runs the engine over a backlog, makes the calls of its items on worker threads, and writes
//! each result when it arrives.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::backlog::{FileBacklog, FileTask};
use super::call::{Answered, call_step, measure};
use super::copies::Copies;
use super::input::{FileIndex, InputFile, Unread};
use super::line_sink::{LineSink, SentLines, Target};
use super::lines::{Lines, Named, each_line};
use super::open_output::{OpenOutput, not_written};
use super::options::RunReport;
use super::replies::Replies;
use super::results::ResultsFile;
use super::work::{Job, dispatcher};
use crate::base::{Context, Error, MemoryManager, Time};
use crate::engine::dispatch::{Dispatcher, Event, StopReason};
use crate::engine::run::{Outlet, Reply, Runner, Waker};
use crate::engine::work::Ticket;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::drive::{Drive, RunOptions};
use crate::observe::tally::Tally;

pub(super) struct FileTurn<'t, 'r> {
    pub route: &'r Route<'r>,
    pub options: &'t RunOptions<'t>,
    pub copies: Option<Arc<Copies>>,
}

pub(super) struct FileRunEnd {
    pub report: RunReport,
    pub file: Option<ResultsFile>,
}

impl FileRunEnd {
    /// Tidies the output, unless another program changed it. `tidy` receives whether the run was completed.
    pub fn tidy(&mut self, tidy: impl FnOnce(&mut ResultsFile, bool) -> Result<(), Error>) {
        let clean = self.report.stop.is_none() && self.report.unsaved.is_empty();
        let Some(file) = &mut self.file else { return };
        match file.undisturbed() {
            Err(lost) => {
                self.report.stop = Some(StopReason::OutputLost(lost));
                if !file.is_in_place() {
                    // There was no place for a copy either, so the lines are returned to the caller.
                    let unsaved = &mut self.report.unsaved;
                    let read = file.lines(&mut |line| unsaved.push([line, b"\n"].concat()));
                    read.unwrap_or_else(|e| log::warn!("{e}"));
                }
            }
            Ok(()) => self.report.compaction = tidy(file, clean),
        }
    }
}

/// Writes lines to a stream of the caller on the caller's thread.
#[derive(Default)]
struct LineWriter {
    writer: Option<Box<dyn Write + Send>>,
    broken: Option<io::Error>,
    unsaved: Vec<Vec<u8>>,
}

impl LineWriter {
    fn write(&mut self, lines: Vec<u8>) -> ControlFlow<()> {
        if lines.is_empty() {
            return ControlFlow::Continue(());
        }
        if let (Some(writer), None) = (&mut self.writer, &self.broken) {
            match writer.write_all(&lines).and_then(|()| writer.flush()) {
                Ok(()) => return ControlFlow::Continue(()),
                Err(error) => self.broken = Some(error),
            }
        }
        self.unsaved.extend(each_line(&lines));
        ControlFlow::Break(())
    }

    /// Why lines could not be written, unless the reader of the stream closed it.
    fn failure(&self) -> Option<StopReason> {
        let broken = self.broken.as_ref();
        let broken = broken.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)?;
        Some(StopReason::Fatal(not_written(broken)))
    }
}

impl<'r> FileTurn<'_, 'r> {
    pub fn run<R: Runner<Pack<FileTask>, Lines>>(
        &self,
        backlog: FileBacklog<'_>,
        output: OpenOutput,
        tally: Tally,
        runner: &R,
        waker: Waker,
        woken: Receiver<()>,
    ) -> Result<FileRunEnd, Error> {
        let (route, clock) = (self.route, self.route.clock_ref());
        let (tx, rx) = bounded::<SentLines>(self.options.calls.most);
        let mut writer = LineWriter::default();
        let target = match output {
            OpenOutput::File(file) => Target::File(file),
            OpenOutput::Writer(open) => {
                writer.writer = Some(open);
                Target::Caller(tx)
            }
            OpenOutput::Closed => {
                writer.broken = Some(io::ErrorKind::BrokenPipe.into());
                Target::Caller(tx)
            }
        };
        let is_closed = writer.broken.is_some();
        let defers = matches!(target, Target::Caller(_));
        let job = Job {
            backlog,
            tally,
            sink: LineSink {
                route,
                target,
                buffer: Vec::new(),
                copies: self.copies.clone(),
                is_cancelled: false,
            },
        };
        let mut dispatcher = dispatcher(job, route, self.options);
        if is_closed {
            dispatcher.handle(Event::Stop(StopReason::SinkClosed), clock.now());
        }
        let mut write = |lines: SentLines| {
            let written = writer.write(lines.bytes);
            drop(lines.unwritten);
            written
        };
        let outlet = defers.then_some(Outlet {
            outcomes: rx,
            sink: &mut write,
        });
        let options = self.options;
        let drive = Drive { options, clock };
        let mut end = drive.run(dispatcher, runner, waker, woken, outlet, &watch)?;
        let cancelled = end.work.sink.is_cancelled;
        let cancelled = cancelled.then_some(StopReason::Cancelled);
        let lost = end.work.sink.lines_of(&end.lost, end.now);
        writer.unsaved.extend(lost);
        Ok(FileRunEnd {
            report: RunReport {
                summary: end.summary(),
                stop: writer.failure().or(end.stop).or(cancelled),
                unsaved: writer.unsaved,
                compaction: Ok(()),
            },
            file: match end.work.sink.target {
                Target::File(file) => Some(file),
                Target::Caller(_) => None,
            },
        })
    }
}

/// Stops the run if another program changes the output.
fn watch(dispatcher: &mut Dispatcher<Job<FileBacklog<'_>, LineSink<'_>>>, now: Time) {
    if let Target::File(file) = &mut dispatcher.work.sink.target
        && let Err(lost) = file.undisturbed()
    {
        dispatcher.handle(Event::Stop(StopReason::OutputLost(lost)), now);
    }
}

pub(super) struct FileRunner<'r> {
    pub route: &'r Route<'r>,
    pub input: &'r InputFile,
    pub index: &'r FileIndex,
    /// Where large unusable replies are stored.
    pub replies: Option<Replies>,
}

/// Why a task makes no request.
struct NotRead {
    error: Error,
    /// The input has changed since it was checked: nothing more of it may be sent.
    fatal: bool,
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
                Err(NotRead { error, fatal }) => {
                    return Reply {
                        fatal,
                        ..error.into()
                    };
                }
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

    fn read(&self, task: &FileTask) -> Result<Request, NotRead> {
        let i = task.index as usize;
        match self.input.read(i, self.index) {
            Ok(item) => {
                let mut request = item.request;
                let input = request.input.take();
                task.named.get_or_init(|| Named {
                    id: request.id.clone().unwrap_or_default(),
                    request_hash: item.request_hash,
                    model: request.model.clone(),
                    input,
                });
                Ok(request)
            }
            Err(Unread::Changed(changed)) => Err(NotRead {
                error: changed.into(),
                fatal: true,
            }),
            Err(Unread::Files { row, error }) => {
                task.named.get_or_init(|| Named::of_bad_row(*row));
                Err(NotRead {
                    error,
                    fatal: false,
                })
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
