//! `batchwright workers`: lists the workers of the queue and their state.

use std::io::{IsTerminal, stdout as terminal};
use std::time::Duration;

use batchwright::JobQueue;
use batchwright::queue::WorkerInfo;
use batchwright::unstable::{Clock, SystemClock};
use console::Term;
use serde_json::{Value, json};

use crate::args::workers::WorkersArgs;
use crate::exit::{Exit, Refusal};
use crate::format::{age, count};
use crate::queue::failed;
use crate::sanitize;
use crate::stdout;
use crate::table::{Table, width};

/// Interval at which `--watch` reads the queue.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub fn execute(args: &WorkersArgs) -> Exit {
    args.say.start_log();
    let shown = args.data.existing().and_then(|queue| match queue {
        Some(queue) if args.watch => watch(args, &queue),
        queue => once(args, queue.as_ref()),
    });
    shown.unwrap_or_else(|refusal| refusal.end(args.json, args.say.quiet))
}

fn once(args: &WorkersArgs, queue: Option<&JobQueue>) -> Result<Exit, Refusal> {
    let workers = match queue {
        Some(queue) => queue.workers().map_err(failed)?,
        None => Vec::new(),
    };
    if workers.is_empty() {
        let start = args.data.command("work");
        args.say
            .say(&format!("the queue has no workers. To start one: {start}"));
    }
    Ok(stdout::print(&text(args, &workers), Exit::Success))
}

/// Prints the workers after every change. On a terminal it overwrites the previous output.
fn watch(args: &WorkersArgs, queue: &JobQueue) -> Result<Exit, Refusal> {
    let in_place = terminal().is_terminal() && !args.json;
    let (mut before, mut drawn, mut seen_version) = (None, 0, None);
    loop {
        let workers = queue.workers().map_err(failed)?;
        // Time passes without a change of any worker.
        let timeless = workers.iter().cloned().map(|mut worker| {
            worker.heartbeat_age = None;
            worker
        });
        let now = Some(timeless.collect::<Vec<_>>());
        if in_place || now != before {
            let text = text(args, &workers);
            if in_place {
                let _ = Term::stdout().clear_last_lines(drawn);
                drawn = text.lines().count();
            }
            if stdout::write(&text).is_err() {
                return Ok(Exit::StoppedEarly);
            }
            before = now;
        }
        queue.wait_for_change(&mut seen_version, POLL_INTERVAL);
    }
}

fn text(args: &WorkersArgs, workers: &[WorkerInfo]) -> String {
    match args.json {
        true => {
            let workers: Vec<Value> = workers.iter().map(as_json).collect();
            sanitize::json(&json!({ "workers": workers })) + "\n"
        }
        false if workers.is_empty() => String::new(),
        false => table(workers),
    }
}

fn table(workers: &[WorkerInfo]) -> String {
    let mut table = Table::default();
    let head = [
        "machine",
        "pid",
        "version",
        "state",
        "busy",
        "jobs",
        "batches",
        "done",
        "failed",
        "started",
        "heartbeat",
    ];
    table.row(head, "");
    for worker in workers {
        let status = &worker.status;
        let started = SystemClock.wall().since(worker.started_at);
        let cells = [
            worker.host.clone(),
            worker.pid.to_string(),
            match status.version.as_str() {
                "" => "-".to_owned(),
                version => version.to_owned(),
            },
            if worker.is_alive { "alive" } else { "dead" }.to_owned(),
            format!("{}/{}", status.busy, status.slots),
            count(worker.jobs),
            count(worker.batches),
            count(status.completed),
            count(status.failed),
            age(started),
            match worker.heartbeat_age {
                Some(beat) => age(beat),
                None => "-".to_owned(),
            },
        ];
        table.row(cells.each_ref().map(String::as_str), "");
        if let Some(trouble) = &status.trouble {
            table.below(trouble);
        }
    }
    table.lines(width())
}

fn as_json(worker: &WorkerInfo) -> Value {
    let status = &worker.status;
    json!({
        "id": worker.id.0,
        "host": worker.host,
        "pid": worker.pid,
        "version": Some(&status.version).filter(|version| !version.is_empty()),
        "alive": worker.is_alive,
        "slots": status.slots,
        "busy": status.busy,
        "jobs": worker.jobs,
        "batches": worker.batches,
        "completed": status.completed,
        "failed": status.failed,
        "started_at": worker.started_at,
        "heartbeat_age_seconds": worker.heartbeat_age.map(|age| age.as_secs()),
        "trouble": status.trouble,
    })
}
