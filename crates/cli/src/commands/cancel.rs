//! `batchwright cancel`: cancels the waiting jobs of a process, and its batches at the provider.

use batchwright::batch::{BatchInfo, clients_by_account};
use batchwright::files::RunStore;
use batchwright::plan::ProviderOptions;
use batchwright::queue::{JobCounts, ProcessState, WorkerSettings};
use batchwright::unstable::Optional;
use batchwright::{Context, JobQueue, ProcessId, Worker};
use serde_json::{Value, json};

use crate::args::queue::CancelArgs;
use crate::args::shared::DataArgs;
use crate::batches;
use crate::command_line::quoted;
use crate::display;
use crate::exit::{Early, Exit, Refusal};
use crate::format::{self, count, span};
use crate::provider::own_of_batches;
use crate::queue::{collected_by_server, failed, report, run_command};
use crate::settings::{self, data_dir, refused};

pub fn execute(args: &CancelArgs) -> Result<Exit, Early> {
    let (queue, process) = args.data.process(args.process.as_deref())?;
    let id = process.process_id;
    if let Some(line) = collected_by_server(&process).filter(|_| args.delete) {
        let cancel = args.data.command(&format!("cancel {id}"));
        return Err(Refusal::usage(format!("{line}. To cancel it: {cancel}")).into());
    }
    if !process.sealed && !args.delete {
        // If it were cancelled and requeued later, this part would count as complete.
        return Err(Refusal::usage(format!(
            "process {id} is incomplete: its submission was interrupted or is still running, so none of its \
             {} jobs runs. To delete it: {}",
            count(process.counts.total),
            args.data.command(&format!("cancel {id} --delete"))
        ))
        .into());
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
    let done = if args.delete {
        delete(args, queue, &now, came, &batches)?
    } else {
        cancelled_line(args, &now, cancelled, came, &batches)
    };
    Ok(report(done))
}

fn cancelled_line(
    args: &CancelArgs,
    now: &ProcessState,
    cancelled: u64,
    came: u64,
    batches: &CancelledBatches,
) -> (String, Value) {
    let counts = &now.counts;
    let cancelled = if batches.any {
        counts.cancelled
    } else {
        cancelled
    };
    let parts = [
        vec![format!("{} jobs cancelled", count(cancelled))],
        format::counts([
            (
                came,
                "results arrived from its batches meanwhile and are billed",
            ),
            (
                counts.in_progress,
                "are running: they finish and are not retried",
            ),
        ]),
    ];
    let mut line = parts.concat().join("; ") + &batches.lines(&args.data);
    if counts.finished() > counts.consumed && now.info.collector.is_none() {
        line.push_str(&to_take(&args.data, now));
    }
    let facts = json!({
        "process_id": now.process_id,
        "cancelled": cancelled,
        "in_progress": counts.in_progress,
        "at_provider": counts.at_provider,
        "batches": batches.left.len(),
    });
    (line, facts)
}

fn delete(
    args: &CancelArgs,
    queue: JobQueue,
    now: &ProcessState,
    came: u64,
    batches: &CancelledBatches,
) -> Result<(String, Value), Refusal> {
    let (data, id) = (&args.data, now.process_id);
    if came > 0 {
        return Err(Refusal::could_not_run(format!(
            "process {id} is not deleted: {} results arrived from its batches meanwhile and are billed{}\n  to delete it anyway:   \
             the same command again",
            count(came),
            to_take(data, now)
        )));
    }
    let deleted = queue.delete(id).map_err(failed)?;
    drop(queue);
    let store = data.file.queue.as_deref();
    let store = store.filter(|store| store.extension().is_some_and(|e| e == "batchwright"));
    if let Some(store) = store {
        RunStore::tidy(&store.with_extension(""));
    }
    let line = format!("process {id} is deleted with {} jobs", count(deleted));
    let left = batches.left.len();
    let facts = json!({"process_id": id, "deleted": deleted, "batches": left});
    Ok((line + &batches.lines(data), facts))
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

/// The results of cancelling the batches of a process.
struct CancelledBatches {
    /// The process had batches.
    any: bool,
    /// Ended batches whose billed results were abandoned.
    given_up: Vec<BatchInfo>,
    /// Batches that still exist.
    left: Vec<BatchInfo>,
}

/// Cancels the batches of a cancelled process. An active worker cancels its own batches; for the others, this
/// command runs a worker itself.
fn cancel_batches(
    args: &CancelArgs,
    queue: &JobQueue,
    id: ProcessId,
) -> Result<CancelledBatches, Refusal> {
    let own = own_of_batches(&args.at)?;
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
            .batch_clients(clients_by_account(own))
            .collecting(options.collecting_route(&settings).map_err(refused)?)
            .settings(WorkerSettings::default().batches(batches))
            .context(&Context::new().with_timeout(args.wait))
            .until_empty(true);
        let report = worker.run().map_err(failed)?;
        display::unsaved(&report);
    }
    let (any, left) = (!before.is_empty(), read()?);
    let is_over = |batch: &BatchInfo| left.iter().all(|other| other.label != batch.label);
    let mut given_up = before;
    given_up.retain(|batch| batch.uncollected.is_some() && is_over(batch));
    Ok(CancelledBatches {
        any,
        given_up,
        left,
    })
}

impl CancelledBatches {
    /// Lines about abandoned results, and about the remaining batches.
    fn lines(&self, data: &DataArgs) -> String {
        let mut out = String::new();
        for batch in &self.given_up {
            let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
            out.push_str(&format!(
                "\n  batch {name} at {}: its missing results are abandoned, although they were billed",
                batch.provider
            ));
        }
        for batch in &self.left {
            out.push_str(&format!("\n  not over yet: {}", batches::line(batch)));
            if batch.attended {
                out.push_str("; its worker cancels it");
                continue;
            }
            let work = data.command("work");
            out.push_str(&format!("; any worker with its key ends it: {work}"));
            if batches::lacks_its_key(batch) {
                let (provider, url) = (quoted(&batch.provider), quoted(&batch.base_url));
                out.push_str(&format!(
                    "; with another address than here, give this command also: --provider {provider} --base-url {url}"
                ));
            }
        }
        out
    }
}
