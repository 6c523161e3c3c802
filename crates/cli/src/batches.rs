//! Batches on the command line: how they are shown, and cancelling them at their provider.

use std::time::Duration;

use batchwright::batch::{BatchInfo, clients_by_account};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{Context, JobQueue, ProcessId, Worker};
use serde_json::{Value, json};

use super::args::cancel::CancelArgs;
use super::args::shared::DataArgs;
use super::display;
use super::exit::Refusal;
use super::format::{count, span};
use super::queue::failed;
use super::sanitize::one_line;
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
        "uncollected": batch.uncollected,
    })
}

/// A batch on a line of its own.
pub fn line(batch: &BatchInfo) -> String {
    let mut line = state(batch);
    // Whole seconds are all that is known of it.
    line.push_str(&match batch.age_seconds {
        seconds @ 0..60 => format!(", {seconds} s old"),
        seconds => format!(", {} old", span(Duration::from_secs(seconds))),
    });
    if let Some(problem) = &batch.problem {
        line.push_str(&format!("; {problem}"));
    }
    if let Some(waiting) = waiting(batch) {
        line.push_str(&format!("; {waiting}"));
    }
    one_line(&line)
}

/// Since when results that were paid for are missing, how long they are kept, and when they are asked
/// for again.
pub fn waiting(batch: &BatchInfo) -> Option<String> {
    let what = batch.uncollected.as_ref()?;
    let (now, provider) = (SystemClock.wall(), &batch.provider);
    let mut line = format!(
        "{} results that were paid for are missing for {}",
        count(what.requests),
        span(now.since(what.since))
    );
    line.push_str(&match what.kept_until.map(|until| until.since(now)) {
        None => format!("; {provider} names no end to how long it keeps them"),
        Some(Duration::ZERO) => format!("; {provider} may have removed them by now"),
        Some(left) => format!("; {provider} keeps them for about {} more", span(left)),
    });
    if batch.attended {
        let next = span(what.next_at.since(now));
        line.push_str(&format!("; they are asked for again in {next}"));
    }
    Some(line)
}

/// Where results are missing: how to ask for them now, and how to do without. `id` is that of the process,
/// and `back` the command of the run that it belongs to, if it belongs to one.
pub fn advice(id: &str, back: Option<&str>, command: impl Fn(&str) -> String) -> String {
    if let Some(back) = back {
        return format!(
            "to do without results that were paid for and are missing: {}, after which the run's own \
             command buys them again; to ask for them now, that command (a worker that runs already asks \
             when it is restarted): {back}",
            command(&format!("cancel {id}"))
        );
    }
    format!(
        "to ask for missing results now: {} (a worker that runs already asks when it is restarted); to \
         do without what was paid for: {}, after which {} buys it again",
        command("work --strategy batch --until-empty"),
        command(&format!("cancel {id}")),
        command(&format!("retry {id}"))
    )
}

/// Whether nobody attends it, and its key is not here.
pub fn waits_for_its_key(batch: &BatchInfo) -> bool {
    let clients = clients_by_account(None, Duration::from_secs(60));
    !batch.attended && !batch.provider.is_empty() && clients(&batch.account()).is_none()
}

/// How batches are taken over whose key is gone.
pub fn rotated(command: impl Fn(&str) -> String) -> String {
    format!(
        "if the key was rotated, to take them over with the present one: {}",
        command("doctor --adopt-batches")
    )
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
    /// Those that are over now although their results were paid for and not given out.
    pub given_up: Vec<BatchInfo>,
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
    let (any, left) = (!before.is_empty(), look()?);
    let is_over = |batch: &BatchInfo| left.iter().all(|other| other.label != batch.label);
    let mut given_up = before;
    given_up.retain(|batch| batch.uncollected.is_some() && is_over(batch));
    Ok(Cancelled {
        any,
        given_up,
        left,
    })
}

impl Cancelled {
    /// What remains, and who cares for it.
    pub fn told(&self, data: &DataArgs, id: ProcessId, deleted: bool) -> String {
        let (attended, alone): (Vec<_>, Vec<_>) =
            self.left.iter().partition(|batch| batch.attended);
        let mut out = String::new();
        for batch in &self.given_up {
            let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
            let why = batch.problem.as_deref().unwrap_or("they were not there");
            out.push_str(&format!(
                "\n  batch {name} at {}: the results that were still missing are given up, although \
                 they were paid for: {why}",
                batch.provider
            ));
        }
        if !attended.is_empty() {
            out.push_str(&format!(
                "\n  {} batches are with a worker that runs: it cancels them at the provider",
                count(attended.len() as u64)
            ));
        }
        for batch in alone {
            let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
            let why = batch.problem.as_deref();
            let mut why = why.map_or_else(String::new, |why| format!(" ({why})"));
            if let Some(waiting) = waiting(batch) {
                why.push_str(&format!("; {waiting}"));
            }
            let collects = match deleted {
                true => "any worker with its key ends it",
                false => "any worker with its key collects what it has finished",
            };
            out.push_str(&format!(
                "\n  batch {name} at {}, {}, is not over yet{why}; {collects}: {}",
                batch.provider,
                batch.state,
                match deleted {
                    true => data.command("work"),
                    false => data.command(&format!("work --processes {id}")),
                }
            ));
            if waits_for_its_key(batch) {
                out.push_str(&format!("; {}", rotated(|words| data.command(words))));
            }
        }
        out
    }
}
