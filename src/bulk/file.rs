//! A run from prompts to result lines, resumable by its output file.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::store_path::store_path;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::run::{CallsAtOnce, Waker, bad_concurrency};
use crate::engine::work::Ticket;
use crate::llm::outcome::Outcome;
use crate::llm::params::RequestTask;
use crate::llm::providers::attached::refusal;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::Tally;

use super::backlog::FileBacklog;
use super::equals::Equals;
use super::file_runner::file_runner;
use super::file_turn::RunEnvironment;
use super::input::{AttachedFiles, FileIndex, InputFile, Matching};
use super::known::{self, KnownAnswers, OutputAnswers};
use super::lines::call_for_lines;
use super::list::{Item as ListItem, ListBacklog, feed};
use super::open_output::OpenOutput;
use super::options::{FileRunError, FileRunOptions, RunOutput, RunPlan, RunReport};
use super::prompts::{PromptSource, Prompts, RequestKind};
use super::results::archive::Archived;
use super::results::superseded::SupersededFlags;
use super::reuse::{AnswerStore, Reuse};
use super::shared::SharedFile;
use super::stream::{self, Previous, StreamItem};
use super::tidy::{Tidy, tidy};
use crate::engine::pack::Pack;

mod prepare;

use prepare::{prepare_file, prepare_stream};

/// A run from prompts to result lines. Prepared first, so that whatever is wrong shows before
/// anything is spent.
pub struct FileRun<'a> {
    prompts: Prepared,
    output: OpenOutput,
    plan: RunPlan,
    options: FileRunOptions,
    calls: CallsAtOnce,
    on_error: ErrorPolicy,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier + 'a>>,
    reuse: Option<Arc<dyn AnswerStore + 'a>>,
}

