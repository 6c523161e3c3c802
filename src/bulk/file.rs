//! A run from prompts to result lines, resumable by its output file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rayon::prelude::*;

use crate::base::disk::store_path;
use crate::base::{Context, Error, ErrorKind};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::estimate::Estimate;
use crate::llm::native::NativeFormat;
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::drive::RunOptions;
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::Tally;

use super::backlog::FileBacklog;
use super::copies::Copies;
use super::file_turn::{FileRunner, turn};
use super::input::refused;
use super::open_output::OpenOutput;
use super::options::{FileRunError, FileRunOptions, RunOutput, RunPlan, RunReport};
use super::prompts::{Prompts, RequestKind};
use super::results::archive::Archived;
use super::tidy;

mod prepare;

/// A run from prompts to result lines. It is prepared first, so that all mistakes are reported before anything is sent.
///
/// Money and time: the [`Route`] has the [prices](Route::prices), also for your own client, and the [budget](Route::budget).
/// [`deadline`](Self::deadline) is of the run. [`estimates`](Self::estimates) shows what it would send.
pub struct FileRun<'a> {
    /// The input, after its comparison with the output.
    pub(super) copies: Copies,
    pub(super) output: OpenOutput,
    pub(super) plan: RunPlan,
    /// Whether the output has several lines of one item, or gets some.
    pub(super) repeated: bool,
    /// Answers in the archive that are restored.
    pub(super) restored: Vec<Archived>,
    kinds: Vec<RequestKind>,
    prefix: Option<PromptPrefix>,
    output_cap: Option<u32>,
    task: RequestTask,
    sending: RunOptions<'a>,
}

