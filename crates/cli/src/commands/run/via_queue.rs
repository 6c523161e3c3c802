//! A run whose items go through a store beside its output: for the batch strategy, and for items that an earlier run
//! left there.

use std::path::{Path, PathBuf};

use batchwright::files::{
    FileRunError, QueueRun, QueueRunReport, RunOutput, RunReport, RunStore, store_path,
};
use batchwright::plan::ProviderPlan;
use batchwright::queue::{ProcessInfo, ProcessState, SqliteOptions};
use batchwright::unstable::Optional;
use batchwright::{
    Budget, Error, ErrorKind, FileRun, FileRunOptions, JobQueue, LlmManager, ProcessId, Prompts,
    Strategy,
};
use serde_json::json;

use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::batches;
use crate::command_line::{command_line_from_anywhere, quoted_path};
use crate::display;
use crate::exit::{About, Refusal};
use crate::format::{count, counts};
use crate::provider::check_error_policy;
use crate::queue::{durability, failed, folder, folder_flag};
use crate::signals::Session;

/// Facts about a run through the queue.
pub struct QueueFacts {
    /// What became of the items that went through it.
    pub batches: String,
    /// What remains, and how to continue.
    pub remaining: Vec<String>,
    pub json: Vec<(&'static str, serde_json::Value)>,
    /// The queue still has something of this run.
    pub has_remaining: bool,
    /// Items in batches that have not ended.
    pub in_batches: u64,
    /// Whether a batch on hold needs a decision.
    pub has_held: bool,
}

/// Where the items of a run wait.
pub struct RunQueue {
    store: RunStore,
    /// The flag by which a command finds the queue, with a space before it; empty for the default queue.
    flag: String,
    /// Whether a later run can attach to the output.
    attaches: bool,
}

impl RunQueue {
    /// The queue of a run that uses one: because of its strategy, or because an earlier run of the same output has left
    /// its store.
    pub fn find(args: &RunArgs, strategy: Strategy) -> Result<Option<Self>, Refusal> {
        let batch = strategy == Strategy::Batch;
        if args.prompt.task == TaskArg::Embed {
            return Ok(None);
        }
        let output = args.output.as_deref().filter(|path| is_regular(path));
        let store = output.and_then(|path| store_path(path).ok());
        if let Some(output) = output.filter(|_| !args.dry_run) {
            RunStore::tidy(output);
        }
        let is_there = store.as_ref().is_some_and(|store| store.exists());
        if let Some(output) = output.filter(|_| !is_there) {
            refuse_orphans(args, output)?;
        }
        if !is_there && (!batch || args.dry_run) {
            return Ok(None);
        }
        check_error_policy(args)?;
        let options = SqliteOptions::default().durability(durability(args.fsync));
        let (store, flag) = match (output, store) {
            (Some(_), Some(store)) => (
                RunStore::Beside(options),
                format!(" --queue {}", quoted_path(store)),
            ),
            (Some(output), None) => {
                let why = format!(
                    "{}: cannot open the output: its folder is not there",
                    output.display()
                );
                return Err(Refusal::could_not_run(why).about(About::Output));
            }
            (None, _) => {
                let queue = JobQueue::open_with(folder()?.join("llm_jobs.db"), options);
                let store = RunStore::On(queue.map_err(failed)?, ProcessId::new());
                (store, folder_flag())
            }
        };
        Ok(Some(Self {
            store,
            flag,
            attaches: output.is_some(),
        }))
    }
}

/// Rejects a new output beside the store of another run of the same input whose output is gone: it may have been renamed
/// without its store, and its items would be bought again.
fn refuse_orphans(args: &RunArgs, output: &Path) -> Result<(), Refusal> {
    let own = store_path(output).unwrap_or_default();
    let input = args.input.whole();
    let entries = own.parent().and_then(|folder| folder.read_dir().ok());
    for store in entries.into_iter().flatten().flatten() {
        let store = store.path();
        let was = store.with_extension("");
        let is_store = store.extension().is_some_and(|e| e == "batchwright") && store.is_file();
        if !is_store || was.exists() || args.input.is_stream() {
            continue;
        }
        let queue = JobQueue::open_with(&store, SqliteOptions::default().only_look());
        // A file that is not a queue, or belongs to another program, stops no run.
        let processes = queue.and_then(|queue| queue.open_processes());
        let mut processes = processes.unwrap_or_default().into_iter();
        let is_of_input = |known: &ProcessState| known.info.input.as_ref() == Some(&input);
        if let Some(known) = processes.find(is_of_input) {
            let (id, store) = (known.process_id, quoted_path(&store));
            return Err(Refusal::usage(format!(
                "{store} has items of this input that are under way, and its output {} is no longer there: they would be \
                 bought again; nothing was sent. If {} is that output, move its store with it: mv {store} {}\n  To give them \
                 up: batchwright cancel {id} --delete --queue {store}",
                was.display(),
                output.display(),
                quoted_path(&own),
            )));
        }
    }
    Ok(())
}

fn is_regular(path: &Path) -> bool {
    let plain = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    path != Path::new("-") && plain
}

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

    /// What the queue has of this output.
    pub fn process(&self) -> Result<Option<ProcessState>, Refusal> {
        let found = self.run.queue().process(self.run.process());
        found.map_err(failed)
    }

