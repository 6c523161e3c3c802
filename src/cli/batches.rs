//! Batches on the command line: how they are shown, and cancelling them at their provider.

use std::time::Duration;

use batchwright::{BatchInfo, Context, JobQueue, ProcessId, Worker, clients_by_account};
use serde_json::{Value, json};

use super::display::{self, count, span};
use super::exit::Refusal;
use super::process::CancelArgs;
use super::queue::{DataArgs, failed};
use super::settings::{refused, settings};

/// A batch as `status --json` has it.
pub fn json(batch: &BatchInfo) -> Value {
    json!({
        "provider": batch.provider,
        "remote_id": batch.remote_id,
        "state": batch.state,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "age_seconds": batch.age_seconds,
        "label": batch.label,
        "model": batch.model,
        "problem": batch.problem,
        "attended": batch.attended,
    })
}

/// A batch on a line of its own.
pub fn line(batch: &BatchInfo) -> String {
    let mut line = state(batch);
    let age = Duration::from_secs(batch.age_seconds);
    line.push_str(&format!(", {} old", span(age)));
    if let Some(problem) = &batch.problem {
        line.push_str(&format!("; {problem}"));
    }
    display::harmless(&line)
}

/// What of it is news when it changes.
pub fn state(batch: &BatchInfo) -> String {
    let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
    let mut line = format!("batch {name} at {}: {}", batch.provider, batch.state);
    let total = count(batch.total);
    line.push_str(&match batch.completed {
        Some(done) => format!(", {} of {total} done", count(done)),
        None => format!(", {total} requests"),
    });
    if let Some(failed) = batch.failed.filter(|n| *n > 0) {
        line.push_str(&format!(", {} failed", count(failed)));
    }
    if !batch.attended {
        line.push_str(", unattended");
    }
    line
}

/// What has become of the batches of a process that was cancelled.
pub struct Cancelled {
    /// It had some.
    pub any: bool,
    /// Those that are still there.
    pub left: Vec<BatchInfo>,
}

/// Has the batches of a cancelled process cancelled: a worker that lives does so by itself, and for
/// those that nobody attends this command is the worker.
pub fn cancel(args: &CancelArgs, queue: &JobQueue, id: ProcessId) -> Result<Cancelled, Refusal> {
    let look = || queue.batches(Some(id)).map_err(failed);
    let before = look()?;
    if before.iter().any(|batch| !batch.attended) {
        let common = &args.common;
        common.say.say(&format!(
            "cancelling its batches, for up to {}",
            span(args.wait)
        ));
        let settings = settings(common.data.data_dir.as_deref())?;
        let idle = settings.transfer_idle_timeout().map_err(refused)?;
        let worker = Worker::new(queue)
            .processes([id])
            .batch_clients(clients_by_account(None, idle))
            .batch_settings(settings.batch_settings().map_err(refused)?)
            .context(&Context::new().with_timeout(args.wait))
            .until_empty(true);
        let report = worker.run().map_err(failed)?;
        for line in &report.unsaved {
            display::error(&format!(
                "a result could not be recorded; here it is: {line}"
            ));
        }
    }
    Ok(Cancelled {
        any: !before.is_empty(),
        left: look()?,
    })
}

impl Cancelled {
    /// What remains, and who cares for it.
    pub fn told(&self, data: &DataArgs, deleted: bool) -> String {
        let (attended, alone): (Vec<_>, Vec<_>) =
            self.left.iter().partition(|batch| batch.attended);
        let mut out = String::new();
        if !attended.is_empty() {
            out.push_str(&format!(
                "\n  {} batches are with a worker that runs: it cancels them at the provider",
                count(attended.len() as u64)
            ));
        }
        for batch in alone {
            let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
            let why = batch.problem.as_deref();
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            let collects = match deleted {
                true => "any worker with its key ends it",
                false => "any worker with its key collects what it has finished",
            };
            out.push_str(&format!(
                "\n  batch {name} at {}, {}, is not over yet{why}; {collects}: {}",
                batch.provider,
                batch.state,
                data.command("work")
            ));
        }
        out
    }
}