impl<'a> FileRun<'a> {
    /// Opens the output and compares it with the prompts.
    ///
    /// When the output cannot be written, belongs to another run, or is not a results file; when an earlier run has
    /// left items in the output's [store](crate::files::store_path), which this run would send again.
    pub fn prepare(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        let store = output.regular_file().map(store_path);
        let run = Self::prepare_comparing(prompts, output, options, &mut |_| Ok(()))?;
        // The output is locked by now, so no other run creates its store.
        match store {
            Some(Ok(store)) if store.exists() => Err(FileRunError::Usage(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} has items of an earlier run of this output, which would be bought again; nothing was sent. Go \
                     on with that run (the same command with --strategy batch), or give it up and remove that file",
                    store.display()
                ),
            ))),
            _ => run.refuse_taken().map(|()| run),
        }
    }

    /// The plan of the run.
    pub fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// Whether the output has a line of one of these items.
    pub(crate) fn has_line_of(&self, ids: &[String]) -> Result<bool, Error> {
        let OpenOutput::File(file) = &self.output else {
            return Ok(false);
        };
        let mut found = false;
        file.scan(&mut |line, _| found |= ids.contains(&line.id))?;
        Ok(found)
    }

    /// Checks that one of these providers gets each line that is in the format of one provider.
    /// [`run`](Self::run) does this itself; this method is for programs that check it earlier. Inputs whose bad rows are
    /// [skipped](crate::files::PromptSettings::skip_bad_rows) are not checked: there each such item fails, unsent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with file, line and reason.
    pub fn check_providers(&self, providers: &[String]) -> Result<(), Error> {
        let Copies {
            input,
            index,
            options,
            ..
        } = &self.copies;
        let is_refused = |format: &NativeFormat| refused(*format, providers).is_some();
        if input.settings().skip_bad_rows || !index.native.iter().any(is_refused) {
            return Ok(());
        }
        // Finished items are not sent.
        let wanted = (0..index.len()).filter(|i| options.wants(&index[*i]));
        input.refuse_native(wanted, index, providers)
    }

    /// Sets how many of the items in progress elsewhere have their outcome.
    pub(crate) fn set_to_collect(&mut self, items: u64) {
        let items = items.min(self.plan.under_way);
        self.plan.under_way -= items;
        self.plan.to_collect = items;
    }

    /// Adds the items that are sent again although a queue has an answer to an outdated request of theirs.
    pub(crate) fn add_differing(&mut self, items: u64) {
        let plan = &mut self.plan;
        let most = plan.to_send.max(plan.differing);
        plan.differing = (plan.differing + items).min(most);
    }

    /// Maximum number of calls in flight, each on a separate thread; fewer if the limits of the route allow fewer, see
    /// [`Limits::self_tuned`](crate::Limits::self_tuned). Default: 5.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.sending.calls = calls;
        self
    }

    /// The effect of a failed item on the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.sending.on_error = policy;
        self
    }

    /// Starts no call after this deadline; calls in flight then end normally. Items that were not started stay pending, and
    /// the same run sends them later. See [`Bulk::deadline`](crate::Bulk::deadline). A run that moves items from batches
    /// to calls in time goes through the queue, see `QueueRun::deadline`. Default: no deadline.
    pub fn deadline(mut self, deadline: SystemTime) -> Self {
        self.sending.starts_until = Some(deadline.into());
        self
    }

    /// Cancellation, deadline and grace period. Default: a context that is never cancelled.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.sending.ctx = ctx.clone();
        self
    }

    /// Receives the progress. Default: no notifier.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier + 'a>) -> Self {
        self.sending.notifier = Some(notifier);
        self
    }

    /// Sends the items of the plan through a client or a [`Route`].
    ///
    /// # Errors
    /// Only if the run could not start; the [`RunReport`] says how it ended.
    pub fn run<'r>(mut self, route: impl Into<Route<'r>>) -> Result<RunReport, Error> {
        if self.copies.options.dry_run {
            let why = "the run was prepared as a dry run";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if let Some(why) = self.sending.misuse() {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let route = route.into();
        let (task, embeds) = (self.task, self.task == RequestTask::Embed);
        self.check_providers(&route.providers())?;
        let (mut replies, mut has_moved) = (None, !self.restored.is_empty());
        if let Some(file) = self.output.file() {
            has_moved |= file.mend()?;
            file.restore(&self.restored)?;
            replies = Some(file.replies());
        }
        if has_moved {
            self.copies.find(&self.output, embeds, &mut self.plan)?;
        }
        let mut tally = Tally::new(Some(self.plan.total), route.clock_ref().now())
            .by(route.providers())
            .embedding(embeds);
        self.settle_known(&mut tally)?;
        let copies = &self.copies;
        let runner = FileRunner {
            route: &route,
            input: &copies.input,
            index: &copies.index,
            replies,
        };
        if let Some(first) = self.kinds.first() {
            route.start_with_one(self.prefix.as_ref(), &first.request());
        }
        let mut last = None;
        let kinds = self.kinds.iter();
        let kinds = kinds.map(|kind| (route.class(&kind.request(), &mut last), kind.packs));
        let limits = || route.pack_limits(task);
        let (index, options) = (&copies.index, copies.options);
        let backlog = FileBacklog::new(index, kinds, options, self.output_cap, limits);
        let ended = turn(&runner, backlog, copies, self.output, tally, &self.sending)?;
        let (mut report, mut output) = ended;
        let Some(file) = output.file() else {
            return Ok(report);
        };
        tidy::end(file, &mut self.copies, self.repeated, &mut report);
        if !file.is_in_place() {
            // There was no place for a copy either, so the lines are returned to the caller.
            let unsaved = &mut report.unsaved;
            let read = file.lines(&mut |line| unsaved.push([line, b"\n"].concat()));
            read.unwrap_or_else(|e| log::warn!("{e}"));
        }
        Ok(report)
    }

    /// Writes the lines of items that need no call.
    fn settle_known(&mut self, tally: &mut Tally) -> Result<(), Error> {
        let (copies, output) = (&mut self.copies, &mut self.output);
        copies.count_before(&self.plan, tally);
        output.tell_bad_rows(&copies.input, &copies.index, tally)?;
        copies.ctx = self.sending.ctx.clone();
        if let Some(file) = output.file() {
            copies.copy(&copies.answers, file, tally)?;
            copies.begins = file.len();
        }
        tally.will_send(self.plan.to_send + self.plan.equal);
        Ok(())
    }

    /// The first request that the run would send; `None` if it would send none.
    ///
    /// # Errors
    /// As [`estimates`](Self::estimates).
    pub fn first_request(&self) -> Result<Option<Request>, Error> {
        let Copies { input, index, .. } = &self.copies;
        let first = self.copies.options.to_send(index).next();
        let read = first.map(|item| input.read(item, index));
        Ok(read.transpose()?.map(|item| item.request))
    }

    /// The requests that the run would send, by the model that they name; those without one are under `None`. They are read
    /// again for this. Items that need no call, such as finished ones and duplicates, are not included.
    ///
    /// # Errors
    /// If the input, or a file that a prompt names, has changed since it was checked.
    pub fn estimates(&self) -> Result<BTreeMap<Option<String>, Estimate>, Error> {
        let Copies { input, index, .. } = &self.copies;
        let completes = self.task == RequestTask::Complete;
        let add = |mut all: BTreeMap<Option<String>, Estimate>, item| {
            let request = input.read(item, index)?.request;
            let tokens = request.estimated_tokens();
            let most = request.params.max_tokens;
            let most = if completes { most } else { Some(0) };
            all.entry(request.model).or_default().add(tokens, most);
            Ok::<_, Error>(all)
        };
        let merge = |mut all: BTreeMap<Option<String>, Estimate>, part| {
            for (model, estimate) in part {
                all.entry(model).or_default().add_all(&estimate);
            }
            Ok(all)
        };
        // No list of them, which would be the largest one after the index.
        let options = self.copies.options;
        let end = options.to_send(index).last().map_or(0, |last| last + 1);
        let items = (0..end).into_par_iter();
        let items = items.filter(|item| options.sends(&index[*item]));
        let parts = items.try_fold(BTreeMap::new, add);
        parts.try_reduce(BTreeMap::new, merge)
    }
}
