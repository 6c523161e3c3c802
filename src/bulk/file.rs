//! A run from prompts to result lines, resumable by its output file.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Event, StopReason};
use crate::engine::run::{Finish, Observer, Outlet, Reply, RunSetup, Runner, Waker, run};
use crate::engine::work::Ticket;
use crate::llm::request::{Request, RequestTask};
use crate::llm::route::Route;
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::Tally;

use super::backlog::FileBacklog;
use super::call::{finished, progress};
use super::compact::compact;
use super::input::{FileIndex, InputError, InputFile, Matching};
use super::lines::{
    FileTask, Identified, LineSink, Lines, Named, Target, call_for_lines, each_line,
};
use super::list::{Feeder, Item, ListBacklog};
use super::open_output::{OpenOutput, Opened, open, refuse_same_file};
use super::options::{FileRunError, FileRunOptions, RunOutput, RunPlan, RunReport};
use super::prompts::{PromptSource, Prompts};
use super::replies::Replies;
use super::results::ResultsFile;
use super::results::superseded::SupersededFlags;
use super::stream::{self, Previous, StreamItem};
use super::work::Job;
use super::{TICK, bad_concurrency};
use crate::engine::pack::{Backlog, Pack, Packed};

/// A run from prompts to result lines. Prepared first, so that whatever is wrong shows before
/// anything is spent.
pub struct FileRun<'a> {
    prompts: Prepared,
    output: OpenOutput,
    plan: RunPlan,
    options: FileRunOptions,
    concurrency: usize,
    on_error: ErrorPolicy,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier + 'a>>,
}

enum Prepared {
    File {
        input: Arc<InputFile>,
        index: Arc<FileIndex>,
        models: Vec<Option<String>>,
        output_cap: Option<u32>,
        task: RequestTask,
        /// The output holds several lines of one item.
        repeated: bool,
        flags: SupersededFlags,
    },
    Stream {
        prompts: Box<Prompts>,
        previous: Previous,
    },
}

#[cfg(feature = "queue")]
/// A prepared run of a file, taken apart.
pub(super) struct Parts {
    pub input: Arc<InputFile>,
    pub index: FileIndex,
    /// The output holds several lines of one item.
    pub repeated: bool,
    pub flags: SupersededFlags,
    pub output: OpenOutput,
    pub plan: RunPlan,
    pub options: FileRunOptions,
}

impl<'a> FileRun<'a> {
    /// Opens the output and compares it with the prompts.
    ///
    /// # Errors
    /// When the output cannot be written, belongs to another run, or is no results file.
    pub fn prepare(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        Self::prepare_comparing(prompts, output, options, &mut |_| Ok(()))
    }

    /// The same, with a look at what somebody else has in hand, once the output is locked.
    pub(crate) fn prepare_comparing(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
        compare: &mut dyn FnMut(&mut Matching) -> Result<(), Error>,
    ) -> Result<Self, FileRunError> {
        let mut plan = RunPlan::default();
        let (prompts, output) = match prompts.source {
            PromptSource::File(_) => prepare_file(prompts, output, &options, &mut plan, compare)?,
            PromptSource::Stream { .. } => prepare_stream(prompts, output, &options, &mut plan)?,
        };
        Ok(Self {
            prompts,
            output,
            plan,
            options,
            concurrency: 5,
            on_error: ErrorPolicy::default(),
            ctx: Context::new(),
            notifier: None,
        })
    }

    /// What is to be done.
    pub fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// Of the items that somebody else has in hand so many have their outcome.
    #[cfg(feature = "queue")]
    pub(crate) fn set_to_collect(&mut self, items: u64) {
        let items = items.min(self.plan.under_way);
        self.plan.under_way -= items;
        self.plan.to_collect = items;
    }

    #[cfg(feature = "queue")]
    /// What it takes to have the items carried out elsewhere; nothing for a stream.
    pub(super) fn into_parts(self) -> Option<Parts> {
        let Prepared::File {
            input,
            index,
            repeated,
            flags,
            ..
        } = self.prompts
        else {
            return None;
        };
        Some(Parts {
            input,
            index: Arc::into_inner(index)?,
            repeated,
            flags,
            output: self.output,
            plan: self.plan,
            options: self.options,
        })
    }