    /// Rejects an empty output whose store has items of another input: their results would be written to it.
    pub fn refuse_another_input(&self, args: &RunArgs) -> Result<(), Refusal> {
        let Some(known) = self.process()? else {
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
        let (id, flag) = (known.process_id, &self.queue.flag);
        Err(Refusal::usage(format!(
            "items of another input, {input}, are under way for {}, which is empty; nothing was sent. If their output was \
             renamed, move its store with it; to give them up: batchwright cancel {id} --delete{flag}",
            output.display()
        )))
    }

    /// Lines about batches of earlier runs and the strategy, shown before the run begins.
    pub fn lines(&self, plan: &ProviderPlan, strategy: Strategy) -> Result<Vec<String>, Refusal> {
        let (id, name) = (self.run.process(), plan.first.provider);
        let known = self.process()?;
        let batches = self.run.queue().batches(Some(id)).map_err(failed)?;
        let mut lines: Vec<String> = batches.iter().map(batches::line).collect();
        let plan = self.compared().plan();
        let is_ending = |known: &ProcessState| known.cancelled && known.counts.at_provider > 0;
        lines.push(match strategy {
            _ if known.as_ref().is_some_and(is_ending) => format!(
                "process {id} was cancelled: what its batches have not answered is sent again once they have ended"
            ),
            Strategy::Batch if plan.to_send == 0 && known.is_some() => {
                format!("strategy batch: nothing new to submit (process {id})")
            }
            Strategy::Batch => {
                format!("strategy batch: prompts go to {name} in batches, as process {id}")
            }
            Strategy::Sync => format!(
                "process {id} of an earlier run goes on, which the queue has; what is new runs {strategy}"
            ),
        });
        Ok(lines)
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
        if !queue.attaches {
            // Also with --quiet: the same command would buy everything again.
            display::say(&format!(
                "the output cannot be attached to again: if this ends early, process {process} has the \
                 rest; batchwright results {process}{} -o FILE",
                queue.flag
            ));
        }
        let run = run
            .context(&session.ctx)
            .notifier(session.display.clone())
            .until_submitted(args.no_wait)
            .on_error(args.on_error.policy())
            .described(info(args, manager, queue.attaches))
            .set(budget, QueueRun::budget);
        let make_worker = |queue: &JobQueue| {
            let manager = manager.ok_or_else(|| Error::new(ErrorKind::Invalid, NO_MANAGER))?;
            manager.run_worker(queue)
        };
        let ended = run.run(make_worker);
        session.display.clear();
        let ended = ended.map_err(failed)?;
        let in_batches = |left: &ProcessState| left.counts.at_provider;
        let facts = QueueFacts {
            batches: batches_line(&ended),
            remaining: remaining(&queue, &ended, process),
            json: vec![
                ("process_id", json!(process)),
                ("submitted", ended.submitted.into()),
                ("attached", ended.attached.into()),
                ("superseded_answers", ended.superseded.into()),
                ("batches_created", ended.created.into()),
                ("batches", json!(ended.batches)),
            ],
            has_remaining: ended.left.is_some(),
            in_batches: ended.left.as_ref().map_or(0, in_batches),
            has_held: ended.batches.iter().any(|batch| batch.state == "held"),
        };
        Ok((ended.report, facts))
    }
}

const NO_MANAGER: &str =
    "something is to be done now that was not when the run began: give the same command again";

/// The description of the process in the queue, for people.
fn info(args: &RunArgs, manager: Option<&LlmManager>, attaches: bool) -> ProcessInfo {
    let provider = manager.map(|manager| manager.plan().first.provider);
    let input = (!args.input.is_stream()).then(|| args.input.whole());
    let command = attaches.then(command_line_from_anywhere);
    ProcessInfo::new()
        .name(args.input.short())
        .set(provider, ProcessInfo::provider)
        .set(input, ProcessInfo::input)
        .set(command, ProcessInfo::command)
}

/// Lines about remaining items, and how to resume or cancel them.
fn remaining(queue: &RunQueue, ended: &QueueRunReport, id: ProcessId) -> Vec<String> {
    let Some(process) = &ended.left else {
        return Vec::new();
    };
    let mut lines: Vec<String> = ended.batches.iter().map(batches::line).collect();
    let waiting = process.counts.pending;
    if waiting > 0 {
        lines.push(format!("{} items wait in the queue", count(waiting)));
    }
    let flag = &queue.flag;
    lines.push(if queue.attaches {
        "to collect the results, run the same command in this folder".to_owned()
    } else {
        format!(
            "to collect:  batchwright work --strategy batch --processes {id} --until-empty{flag} \
             && batchwright results {id}{flag} -o FILE"
        )
    });
    lines.push(format!("to give it up:  batchwright cancel {id}{flag}"));
    lines
}

/// What became of the items that went through the queue.
fn batches_line(ended: &QueueRunReport) -> String {
    let submitted = match ended.created {
        // No provider has accepted them.
        0 => "items put on the queue",
        _ => "items submitted",
    };
    let others = counts([
        (ended.submitted, submitted),
        (ended.attached, "items attached to"),
        (
            ended.foreign,
            "results of items that the input no longer has",
        ),
        (
            ended.superseded,
            "answers to requests that have changed since",
        ),
    ]);
    let created = format!("{} created", count(ended.created));
    [vec![created], others].concat().join(", ")
}