enum Prepared {
    File {
        input: Arc<InputFile>,
        index: Arc<FileIndex>,
        kinds: Vec<RequestKind>,
        equals: Equals,
        of_output: OutputAnswers,
        output_cap: Option<u32>,
        task: RequestTask,
        /// The output holds several lines of one item.
        repeated: bool,
        /// Lines of earlier runs may say something else of their rows than they should.
        is_kept_otherwise: bool,
        flags: SupersededFlags,
        /// Answers in the archive that are taken back.
        restored: Vec<Archived>,
        attached: AttachedFiles,
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
    pub is_kept_otherwise: bool,
    pub flags: SupersededFlags,
    pub restored: Vec<Archived>,
    pub output: OpenOutput,
    pub plan: RunPlan,
    pub options: FileRunOptions,
}

impl<'a> FileRun<'a> {
    /// Opens the output and compares it with the prompts.
    ///
    /// # Errors
    /// When the output cannot be written, belongs to another run, or is no results file; when an earlier run has left
    /// items in the output's [store](crate::files::store_path), which this one would buy again.
    pub fn prepare(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        let store = output.regular_file().map(store_path);
        let run = Self::prepare_comparing(prompts, output, options, &mut |_| Ok(()))?;
        // The output is locked by now: no other run makes its store.
        match store {
            Some(Ok(store)) if store.exists() => Err(FileRunError::Usage(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} has items of an earlier run of this output, which would be bought again; nothing was sent. Go \
                     on with that run (the same command with --strategy batch), or give it up and remove that file",
                    store.display()
                ),
            ))),
            _ => Ok(run),
        }
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
            calls: CallsAtOnce::exactly(5),
            on_error: ErrorPolicy::default(),
            ctx: Context::new(),
            notifier: None,
            reuse: None,
        })
    }

    /// What is to be done.
    pub fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// Whether the output has a line of one of these items. The first of several samples may have got or lost its number
    /// since.
    #[cfg(feature = "queue")]
    pub(crate) fn has_line_of(&self, ids: &[String]) -> Result<bool, Error> {
        let OpenOutput::File(file) = &self.output else {
            return Ok(false);
        };
        let plain = |id: &str| id.strip_suffix("#1").unwrap_or(id).to_owned();
        let sought: Vec<String> = ids.iter().map(|id| plain(id)).collect();
        let mut found = false;
        file.scan(&mut |line, _| found |= sought.contains(&plain(&line.id)))?;
        Ok(found)
    }

    /// Checks that every file which the prompts name is taken by one of these providers at least, by
    /// its type and size, of those prompts that are to be sent. [`run`](Self::run) does so itself; this is for who
    /// wants to know before. A provider that is not known here takes all. Nothing is checked of a
    /// stream, nor where rows that make no prompt are
    /// [left out](crate::files::PromptSettings::skip_bad_rows): there each item fails for itself, unsent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with file, line and reason.
    pub fn check_files(&self, providers: &[String]) -> Result<(), Error> {
        let Prepared::File {
            input,
            index,
            attached,
            ..
        } = &self.prompts
        else {
            return Ok(());
        };
        let refused = |files: &AttachedFiles| files.refused(providers, &refusal);
        if input.skips_bad_rows() || refused(attached).is_none() {
            return Ok(());
        }
        // What is finished is not sent.
        let wanted = (0..index.len()).filter(|i| self.options.wants(index, *i));
        match input.first_refused(wanted, index, &refused)? {
            Some(refused) => Err(refused.into()),
            None => Ok(()),
        }
    }

    /// The first requests that would be sent, in the order of the input, up to the limit. A stream has none.
    ///
    /// # Errors
    /// If the input is no longer what was checked, or a file that a prompt names is not.
    pub fn requests_to_send(&self, most: usize) -> Result<Vec<Request>, Error> {
        let Prepared::File { input, index, .. } = &self.prompts else {
            return Ok(Vec::new());
        };
        let wanted = (0..index.len()).filter(|i| self.options.wants(index, *i));
        let items = wanted.take(most).map(|i| input.read(i, index));
        items
            .map(|item| item.map(|item| item.request).map_err(Error::from))
            .collect()
    }

    /// Of the items that somebody else has in hand so many have their outcome.
    #[cfg(feature = "queue")]
    pub(crate) fn set_to_collect(&mut self, items: u64) {
        let items = items.min(self.plan.under_way);
        self.plan.under_way -= items;
        self.plan.to_collect = items;
    }

    /// Of what somebody else has in hand so much answers other requests than the input's, for these reasons each in so
    /// many items that are sent again.
    #[cfg(feature = "queue")]
    pub(crate) fn set_under_way_superseded(&mut self, answers: u64, reasons: Vec<(String, u64)>) {
        let plan = &mut self.plan;
        plan.under_way_superseded = answers;
        let known: u64 = plan.differing.iter().map(|(_, items)| items).sum();
        let mut left = plan.to_send.unwrap_or(0).saturating_sub(known);
        for (reason, items) in reasons {
            let items = items.min(left);
            left -= items;
            match plan
                .differing
                .iter_mut()
                .find(|(known, _)| *known == reason)
            {
                Some((_, known)) => *known += items,
                None if items > 0 => plan.differing.push((reason, items)),
                None => {}
            }
        }
    }

    #[cfg(feature = "queue")]
    /// What it takes to have the items carried out elsewhere; nothing for a stream.
    pub(super) fn into_parts(self) -> Option<Parts> {
        let Prepared::File {
            input,
            index,
            repeated,
            is_kept_otherwise,
            flags,
            restored,
            ..
        } = self.prompts
        else {
            return None;
        };
        Some(Parts {
            input,
            index: Arc::into_inner(index)?,
            repeated,
            is_kept_otherwise,
            flags,
            restored,
            output: self.output,
            plan: self.plan,
            options: self.options,
        })
    }

    /// Calls in flight, each on a thread of its own. Default: 5.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.calls = CallsAtOnce::exactly(calls);
        self
    }

    /// Calls in flight as many as the route's limits allow, see
    /// [`Limits::self_tuned`](crate::Limits::self_tuned), and `most` at most; threads are started as calls
    /// need them. Default: exactly as many as [`concurrency`](Self::concurrency) says.
    pub fn up_to(mut self, most: usize) -> Self {
        self.calls = CallsAtOnce::up_to(most);
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

    /// Receives the progress. Default: no notifier.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier + 'a>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Answers requests from a store of earlier answers where it has any, and adds those of this run. They are those that
    /// may [share](FileRunOptions::dedupe) an answer, and answers are those of the route's first provider with the model
    /// that it is asked for; failures are not kept, nor answers that were cut or have a warning. The
    /// [plan](Self::plan) knows nothing of it but by [`plan_reuse`](Self::plan_reuse). Of a stream answers are kept, and none are taken. Default: none.
    pub fn reuse(mut self, store: Arc<dyn AnswerStore + 'a>) -> Self {
        self.reuse = Some(store);
        self
    }

    /// Takes out of the [plan](Self::plan) what a store of earlier answers would answer on this route, for a dry run: that
    /// is in [`reusable`](RunPlan::reusable), and in no other of its numbers. A stream's is not known.
    pub fn plan_reuse(&mut self, route: &Route<'_>, store: &dyn AnswerStore) {
        let Prepared::File {
            input,
            index,
            kinds,
            equals,
            of_output,
            ..
        } = &self.prompts
        else {
            return;
        };
        let reuse = Reuse {
            store,
            route,
            dedupe: self.options.dedupe,
        };
        let known = KnownAnswers {
            of_output,
            store: Some(reuse),
            kinds,
            options: &self.options,
        };
        known.plan(input, index, equals, &mut self.plan);
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
        if let Some(why) = bad_concurrency(self.calls.most) {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if let OpenOutput::File(file) = &mut self.output {
            file.mend()?;
        }
        let replies = match &self.output {
            OpenOutput::File(file) => Some(file.replies()),
            OpenOutput::Writer(_) | OpenOutput::Closed => None,
        };
        let replies = replies.as_ref();
        let route = route.into();
        self.check_files(&route.providers())?;
        let reuse = self.reuse.as_deref().map(|store| Reuse {
            store,
            route: &route,
            dedupe: self.options.dedupe,
        });
        let keep = |step: u8, request: &Request, outcome: &Outcome| {
            if let Some(reuse) = reuse {
                reuse.keep(step, request, outcome);
            }
        };
        let flush = || {
            if let Some(reuse) = reuse {
                reuse.store.flush();
            }
        };
        let surroundings = RunEnvironment {
            route: &route,
            calls: self.calls,
            on_error: self.on_error,
            ctx: &self.ctx,
            notifier: self.notifier.as_deref(),
        };
        match self.prompts {
            Prepared::File {
                input,
                index,
                kinds,
                mut equals,
                mut of_output,
                output_cap,
                task,
                repeated,
                is_kept_otherwise,
                flags,
                restored,
                ..
            } => {
                self.output.write_flags(&flags, &restored)?;
                if !flags.all_right() || !restored.is_empty() {
                    // The lines have moved, and answers of the archive are among them.
                    let embeds = task == RequestTask::Embed;
                    let (output, plan) = (&self.output, &mut self.plan);
                    (equals, of_output) =
                        known::find(&index, &kinds, output, &self.options, embeds, plan)?;
                }
                let mut last = None;
                let classes = kinds.iter().map(|kind| {
                    let request = Request {
                        model: kind.model.clone(),
                        ..Request::default()
                    };
                    (route.class(&request, &mut last), kind.packs)
                });
                let options = &self.options;
                let started = route.clock_ref().now();
                let mut tally = Tally::new(self.plan.total, started)
                    .by(route.providers())
                    .embedding(task == RequestTask::Embed);
                self.plan.count_before(options, &index, &mut tally);
                let mut replaced = self.output.tell_bad_rows(&input, &index, &mut tally)?;
                let mut shared = SharedFile::new(input.clone(), index.clone(), equals);
                let output = &mut self.output;
                let known = KnownAnswers {
                    of_output: &of_output,
                    store: reuse,
                    kinds: &kinds,
                    options,
                };
                replaced |= known.write(&mut shared, output, &mut tally, &self.ctx)?;
                let (asked, equal) = shared.equals.to_ask(&index, options);
                tally.will_send(asked + equal);
                let shared = Arc::new(shared);
                let backlog = FileBacklog::new(
                    shared.clone(),
                    classes,
                    *options,
                    output_cap,
                    route.pack_limits(task),
                );
                drop(shared);
                let runner = file_runner(&route, &input, &index, (replies, &keep));
                let mut ended =
                    surroundings.turn(backlog, self.output, tally, &runner, Waker::new())?;
                flush();
                drop(runner);
                let ordered = options.ordered;
                let how = Tidy {
                    compacts: repeated || replaced || ordered || ended.superseded > 0,
                    ordered,
                    updates_rows: is_kept_otherwise,
                };
                ended.tidy(|file, clean| {
                    if !clean || !(how.compacts || how.updates_rows) {
                        return Ok(());
                    }
                    // The run is over and its threads are joined, so this is the last reference; if
                    // it ever were not, an output left out of order must not pass for one in order.
                    let in_use =
                        || Error::new(ErrorKind::Invalid, "the input's index is still in use");
                    let index = Arc::into_inner(index).ok_or_else(in_use)?;
                    tidy(file, &input, &index.into_matching(), how)
                });
                Ok(ended.report)
            }
            Prepared::Stream { prompts, previous } => {
                let (waker, woken) = Waker::new();
                let (feeder, source, _) = feed(
                    self.calls.read_ahead(),
                    route.pack_limits(prompts.settings.0.task),
                    waker.clone(),
                );
                let before = self.output.len();
                let reading = stream::read(*prompts, previous, feeder, &self.options)?;
                let backlog = ListBacklog::new(&route, source);
                let tally = Tally::new(None, route.clock_ref().now()).by(route.providers());
                let runner = |ticket: &Ticket<Pack<ListItem<StreamItem>>>, ctx: &Context| {
                    let tasks: Vec<_> = ticket.task.iter().map(|member| &member.task).collect();
                    if let Some(why) = tasks.iter().find_map(|task| task.request.unsent.clone()) {
                        return why.into();
                    }
                    let requests = tasks.iter().map(|task| &task.request.request);
                    let requests: Vec<_> = requests.collect();
                    call_for_lines(
                        &route,
                        &requests,
                        &tasks,
                        (&ticket.tries, &ticket.timer),
                        (replies, &keep),
                        ctx,
                    )
                };
                let mut ended =
                    surroundings.turn(backlog, self.output, tally, &runner, (waker, woken))?;
                flush();
                let (skipped, failed) = reading.skipped();
                ended
                    .report
                    .summary
                    .add_before(skipped, failed, reading.unusable());
                let ordered = self.options.ordered;
                let untidy = ordered || ended.superseded > 0 || reading.repeated();
                ended.tidy(|file, clean| {
                    let how = Tidy {
                        compacts: untidy && clean,
                        ordered,
                        updates_rows: false,
                    };
                    reading.tidy(file, before, how)
                });
                Ok(ended.report)
            }
        }
    }
}
