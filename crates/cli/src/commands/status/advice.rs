//! Advice about the processes that `batchwright status` shows.

use batchwright::ProcessId;
use batchwright::batch::BatchInfo;

use super::row::Row;
use crate::args::status::StatusArgs;
use crate::batches;
use crate::budget::advice;
use crate::run_process::{self, id_for_command};

/// Prints the advice in the order in which people read it.
pub fn advise(args: &StatusArgs, only: Option<ProcessId>, rows: &[Row]) {
    let command = |words: &str| args.data.command(words);
    let say = |line: String| args.say.say(&line);
    if rows.is_empty() {
        return say(match only {
            Some(_) => "all its results have been fetched".to_owned(),
            None => "nothing is queued; to begin: batchwright submit INPUT".to_owned(),
        });
    }
    let id = id_for_command(&rows.iter().map(Row::id).collect::<Vec<_>>());
    let beside_runs = only.is_some() || rows.iter().any(of_run);
    for row in rows {
        let process = &row.process;
        let budget = process.budget.as_ref();
        if let Some(text) = budget.and_then(|budget| advice(&command, process.process_id, budget)) {
            say(format!("process {} is {text}", process.process_id));
        }
    }
    let waiting = free(rows, |row| {
        let is_paused = |row: &Row| {
            row.process
                .budget
                .as_ref()
                .is_some_and(|it| it.needed.is_some())
        };
        row.process.sealed && row.process.counts.pending > 0 && !is_paused(row)
    });
    if !waiting.is_empty() && !rows.iter().any(|row| row.process.counts.in_progress > 0) {
        say(format!(
            "to run the waiting jobs: {}",
            command(&run_process::work_command(&waiting, beside_runs))
        ));
    }
    advise_on_batches(args, rows, &id, beside_runs);
    if let Some(reason) = rows
        .iter()
        .find_map(|row| row.effective.fallback_reason.as_ref())
    {
        say(format!("strategy: {reason}"));
    }
    if !free(rows, |row| row.process.counts.failed > 0).is_empty() {
        say(format!(
            "to retry the failed jobs: {}",
            command(&format!("retry {id}"))
        ));
    }
    // Results of a run belong to its output and are not offered for another file.
    let finished = free(rows, |row| {
        row.is_finished() && row.process.info.collector.is_none()
    });
    if !finished.is_empty() {
        let id = id_for_command(&finished);
        say(format!(
            "to fetch the results: {}",
            command(&format!("results {id} -o FILE"))
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

/// How to continue batches that have no worker or key, were not collected or are on hold.
fn advise_on_batches(args: &StatusArgs, rows: &[Row], id: &str, beside_runs: bool) {
    let command = |words: &str| args.data.command(words);
    let say = |line: String| args.say.say(&line);
    let with_batch = |which: &dyn Fn(&BatchInfo) -> bool| {
        let mut rows = rows.iter();
        rows.find(|row| row.batches.iter().any(which))
    };
    let alone = free(rows, |row| row.batches.iter().any(|batch| !batch.attended));
    if !alone.is_empty() {
        let words = run_process::work_command(&alone, beside_runs);
        say(format!(
            "batches have no active worker; to collect them: {}",
            command(&format!("{words} --strategy batch"))
        ));
    }
    if with_batch(&batches::lacks_its_key).is_some() {
        say(format!(
            "the API key or the address of batches is not set; {}",
            batches::NEEDS_ITS_KEY
        ));
    }
    let misses = |row: &Row| row.batches.iter().any(|batch| batch.uncollected.is_some());
    if !free(rows, misses).is_empty() {
        say(batches::missing_advice(id, None, command));
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
            command("config set batch.on_unknown resubmit"),
            row.command(&args.data, &format!("cancel {id}"))
        ));
    }
}

/// True for the process of a run, which only its run continues.
fn of_run(row: &Row) -> bool {
    row.process.info.output.is_some()
}

/// The processes in these rows that belong to no run.
fn free(rows: &[Row], which: impl Fn(&Row) -> bool) -> Vec<ProcessId> {
    let free = rows.iter().filter(|row| !of_run(row) && which(row));
    free.map(Row::id).collect()
}