    /// Calls in flight, each on a thread of its own. Default: 5.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// What a failed item means for the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// Cancellation, deadline and grace. Default: a context that nobody cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Who is told about progress. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier + 'a>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Sends what is to be sent, through a client or a [`Route`].
    ///
    /// # Errors
    /// Only when the run could not begin; how it ended is in the [`RunReport`].
    pub fn run<'r>(mut self, route: impl Into<Route<'r>>) -> Result<RunReport, Error> {
        if self.options.dry_run {
            let why = "the run was prepared as a dry run";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if let Some(why) = bad_concurrency(self.concurrency) {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if let OpenOutput::File(file) = &mut self.output {
            file.mend()?;
        }
        let replies = match &self.output {
            OpenOutput::File(file) => Some(file.replies()),
            OpenOutput::Writer(_) => None,
        };
        let replies = replies.as_ref();
        let route = route.into();
        let surroundings = RunEnvironment {
            route: &route,
            concurrency: self.concurrency,
            on_error: self.on_error,
            ctx: &self.ctx,
            notifier: self.notifier.as_deref(),
        };
        match self.prompts {
            Prepared::File {
                input,
                index,
                models,
                output_cap,
                task,
                repeated,
                flags,
            } => {
                self.output.write_flags(&flags)?;
                let mut last = None;
                let classes = models
                    .into_iter()
                    .map(|model| {
                        let request = Request {
                            model,
                            ..Request::default()
                        };
                        route.class(&request, &mut last)
                    })
                    .collect();
                let options = &self.options;
                let backlog = FileBacklog::new(
                    index.clone(),
                    classes,
                    *options,
                    output_cap,
                    route.pack_limits(task),
                );
                let mut tally =
                    Tally::new(self.plan.total, route.clock_ref().now()).by(route.providers());
                self.plan.count_before(options, &index, &mut tally);
                let replaced = self.output.tell_bad_rows(&input, &index, &mut tally)?;
                if let Some(items) = self.plan.to_send {
                    tally.will_send(items);
                }
                let runner = file_runner(&route, &input, &index, replies);
                let mut ended =
                    surroundings.turn(backlog, self.output, tally, &runner, Waker::new())?;
                drop(runner);
                let ordered = options.ordered;
                let untidy = repeated || replaced || ordered || ended.superseded > 0;
                ended.tidy(untidy, |file| {
                    // The run is over and its threads are joined, so this is the last reference; if
                    // it ever were not, an output left out of order must not pass for one in order.
                    let in_use =
                        || Error::new(ErrorKind::Invalid, "the input's index is still in use");
                    let index = Arc::into_inner(index).ok_or_else(in_use)?;
                    compact(file, index, ordered)
                });
                Ok(ended.report)
            }
            Prepared::Stream { prompts, previous } => {
                let (waker, woken) = Waker::new();
                let (feeder, source, _) = Feeder::new(
                    2 * self.concurrency,
                    route.pack_limits(prompts.settings.0.task),
                    waker.clone(),
                );
                let before = self.output.len();
                let reading = stream::read(*prompts, previous, feeder, &self.options)?;
                let backlog = ListBacklog::new(&route, source);
                let tally = Tally::new(None, route.clock_ref().now()).by(route.providers());
                let runner = |ticket: &Ticket<Pack<Item<StreamItem>>>, ctx: &Context| {
                    let items = ticket.task.iter().map(|member| &member.task.request);
                    let pack: Vec<_> = items.map(|item| (&item.request, &item.named)).collect();
                    call_for_lines(&route, &pack, &ticket.tries, replies, ctx)
                };
                let mut ended =
                    surroundings.turn(backlog, self.output, tally, &runner, (waker, woken))?;
                let (skipped, failed) = reading.skipped();
                ended
                    .report
                    .summary
                    .add_before(skipped, failed, reading.unusable());
                let ordered = self.options.ordered;
                let untidy = ordered || ended.superseded > 0 || reading.repeated();
                ended.write_flags(|file| reading.write_flags(file, before));
                ended.tidy(untidy, |file| reading.compact(file, ordered));
                Ok(ended.report)
            }
        }
    }
}

fn file_runner<'r>(
    route: &'r Route<'r>,
    input: &'r InputFile,
    index: &'r FileIndex,
    replies: Option<&'r Replies>,
) -> impl Runner<Pack<FileTask>, Lines> + 'r {
    move |ticket: &Ticket<Pack<FileTask>>, ctx: &Context| -> Reply<Lines> {
        let tasks = ticket.task.iter().map(|member| &member.task);
        let read = |task: &FileTask| {
            let item = input.read(task.index as usize, index)?;
            task.named.get_or_init(|| Named {
                id: item.request.id.clone().unwrap_or_default(),
                request_hash: item.request_hash,
                model: item.request.model.clone(),
            });
            Ok(item.request)
        };
        let requests: Vec<Request> = match tasks.clone().map(read).collect() {
            Ok(requests) => requests,
            Err(changed) => {
                let changed: InputError = changed;
                return Reply {
                    fatal: true,
                    ..Error::from(changed).into()
                };
            }
        };
        let named = tasks.filter_map(|task| task.named.get());
        let pack: Vec<_> = requests.iter().zip(named).collect();
        call_for_lines(route, &pack, &ticket.tries, replies, ctx)
    }
}

