//! `batchwright cancel`: cancels the waiting jobs of a process, and its batches at the provider. `batchwright retry`: requeues
//! the failed and cancelled jobs of a process.

use batchwright::batch::{BatchInfo, clients_by_account};
use batchwright::files::QueueRun;
use batchwright::plan::ProviderOptions;
use batchwright::queue::{JobCounts, ProcessState, WorkerSettings};
use batchwright::unstable::{Optional, quoted};
use batchwright::{Context, JobQueue, ProcessId, Worker};
use serde_json::{Value, json};

use crate::args::queue::{CancelArgs, RetryArgs};
use crate::args::shared::DataArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{self, number_of, span};
use crate::queue::{self, collected_by_server, failed, own_of_batches, report, run_command};
use crate::settings::{self, data_dir, refused};

pub fn execute(args: &CancelArgs) -> Result<Exit, Refusal> {
    let (mut queue, process) = args.data.process(args.process.as_deref())?;
    let id = process.process_id;
    if let Some(line) = collected_by_server(&process).filter(|_| args.delete) {
        let cancel = args.data.command(&format!("cancel {id}"));
        let lost = args.data.of_lost_batch(&queue, &process)?;
        queue = lost.ok_or_else(|| Refusal::usage(format!("{line}. To cancel it: {cancel}")))?;
    }
    if !process.sealed && !args.delete {
        // If it were cancelled and requeued later, this part would count as complete.
        return Err(Refusal::usage(format!(
            "process {id} is incomplete: its submission was interrupted or is still running, so its {} not run. \
             To delete it: {}",
            number_of(process.counts.total, "job|jobs does|do"),
            args.data.command(&format!("cancel {id} --delete"))
        )));
    }
    let before = answered(&process.counts);
    let cancelled = queue.cancel(id).map_err(failed)?;
    // Also before a process is deleted: without it no worker would collect their results.
    let batches = cancel_batches(args, &queue, id)?;
    let now = queue.process(id).map_err(failed)?.unwrap_or(process);
    let came = if batches.any {
        answered(&now.counts).saturating_sub(before)
    } else {
        0
    };
    let (mut line, mut facts) = if args.delete {
        delete(args, queue, &now, came)?
    } else {
        cancelled_line(&now, cancelled, came, batches.any)
    };
    line += &batches.lines;
    facts["batches"] = batches.left.into();
    let counts = &now.counts;
    if !args.delete && counts.finished() > counts.consumed && now.info.collector.is_none() {
        line += &to_take(&args.data, &now);
    }
    Ok(report((line, facts)))
}

/// Results that came while the batches were cancelled.
const ARRIVED: &str = "result|results arrived from its batches meanwhile and is|are billed";

fn cancelled_line(now: &ProcessState, cancelled: u64, came: u64, any: bool) -> (String, Value) {
    let counts = &now.counts;
    let cancelled = if any { counts.cancelled } else { cancelled };
    let mut line = number_of(cancelled, "job|jobs cancelled");
    let others = format::counts([
        (came, ARRIVED),
        (
            counts.in_progress,
            "is|are running: it|they finishes|finish and is|are not retried",
        ),
    ]);
    others.iter().for_each(|text| line += &format!("; {text}"));
    let facts = json!({
        "process_id": now.process_id,
        "cancelled": cancelled,
        "in_progress": counts.in_progress,
        "at_provider": counts.at_provider,
    });
    (line, facts)
}

fn delete(
    args: &CancelArgs,
    queue: JobQueue,
    now: &ProcessState,
    came: u64,
) -> Result<(String, Value), Refusal> {
    let (data, id) = (&args.data, now.process_id);
    if came > 0 {
        return Err(Refusal::could_not_run(format!(
            "process {id} is not deleted: {}{}\n  to delete it anyway:   the same command again",
            number_of(came, ARRIVED),
            to_take(data, now)
        )));
    }
    let deleted = queue.delete(id).map_err(failed)?;
    drop(queue);
    let store = data.file.queue.as_deref();
    let store = store.filter(|store| store.extension().is_some_and(|e| e == "batchwright"));
    if let Some(store) = store {
        QueueRun::tidy(&store.with_extension(""));
    }
    let jobs = number_of(deleted, "job|jobs");
    let line = format!("process {id} is deleted with {jobs}");
    Ok((line, json!({"process_id": id, "deleted": deleted})))
}

