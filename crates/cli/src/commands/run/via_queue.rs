//! A run whose items go through the queue: for the batch strategy, and for items that an earlier run queued.

use std::path::PathBuf;

use batchwright::batch::BatchInfo;
use batchwright::files::{
    FileRunError, QueueRun, QueueRunReport, RunOutput, RunReport, store_path,
};
use batchwright::plan::ProviderPlan;
use batchwright::queue::ProcessState;
use batchwright::{
    Budget, Error, ErrorKind, FileRun, FileRunOptions, JobQueue, LlmManager, ProcessId, Prompts,
    Strategy,
};

use super::run_queue::RunQueue;
use super::summary::QueueFacts;
use crate::args::run::RunArgs;
use crate::display;
use crate::exit::Refusal;
use crate::format::{count, counts};
use crate::queue::failed;
use crate::session::Session;
use batchwright::unstable::Optional;

/// A run that was compared with the queue.
pub struct ViaQueue {
    queue: RunQueue,
    run: QueueRun,
}

impl ViaQueue {
    /// Compares the input with the output and with the queue.
    pub fn prepare(
        queue: RunQueue,
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        let run = QueueRun::prepare(prompts, output, options, queue.store.clone())?;
        Ok(Self { queue, run })
    }

    /// The input compared with the output.
    pub fn compared(&self) -> &FileRun<'static> {
        self.run.compared()
    }

    /// Rejects an empty output that replaced one which was renamed without its store: results of items in progress
    /// would be written to it. An earlier run of this output with another input looks the same.
    pub fn refuse_another_input(&self, args: &RunArgs) -> Result<(), Refusal> {
        let Some(known) = self.process_state()? else {
            return Ok(());
        };
        let is_empty = |path: &PathBuf| path.metadata().map_or(true, |found| found.len() == 0);
        let (Some(input), Some(output)) = (known.info.input, args.output.as_ref()) else {
            return Ok(());
        };
        let plan = self.compared().plan();
        let has_own = plan.under_way + plan.to_collect > 0;
        let is_new = known.counts.consumed == 0 && is_empty(output) && !has_own;
        if args.input.is_stream() || input == args.input.whole() || !is_new {
            return Ok(());
        }
        let store = store_path(output).unwrap_or_default();
        let (store, output) = (store.display(), output.display());
        Err(Refusal::usage(format!(
            "{store} has items of another input, {input}, that are under way, and {output} is empty; nothing was sent. If \
             their output was renamed, move its store with it. If not, run {input} to its end first, or give it up: \
             batchwright cancel {} --delete --queue {store}",
            known.process_id
        )))
    }

    fn process_state(&self) -> Result<Option<ProcessState>, Refusal> {
        let found = self.run.queue().process(self.run.process());
        found.map_err(failed)
    }

    /// True when the queue has something of this output.
    pub fn has_items(&self) -> Result<bool, Refusal> {
        Ok(self.process_state()?.is_some())
    }

    /// True when the queue has something of this output, and no limit for it.
    pub fn is_unlimited(&self) -> Result<bool, Refusal> {
        let process = self.process_state()?;
        Ok(process.is_some_and(|process| process.budget.is_none()))
    }

    /// Lines on the strategy and on batches of earlier runs.
    pub fn lines(&self, plan: &ProviderPlan, strategy: Strategy) -> Result<Vec<String>, Refusal> {
        self.queue.lines(plan, &self.run, strategy)
    }

    /// Executes the run. There is no manager if no item is to be sent.
    pub fn run(
        self,
        args: &RunArgs,
        manager: Option<&LlmManager>,
        budget: Option<&Budget>,
        session: &Session,
    ) -> Result<(RunReport, QueueFacts), Refusal> {
        let Self { queue, run } = self;
        let process = run.process();
        queue.note_store();
        // Also with --quiet: the same command would buy everything again.
        queue
            .note(process)
            .iter()
            .for_each(|line| display::say(line));
        let run = run
            .context(&session.ctx)
            .notifier(session.display.clone())
            .until_submitted(args.no_wait)
            .on_error(args.on_error.policy())
            .described(queue.info(args, manager))
            .set(budget, QueueRun::budget);
        let make_worker = |queue: &JobQueue| {
            let manager = manager.ok_or_else(|| Error::new(ErrorKind::Invalid, NO_MANAGER))?;
            manager.run_worker(queue)
        };
        let ended = run.run(make_worker);
        session.display.clear();
        let ended = ended.map_err(failed)?;
        let facts = QueueFacts {
            batches: batches_line(&ended),
            remaining: queue.remaining(&ended, process, &lacks_its_key(manager)),
            json: json(process, &ended),
            has_remaining: ended.left.is_some(),
            in_batches: ended
                .left
                .as_ref()
                .map_or(0, |left| left.counts.at_provider),
            has_held: ended.batches.iter().any(|batch| batch.state == "held"),
        };
        Ok((ended.report, facts))
    }
}

const NO_MANAGER: &str =
    "something is to be done now that was not when the run began: give the same command again";

/// Recognizes batches without a worker whose API key is not set here.
fn lacks_its_key(manager: Option<&LlmManager>) -> impl Fn(&BatchInfo) -> bool + use<> {
    let clients = manager.map(|manager| manager.plan().clients_by_account());
    move |batch| {
        let mut clients = clients.iter();
        !batch.attended && clients.any(|clients| clients(&batch.account()).is_none())
    }
}

/// The members about the queue in the JSON of a run.
fn json(process: ProcessId, ended: &QueueRunReport) -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("process_id", serde_json::json!(process)),
        ("submitted", ended.submitted.into()),
        ("attached", ended.attached.into()),
        ("superseded_answers", ended.superseded.into()),
        ("batches_created", ended.created.into()),
        ("batches", serde_json::json!(ended.batches)),
    ]
}

/// The same for people.
fn batches_line(ended: &QueueRunReport) -> String {
    let (foreign, superseded) = (
        "results of items that the input no longer has",
        "answers to requests that have changed since",
    );
    let queued = ended.submitted;
    let unsent = ended.batches.iter().filter(|batch| batch.unsent);
    let unsent: u64 = unsent.map(|batch| batch.total).sum();
    let waiting = ended.left.as_ref().map_or(0, |left| left.counts.pending);
    // No provider has accepted these.
    let waiting = match ended.created {
        0 => queued,
        _ => queued.min(waiting + unsent),
    };
    let others = counts([
        (queued - waiting, "items submitted"),
        (waiting, "items put on the queue"),
        (ended.attached, "items attached to"),
        (ended.foreign, foreign),
        (ended.superseded, superseded),
    ]);
    let created = format!("{} created", count(ended.created));
    [vec![created], others].concat().join(", ")
}
