//! `batchwright cancel` and `batchwright retry`: what becomes of a process.

use std::path::Path;

use batchwright::files::Sidecar;
use batchwright::queue::JobCounts;
use serde_json::{Value, json};

use crate::args::cancel::CancelArgs;
use crate::args::retry::RetryArgs;
use crate::args::shared::ProcessArgs;
use crate::batches;
use crate::exit::{Exit, Refusal};
use crate::format::count;
use crate::queue::failed;
use crate::run_process;
use crate::stdout;

pub fn cancel(args: &CancelArgs) -> Exit {
    args.common.carry_out(|| try_cancel(args))
}

pub fn retry(args: &RetryArgs) -> Exit {
    args.common.carry_out(|| try_retry(args))
}

impl ProcessArgs {
    fn carry_out(&self, work: impl FnOnce() -> Result<(String, Value), Refusal>) -> Exit {
        self.say.start_log();
        match work() {
            Ok((line, facts)) => {
                self.say.say(&line);
                match self.json {
                    true => stdout::json(&facts, Exit::Success),
                    false => Exit::Success,
                }
            }
            Err(refusal) => refusal.end(self.json, self.say.quiet),
        }
    }
}

fn try_cancel(args: &CancelArgs) -> Result<(String, Value), Refusal> {
    let data = &args.common.data;
    let (queue, process) = data.process(&args.process)?;
    let id = process.process_id;
    if args.delete {
        // Whoever has its batches cancels them; without the process nobody would take what they did.
        queue.cancel(id).map_err(failed)?;
        let batches = batches::cancel(args, &queue, id)?;
        let deleted = queue.delete(id).map_err(failed)?;
        if let Some(output) = &process.info.output {
            let forgotten = Sidecar::discard(Path::new(output), id);
            forgotten.map_err(failed)?;
        }
        let line = format!("process {id} is deleted with {} jobs", count(deleted));
        let left = batches.left.len();
        let facts = json!({"process_id": id, "deleted": deleted, "batches": left});
        return Ok((line + &batches.told(data, id, true), facts));
    }
    if !process.sealed {
        // Put back later, the part that is there would pass for all of it.
        return Err(Refusal::usage(format!(
            "process {id} was never submitted to its end, or is being submitted just now: none of its \
             {} jobs runs. To get rid of it: {}",
            count(process.counts.total),
            data.command(&format!("cancel {id} --delete"))
        )));
    }
    let process_info = process.info.clone();
    let answered = |counts: &JobCounts| counts.completed + counts.failed;
    let before = answered(&process.counts);
    let cancelled = queue.cancel(id).map_err(failed)?;
    let batches = batches::cancel(args, &queue, id)?;
    let now = queue.process(id).map_err(failed)?.unwrap_or(process);
    let cancelled = match batches.any {
        // With those that came back from their batches.
        true => now.counts.cancelled,
        false => cancelled,
    };
    let mut line = format!("{} jobs cancelled", count(cancelled));
    let came = answered(&now.counts).saturating_sub(before);
    if batches.any && came > 0 {
        let came = count(came);
        line.push_str(&format!(
            "; {came} came in from its batches meanwhile, and are paid for"
        ));
    }
    let running = now.counts.in_progress;
    if running > 0 {
        let running = count(running);
        line.push_str(&format!(
            "; {running} are running: they end by themselves and are not tried again"
        ));
    }
    line.push_str(&batches.told(data, id, false));
    let results = now.counts.finished() - now.counts.consumed;
    if results > 0 {
        let take = match run_process::way_back(&process_info) {
            Some(back) if now.counts.cancelled > 0 => {
                format!("{back}   (which sends what was cancelled again)")
            }
            Some(back) => back,
            None => data.command(&format!("results {id} -o FILE")),
        };
        line.push_str(&format!("\n  to take their results: {take}"));
        if now.counts.cancelled + now.counts.failed > 0 {
            let again = data.command(&format!("retry {id}"));
            line.push_str(&format!("\n  to put them back:      {again}"));
        }
    }
    let facts = json!({
        "process_id": id,
        "cancelled": cancelled,
        "in_progress": running,
        "at_provider": now.counts.at_provider,
        "batches": batches.left.len(),
    });
    Ok((line, facts))
}

fn try_retry(args: &RetryArgs) -> Result<(String, Value), Refusal> {
    let data = &args.common.data;
    let (queue, process) = data.process(&args.process)?;
    let id = process.process_id;
    let retried = queue.retry_failed(id).map_err(failed)?;
    let mut line = match retried {
        0 => "no job has failed or was cancelled: nothing to put back".to_owned(),
        _ => format!(
            "{} jobs put back: each is sent again, and paid for as a new one\n  to carry them out: {}",
            count(retried),
            match run_process::way_back(&process.info) {
                Some(back) => back,
                None => {
                    let all = queue.open_processes().map_err(failed)?;
                    let beside_runs = all.iter().any(|one| one.info.output.is_some());
                    data.command(&run_process::work_for(&[id], beside_runs))
                }
            }
        ),
    };
    for batch in queue.batches(Some(id)).map_err(failed)? {
        if let Some(waiting) = batches::waiting(&batch) {
            let (provider, give_up) = (&batch.provider, data.command(&format!("cancel {id}")));
            line.push_str(&format!(
                "\n  not put back is what is at {provider}: {waiting}; to give it up first: {give_up}"
            ));
        }
    }
    Ok((line, json!({"process_id": id, "retried": retried})))
}