fn prepare_file(
    prompts: Prompts,
    output: RunOutput,
    options: &FileRunOptions,
    plan: &mut RunPlan,
    compare: &mut dyn FnMut(&mut Matching) -> Result<(), Error>,
) -> Result<(Prepared, OpenOutput), FileRunError> {
    let PromptSource::File(mut checked) = prompts.source else {
        unreachable!("asked for files only");
    };
    let mut matched = 0;
    let mut flags = SupersededFlags::default();
    let output = match open(output, options)? {
        Opened::Writer(writer) => OpenOutput::Writer(writer),
        Opened::File(path) => {
            let mut inputs = checked.input.names();
            inputs.try_for_each(|input| refuse_same_file(&path, Path::new(input)))?;
            plan.resumable = true;
            let (models, vectors) = (&mut plan.models_before, &mut plan.vectors_before);
            let superseded = &mut plan.superseded;
            let embeds = prompts.settings.0.task == RequestTask::Embed;
            let file = ResultsFile::open(&path, options.fsync, &mut |line, _| {
                let prefix = line.prefix(options.redo_extracts);
                let found = checked.items.match_line(&line.id, prefix, line.ended());
                if found != super::input::Match::Unknown {
                    matched += 1;
                }
                let outdated = found == super::input::Match::Changed;
                *superseded += u64::from(outdated && line.success);
                let unknown = found == super::input::Match::Unknown;
                flags.next(line.superseded, outdated || (unknown && line.superseded));
                if embeds && found == super::input::Match::Done {
                    remember(vectors, line.provider.clone().zip(line.model.clone()));
                }
                if line.success && found != super::input::Match::Unknown {
                    remember(models, line.model);
                }
            })?;
            OpenOutput::File(file)
        }
    };
    let bad = checked.items.totals().bad;
    compare(&mut checked.items).map_err(FileRunError::Output)?;
    let index = checked.items.finish();
    let tally = index.tally();
    let total = index.len() as u64;
    let items = 0..index.len();
    plan.under_way = items.clone().filter(|i| index.is_taken(*i)).count() as u64;
    let wanted = items.filter(|i| is_wanted(&index, *i, options));
    let wanted = wanted.count() as u64;
    plan.total = Some(total);
    plan.done = tally.done;
    plan.failed_before = tally.failed;
    plan.unusable_before = tally.unusable;
    plan.changed = tally.changed;
    plan.foreign = tally.unknown_lines;
    plan.without_id = tally.automatic;
    plan.bad_rows = bad;
    let most = options.max_items.map_or(u64::MAX, |most| most as u64);
    plan.to_send = Some(wanted.min(most));
    let prepared = Prepared::File {
        input: checked.input,
        index: Arc::new(index),
        models: checked.models,
        output_cap: prompts.settings.output_cap(),
        task: prompts.settings.0.task,
        repeated: matched > tally.done + tally.failed + tally.unusable + tally.changed,
        flags,
    };
    Ok((prepared, output))
}

