//! `batchwright queue`: moves the queue to another place.

use std::path::Path;
use std::time::{Duration, Instant};

use batchwright::JobQueue;
use batchwright::queue::{MoveOptions, MoveProgress, MoveReport, SqliteOptions};
use batchwright_server::Server;
use serde_json::{Value, json};

use crate::args::queue::{
    ExportQueueArgs, ImportQueueArgs, MoveArgs, QueueAction, QueueArgs, ReopenQueueArgs,
};
use crate::args::shared::DataArgs;
use crate::command_line::quoted_path;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{count, number_of};
use crate::queue::failed;

/// How often progress is reported.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

pub fn execute(args: &QueueArgs) -> Exit {
    match &args.action {
        QueueAction::Export(args) => args.how.common.carry_out(|| export(args)),
        QueueAction::Import(args) => args.how.common.carry_out(|| import(args)),
        QueueAction::Reopen(args) => args.common.carry_out(|| reopen(args)),
    }
}

/// Opens the queue, even if it is closed.
fn open(data: &DataArgs) -> Result<JobQueue, Refusal> {
    match &data.store.store {
        Some(address) => on_server(address, &data.folder()?),
        None => JobQueue::open_with(data.database()?, SqliteOptions::default().allow_closed()),
    }
    .map_err(failed)
}

#[cfg(feature = "mysql")]
fn on_server(address: &str, folder: &Path) -> Result<JobQueue, batchwright::Error> {
    use batchwright::queue::{MysqlOptions, MysqlStore};
    let options = MysqlOptions::new(address).folder(folder).allow_closed();
    let store = MysqlStore::open(options)?;
    Ok(JobQueue::on(std::sync::Arc::new(store)))
}

#[cfg(not(feature = "mysql"))]
fn on_server(_address: &str, _folder: &Path) -> Result<JobQueue, batchwright::Error> {
    Err(crate::queue::knows_no_server())
}

/// The queue of an export; it must exist.
fn existing(data: &DataArgs) -> Result<JobQueue, Refusal> {
    if data.store.store.is_none() && !data.database()?.exists() {
        let why = format!("there is no queue: no {}", data.place());
        return Err(Refusal::usage(why).about(About::Queue));
    }
    open(data)
}

fn options<'a>(how: &MoveArgs, verb: &'a str) -> MoveOptions<'a> {
    let quiet = how.common.say.quiet;
    let mut last = Instant::now();
    let tell = move |progress: MoveProgress| {
        if !quiet && last.elapsed() >= BETWEEN_LINES {
            last = Instant::now();
            let (jobs, total) = (count(progress.jobs), count(progress.total));
            display::say(&format!("{verb}: {jobs} of {total} jobs"));
        }
    };
    MoveOptions::new()
        .wait(how.wait)
        .keep_paths(how.keep_paths)
        .on_progress(tell)
}

fn export(args: &ExportQueueArgs) -> Result<(String, Value), Refusal> {
    let data = &args.how.common.data;
    let queue = existing(data)?;
    let mut options = options(&args.how, "exporting");
    let records = data.folder()?.join("server.db");
    if data.store.store.is_none() && records.exists() {
        options = options.records(records);
    }
    let report = queue.export_to(&args.file, options).map_err(failed)?;
    let file = quoted_path(&args.file);
    let line = format!(
        "exported to {file}: {}\n  {} is closed now. Settings were not exported{}\n  to use the queue at its new place: \
         batchwright queue import {file} --store ADDRESS (or --data-dir DIR)\n  to another machine: move the file and delete it here before you import it there. Jobs of two copies are paid for \
         twice\n  to use it here again instead: {}",
        contents(&report),
        data.place(),
        left(&report),
        data.command("queue reopen")
    );
    Ok((line, json!(report)))
}

fn import(args: &ImportQueueArgs) -> Result<(String, Value), Refusal> {
    let data = &args.how.common.data;
    if !args.file.exists() {
        let why = format!("there is no file {}", args.file.display());
        return Err(Refusal::usage(why).about(About::Queue));
    }
    let queue = open(data)?;
    let mut options = options(&args.how, "importing").again(args.again);
    if data.store.store.is_none() {
        let records = Server::make_records(&data.folder()?).map_err(failed)?;
        options = options.records(records);
    }
    let report = queue.import_from(&args.file, options).map_err(failed)?;
    let mut line = format!("imported into {}: {}", data.place(), contents(&report));
    if report.by_path > 0 {
        line.push_str(&format!(
            "\n  the prompts of {} jobs name local files; these jobs need the files on the machine where they run",
            count(report.by_path)
        ));
    }
    line.push_str(&format!(
        "\n  settings were not imported; look at them: {}\n  to carry the jobs out: {}",
        data.command("config list"),
        data.command("work")
    ));
    Ok((line, json!(report)))
}

fn reopen(args: &ReopenQueueArgs) -> Result<(String, Value), Refusal> {
    let data = &args.common.data;
    let reopened = existing(data)?.reopen(args.force).map_err(failed)?;
    let line = if reopened {
        format!(
            "{} is open again; the exported file can no longer be imported\n  if a copy of that file was imported elsewhere, \
         its jobs are paid for twice: use only one of the 2 queues\n  to carry the jobs out: {}",
            data.place(),
            data.command("work")
        )
    } else {
        format!("{} is not closed: nothing to do", data.place())
    };
    Ok((line, json!({"reopened": reopened})))
}

fn contents(report: &MoveReport) -> String {
    format!(
        "{}, {} ({} with results or failures), {}",
        number_of(report.processes, "process", "processes"),
        number_of(report.jobs, "job", "jobs"),
        count(report.results),
        number_of(report.batches, "batch", "batches")
    )
}

/// The data that the export did not include.
fn left(report: &MoveReport) -> String {
    let mut left = String::new();
    if report.by_path > 0 {
        left.push_str(&format!(
            "; the prompts of {} jobs name local files; these jobs need the files on the machine where they run",
            count(report.by_path)
        ));
    }
    left
}
