//! What to do next about the processes that `batchwright status` shows.

use batchwright::ProcessId;
use batchwright::batch::BatchInfo;

use super::row::Row;
use crate::args::status::StatusArgs;
use crate::batches;
use crate::run_process;

/// Says what to do next. It is long because it lists every case, in the order in which people read them.
pub fn advise(args: &StatusArgs, only: Option<ProcessId>, rows: &[Row]) {
    let command = |words: String| args.data.command(&words);
    let say = |line: String| args.say.say(&line);
    if rows.is_empty() {
        return say(match only {
            Some(_) => "all its results have been fetched".to_owned(),
            None => "nothing is queued; to begin: batchwright submit INPUT".to_owned(),
        });
    }
    let id = match rows {
        [only] => only.id().to_string(),
        _ => "PROCESS".to_owned(),
    };
    let any = |which: &dyn Fn(&Row) -> bool| rows.iter().any(which);
    // Processes of runs are continued by their runs; lines below say how.
    let of_run = |row: &Row| row.process.info.output.is_some();
    let beside_runs = only.is_some() || any(&of_run);
    let free = |which: &dyn Fn(&Row) -> bool| -> Vec<ProcessId> {
        let free = rows.iter().filter(|row| !of_run(row) && which(row));
        free.map(Row::id).collect()
    };
    let waiting = free(&|row| row.process.sealed && row.process.counts.pending > 0);
    if !waiting.is_empty() && !any(&|row| row.process.counts.in_progress > 0) {
        say(format!(
            "to run the waiting jobs: {}",
            command(run_process::work_command(&waiting, beside_runs))
        ));
    }
    let with_batch = |which: &dyn Fn(&BatchInfo) -> bool| {
        let mut rows = rows.iter();
        rows.find(|row| row.batches.iter().any(which))
    };
    let alone = free(&|row| row.batches.iter().any(|batch| !batch.attended));
    if !alone.is_empty() {
        let words = run_process::work_command(&alone, beside_runs);
        say(format!(
            "batches have no active worker; to collect them: {}",
            command(format!("{words} --strategy batch"))
        ));
    }
    if let Some(row) = with_batch(&batches::lacks_its_key) {
        say(format!(
            "the API key or the address of batches is not set; {}",
            batches::adoption_advice(|words| row.command(&args.data, words))
        ));
    }
    let misses = |row: &Row| row.batches.iter().any(|batch| batch.uncollected.is_some());
    if !free(&misses).is_empty() {
        say(batches::missing_advice(&id, None, |words| {
            command(words.to_owned())
        }));
    }
    for row in rows.iter().filter(|row| misses(row)) {
        if let Some(back) = run_process::collect_command(&row.process.info) {
            let (id, back) = (row.id().to_string(), Some(back.as_str()));
            say(batches::missing_advice(&id, back, |words| {
                row.command(&args.data, words)
            }));
        }
    }
    if let Some(row) = with_batch(&|batch| batch.state == "held") {
        say(format!(
            "held batches wait for your decision; to send them again: {}; to cancel them: {}",
            command("config set batch.on_unknown resubmit".to_owned()),
            row.command(&args.data, &format!("cancel {id}"))
        ));
    }
    if let Some(reason) = rows
        .iter()
        .find_map(|row| row.effective.fallback_reason.as_ref())
    {
        say(format!("strategy: {reason}"));
    }
    if !free(&|row| row.process.counts.failed > 0).is_empty() {
        say(format!(
            "to retry the failed jobs: {}",
            command(format!("retry {id}"))
        ));
    }
    // Results of a run belong to its output and are not offered for another file.
    let finished = free(&Row::is_finished);
    if !finished.is_empty() {
        let id = match &finished[..] {
            [only] => only.to_string(),
            _ => "PROCESS".to_owned(),
        };
        say(format!(
            "to fetch the results: {}",
            command(format!("results {id} -o FILE"))
        ));
    }
    rows.iter()
        .filter_map(|row| run_process::line(&row.process))
        .for_each(say);
    if let Some(row) = rows.iter().find(|row| !row.process.sealed) {
        say(format!(
            "unsealed: the submission is still running or was interrupted; to delete it: {}",
            row.command(&args.data, &format!("cancel {id} --delete"))
        ));
    }
}