/// The command that takes the results of a process.
fn to_take(data: &DataArgs, now: &ProcessState) -> String {
    let take = match run_command(&now.info) {
        Some(back) if now.counts.cancelled > 0 => {
            format!("{back}   (which sends cancelled items again)")
        }
        Some(back) => back,
        None => data.command(&format!("results {} -o FILE", now.process_id)),
    };
    format!("\n  to take their results: {take}")
}

fn answered(counts: &JobCounts) -> u64 {
    counts.completed + counts.failed
}

/// What became of the batches of a process.
struct CancelledBatches {
    /// The process had batches.
    any: bool,
    /// Text about those whose billed results were abandoned, and those that still exist.
    lines: String,
    /// How many still exist.
    left: usize,
}

/// Cancels the batches of a cancelled process. An active worker cancels its own batches; for the others, this
/// command runs a worker itself.
fn cancel_batches(
    args: &CancelArgs,
    queue: &JobQueue,
    id: ProcessId,
) -> Result<CancelledBatches, Refusal> {
    let read = || queue.batches(Some(id)).map_err(failed);
    let before = read()?;
    if before.iter().any(|batch| !batch.attended) {
        let time = span(args.wait);
        display::note(format!("cancelling its batches, for up to {time}"));
        let settings = settings::settings()?;
        let batches = settings.batch_settings().map_err(refused)?;
        let options = ProviderOptions::new().set(data_dir(), ProviderOptions::data_dir);
        let worker = Worker::new(queue)
            .processes([id])
            .batch_clients(clients_by_account(own_of_batches(
                &before[0].provider,
                None,
            )))
            .collecting(options.collecting_route(&settings).map_err(refused)?)
            .settings(WorkerSettings::default().batches(batches))
            .context(
                &Context::new()
                    .with_timeout(args.wait)
                    .with_grace(std::time::Duration::ZERO),
            )
            .until_empty(true);
        let report = worker.run().map_err(failed)?;
        display::unsaved(&report);
    }
    let (any, left) = (!before.is_empty(), read()?);
    let is_over = |batch: &BatchInfo| left.iter().all(|other| other.label != batch.label);
    let given_up = before.iter();
    let given_up = given_up.filter(|batch| batch.uncollected.is_some() && is_over(batch));
    let given_up = given_up.map(|batch| {
        let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
        let why = "its missing results are abandoned, although they were billed";
        format!("\n  batch {name} at {}: {why}", batch.provider)
    });
    let lines = given_up.chain(left.iter().map(|batch| left_line(args, batch)));
    Ok(CancelledBatches {
        any,
        lines: lines.collect(),
        left: left.len(),
    })
}

/// A line about a batch that is not over, and how it ends.
fn left_line(args: &CancelArgs, batch: &BatchInfo) -> String {
    let line = format!("\n  not over yet: {}", queue::batch_line(batch, None));
    if batch.attended {
        return line + "; its worker cancels it";
    }
    let mut work = args.data.command("work --until-empty");
    if queue::lacks_its_key(batch, None) {
        let (provider, url) = (quoted(&batch.provider), quoted(&batch.base_url));
        work += &format!(" --provider {provider} --base-url {url}");
    }
    format!("{line}; any worker with its key ends it: {work}")
}

pub fn retry(args: &RetryArgs) -> Result<Exit, Refusal> {
    let data = &args.data;
    let (queue, process) = data.process(args.process.as_deref())?;
    let id = process.process_id;
    if let Some(limit) = args.budget {
        let set = queue.set_budget(id, limit);
        set.map_err(|error| Refusal::usage(error.message()).about(About::Queue))?;
    }
    let retried = queue.retry_failed(id).map_err(failed)?;
    let mut line = match (retried, args.budget) {
        (0, Some(limit)) => format!("the budget of process {id} is {limit}"),
        (0, None) => "no job has failed or was cancelled: nothing to requeue".to_owned(),
        _ => format!(
            "{}; jobs that were sent before are sent and billed again\n  to run them: {}",
            number_of(retried, "job|jobs requeued"),
            run_command(&process.info).unwrap_or_else(|| data.command("work"))
        ),
    };
    for batch in queue.batches(Some(id)).map_err(failed)? {
        if let Some(waiting) = queue::missing_results(&batch) {
            let (provider, give_up) = (&batch.provider, data.command(&format!("cancel {id}")));
            line.push_str(&format!(
                "\n  not requeued: {waiting}, at {provider}; to abandon them first: {give_up}"
            ));
        }
    }
    let facts = json!({"process_id": id, "retried": retried});
    Ok(report((line, facts)))
}