/// True for an item that is to be sent and that nobody has in hand.
pub(super) fn is_wanted(index: &FileIndex, i: usize, options: &FileRunOptions) -> bool {
    options.want(index.state(i)) && !index.is_taken(i) && !index.is_bad(i)
}

/// A few models are enough to tell that the default has changed.
fn remember<M: PartialEq>(models: &mut Vec<M>, model: Option<M>) {
    if let Some(model) = model.filter(|_| models.len() < 8)
        && !models.contains(&model)
    {
        models.push(model);
    }
}

fn prepare_stream(
    prompts: Prompts,
    output: RunOutput,
    options: &FileRunOptions,
    plan: &mut RunPlan,
) -> Result<(Prepared, OpenOutput), FileRunError> {
    let mut previous = Previous::new(options.redo_extracts);
    let output = match open(output, options)? {
        Opened::Writer(writer) => OpenOutput::Writer(writer),
        Opened::File(path) => {
            plan.resumable = true;
            OpenOutput::File(ResultsFile::open(&path, options.fsync, &mut |line, _| {
                previous.add(&line);
            })?)
        }
    };
    previous.seal();
    let prompts = Box::new(prompts);
    Ok((Prepared::Stream { prompts, previous }, output))
}

/// What every kind of file run is surrounded by.
struct RunEnvironment<'s, 'r> {
    route: &'r Route<'r>,
    concurrency: usize,
    on_error: ErrorPolicy,
    ctx: &'s Context,
    notifier: Option<&'s (dyn ProgressNotifier + 's)>,
}

struct FileRunEnd {
    report: RunReport,
    file: Option<ResultsFile>,
    superseded: u64,
}

impl FileRunEnd {
    /// It ran through, so what it leaves behind may be tidied up.
    fn clean(&self) -> bool {
        self.report.stop.is_none() && self.report.unsaved.is_empty()
    }

    /// Marks what a stream has changed, which only its end can tell.
    fn write_flags(&mut self, write_flags: impl FnOnce(&mut ResultsFile) -> Result<(), Error>) {
        if let Some(file) = &mut self.file
            && file.undisturbed().is_ok()
        {
            self.report.compaction = write_flags(file);
        }
    }

    /// Compacts an untidy output, unless somebody else had a hand in it.
    fn tidy(&mut self, untidy: bool, compact: impl FnOnce(&mut ResultsFile) -> Result<(), Error>) {
        let wanted = untidy && self.clean();
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
            Ok(()) if wanted && self.report.compaction.is_ok() => {
                self.report.compaction = compact(file);
            }
            Ok(()) => {}
        }
    }
}

impl<'r> RunEnvironment<'_, 'r> {
    fn turn<B, R>(
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
        let (tx, rx) = bounded::<Vec<u8>>(self.concurrency);
        let mut unsaved = Vec::new();
        let mut broken = None;
        let (target, mut writer) = match output {
            OpenOutput::File(file) => (Target::File(file), None),
            OpenOutput::Writer(writer) => (Target::Caller(tx), Some(writer)),
        };
        let deferring = writer.is_some();
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
        let options = route.options(self.ctx, self.concurrency, self.on_error);
        let dispatcher = Dispatcher::new(job, route.limiter(), options);
        let setup = RunSetup {
            ctx: self.ctx,
            clock,
            threads: self.concurrency,
            permits: None,
            waker,
            woken,
            tick: TICK,
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
        let Finish { dispatcher, lost } = run(dispatcher, runner, setup, outlet, &mut observer)?;
        let now = clock.now();
        if let Some(notifier) = self.notifier {
            notifier.on_progress(&finished(&dispatcher, now));
        }
        let (counters, bottlenecks) = (dispatcher.counters(), dispatcher.bottlenecks());
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
                summary: tally.summary(&counters, bottlenecks, now),
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
