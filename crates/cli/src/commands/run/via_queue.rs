//! A run whose items go through a store beside its output: for the batch strategy, and for items that an earlier run
//! left there.

use std::path::Path;

use batchwright::client::RequestTask;
use batchwright::files::{QueueRun, QueueRunReport, RunReport, store_path};
use batchwright::plan::ProviderPlan;
use batchwright::provider::redacted_url;
use batchwright::queue::{ProcessInfo, ProcessState, SqliteOptions};
use batchwright::unstable::{Optional, quoted};
use batchwright::{Budget, Error, ErrorKind, JobQueue, LlmManager, ProcessId, Strategy};
use serde_json::json;

use crate::args::run::RunArgs;
use crate::command_line::command_line_from_anywhere;
use crate::exit::Refusal;
use crate::format::{count, counts, number_of};
use crate::queue::{self, failed};
use crate::signals::Session;
use crate::stdout;

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

/// Whether the items go through a store beside the output: because of the strategy, or because an earlier run of the same
/// output has left one. A dry run makes none.
pub fn is_used(args: &RunArgs, strategy: Strategy) -> Result<bool, Refusal> {
    let batch = strategy == Strategy::Batch;
    if args.prompt.task == RequestTask::Embed {
        return Ok(false);
    }
    let Some(output) = stdout::regular(args.output.as_deref()) else {
        if batch && !args.dry_run {
            let by = match args.pace.strategy {
                Some(_) => "",
                None => " (llm.bulk_strategy is set to batch)",
            };
            return Err(Refusal::usage(format!(
                "batches{by} take up to a day, so their results need a file to be collected in later: add -o FILE, or \
                 use --strategy sync"
            )));
        }
        return Ok(false);
    };
    if !args.dry_run {
        QueueRun::tidy(&output);
    }
    if store_path(&output).is_ok_and(|file| file.exists()) {
        return Ok(true);
    }
    refuse_orphans(args, &output)?;
    Ok(batch && !args.dry_run)
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
            let (id, store) = (known.process_id, quoted(&store));
            return Err(Refusal::usage(format!(
                "{store} has items of this input that are under way, and its output {} is no longer there: they would be \
                 bought again; nothing was sent. If {} is that output, move its store with it: mv {store} {}\n  To give them \
                 up: batchwright cancel {id} --delete --queue {store}",
                was.display(),
                output.display(),
                quoted(&own),
            )));
        }
    }
    Ok(())
}

/// Lines about batches of earlier runs and the strategy, shown before the run begins.
pub fn lines(
    run: &QueueRun,
    plan: &ProviderPlan,
    strategy: Strategy,
    address: Option<&str>,
) -> Result<Vec<String>, Refusal> {
    let (id, name) = (run.process(), plan.first.provider);
    let known = run.queue().process(id).map_err(failed)?;
    let batches = run.queue().batches(Some(id)).map_err(failed)?;
    let batches = batches.iter();
    let mut lines: Vec<String> = batches
        .map(|batch| queue::batch_line(batch, address))
        .collect();
    let plan = run.compared().plan();
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
pub fn execute(
    run: QueueRun,
    args: &RunArgs,
    manager: Option<&LlmManager>,
    budget: Option<&Budget>,
    session: &Session,
) -> Result<(RunReport, QueueFacts), Refusal> {
    let (process, store) = (run.process(), run.queue().location().to_owned());
    let run = run
        .context(&session.ctx)
        .notifier(session.display.clone())
        .until_submitted(args.no_wait)
        .on_error(args.on_error)
        .described(info(args, manager))
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
        remaining: remaining(&store, &ended, process, args.provider.base_url.as_deref()),
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

const NO_MANAGER: &str =
    "something is to be done now that was not when the run began: give the same command again";

/// The description of the process in the queue, for people.
fn info(args: &RunArgs, manager: Option<&LlmManager>) -> ProcessInfo {
    let provider = manager.map(|manager| manager.plan().first.provider);
    let input = (!args.input.is_stream()).then(|| args.input.whole());
    ProcessInfo::new()
        .name(args.input.short())
        .command(command_line_from_anywhere())
        .set(provider, ProcessInfo::provider)
        .set(input, ProcessInfo::input)
}

/// Lines about remaining items, and how to collect or cancel them.
fn remaining(
    store: &str,
    ended: &QueueRunReport,
    id: ProcessId,
    address: Option<&str>,
) -> Vec<String> {
    let Some(process) = &ended.left else {
        return Vec::new();
    };
    let batches = ended.batches.iter();
    let mut lines: Vec<String> = batches
        .map(|batch| queue::batch_line(batch, address))
        .collect();
    let waiting = process.counts.pending;
    if waiting > 0 {
        lines.push(number_of(waiting, "item|items waits|wait in the queue"));
    }
    lines.push("to collect the results, run the same command in this folder".to_owned());
    let store = quoted(store);
    // `cancel` sends a key only where its environment says so, and not where a file says so.
    let address = address.map_or_else(String::new, |url| {
        format!("BATCHWRIGHT_BASE_URL={} ", quoted(&redacted_url(url)))
    });
    lines.push(format!(
        "to give it up:  {address}batchwright cancel {id} --queue {store}"
    ));
    lines
}

/// What became of the items that went through the queue.
fn batches_line(ended: &QueueRunReport) -> String {
    let submitted = match ended.created {
        // No provider has accepted them.
        0 => "item|items put on the queue",
        _ => "item|items submitted",
    };
    let others = counts([
        (ended.submitted, submitted),
        (ended.attached, "item|items attached to"),
        (
            ended.foreign,
            "result|results of items that the input no longer has",
        ),
        (
            ended.superseded,
            "answer|answers to requests that have changed since",
        ),
    ]);
    let created = format!("{} created", count(ended.created));
    [vec![created], others].concat().join(", ")
}
