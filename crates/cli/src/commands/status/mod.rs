//! `batchwright status`: the state of the processes in the queue, once or until they are finished.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use batchwright::batch::BatchInfo;
use batchwright::plan::{EffectiveStrategy, ProviderPlan, SkippedStep};
use batchwright::queue::{JobCounts, ProcessState, ProcessTracker};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{JobQueue, ProcessId, Settings, Strategy};
use console::Term;
use serde_json::{Value, json};

use crate::args::status::StatusArgs;
use crate::batches;
use crate::display;
use crate::exit::{Early, Exit, Refusal};
use crate::format::{count, number_of};
use crate::queue::{failed, has, open_existing};
use crate::routes;
use crate::runs;
use crate::sanitize::{self, shortened};
use crate::stdout;
use crate::table::width;
use crate::wrap::wrapped;
use advice::advise;
use models::KnownModels;
use row::Row;
use spent::Spent;
use table::table;

mod advice;
mod models;
mod row;
mod spent;
mod table;

pub fn execute(args: &StatusArgs) -> Exit {
    args.say.start_log();
    let shown = if args.watch { watch(args) } else { once(args) };
    match shown {
        Ok(()) => Exit::Success,
        Err(early) => early.end(args.json, args.say.quiet),
    }
}

/// Ends the command once standard output is closed.
fn closed(_: io::Error) -> Early {
    Early::Ended(Exit::StoppedEarly)
}

/// The strategy of a process: batch if it has batches, otherwise that of the present settings.
fn effective(
    process: &ProcessState,
    batches: &[BatchInfo],
    settings: &Settings,
) -> EffectiveStrategy {
    if !batches.is_empty() || process.counts.at_provider > 0 {
        return EffectiveStrategy::possible(Strategy::Batch);
    }
    EffectiveStrategy::expected(settings)
}

/// A queue to read.
struct Place {
    queue: JobQueue,
    /// Its file, for the store of a run.
    store: Option<PathBuf>,
    /// It was found in the list of runs. A failure to read it does not fail the command.
    is_listed: bool,
}

/// Reads the states of the same processes repeatedly.
struct StatusReader {
    queues: Vec<Place>,
    only: Option<ProcessId>,
    tracker: ProcessTracker,
    settings: Settings,
    known_models: KnownModels,
}

impl StatusReader {
    fn new(args: &StatusArgs) -> Result<Self, Refusal> {
        let stores = match args.data.queue {
            Some(_) => Vec::new(),
            None => args.data.folder().map(|folder| runs::known(&folder))?,
        };
        let opened = stores.into_iter().filter_map(|store| {
            let queue = open_existing(&store).inspect_err(|error| log::warn!("{error}"));
            Some(Place {
                queue: queue.ok()?,
                store: Some(store),
                is_listed: true,
            })
        });
        let mut runs = opened.collect::<Vec<_>>();
        let own = |queue| Place {
            queue,
            store: args.data.queue.clone(),
            is_listed: false,
        };
        let (queues, only) = match &args.process {
            Some(named) => match runs.iter().position(|place| has(&place.queue, named)) {
                Some(at) => (vec![runs.swap_remove(at)], None),
                None => {
                    let (queue, process) = args.data.process(Some(named))?;
                    (vec![own(queue)], Some(process.process_id))
                }
            },
            None => {
                let own = args.data.existing()?.map(own);
                (own.into_iter().chain(runs).collect(), None)
            }
        };
        Ok(Self {
            queues,
            only,
            tracker: ProcessTracker::new(),
            known_models: KnownModels::default(),
            settings: args.data.settings()?,
        })
    }

    /// The number of living workers of these queues.
    fn workers(&self) -> Result<u64, Refusal> {
        let count = |place: &Place| match place.queue.workers() {
            // It was reported when its processes were read.
            Err(_) if place.is_listed => Ok(0),
            counted => counted,
        };
        let counts = self.queues.iter().map(count);
        counts.sum::<Result<u64, _>>().map_err(failed)
    }

    /// What was spent in this month from the queue of the data folder, if all processes are shown.
    fn spent(&self) -> Result<Option<Spent>, Refusal> {
        let own = self.queues.iter().find(|place| !place.is_listed);
        let spent = own
            .filter(|_| self.only.is_none())
            .map(|own| Spent::of(&own.queue, SystemClock.wall()));
        spent.transpose().map_err(failed)
    }

    fn read(&mut self) -> Result<Vec<Row>, Refusal> {
        // A run that has ended meanwhile has removed its store.
        let is_there = |place: &Place| place.store.as_ref().is_none_or(|store| store.exists());
        self.queues.retain(is_there);
        let queues = std::mem::take(&mut self.queues);
        let mut rows = Vec::new();
        let read = queues.iter().try_for_each(|place| {
            let read = self.read_from(place, &mut rows);
            match read {
                Err(refusal) if place.is_listed => {
                    log::warn!("{}", refusal.text());
                    Ok(())
                }
                read => read,
            }
        });
        self.queues = queues;
        read.map(|()| rows)
    }

    fn read_from(&mut self, place: &Place, rows: &mut Vec<Row>) -> Result<(), Refusal> {
        let queue = &place.queue;
        let processes = match self.only {
            Some(id) => queue.process(id).map(|found| found.into_iter().collect()),
            None => queue.open_processes(),
        };
        let processes = processes.map_err(failed)?;
        let batches = queue.batches(self.only).map_err(failed)?;
        let (now, wall) = (SystemClock.now(), SystemClock.wall());
        let row = |process: ProcessState| {
            let own = batches
                .iter()
                .filter(|batch| batch.process_id == Some(process.process_id));
            let batches: Vec<BatchInfo> = own.cloned().collect();
            let progress = self.tracker.progress(&process, now, wall);
            let (models, providers) = self.known_models.of(queue, &process, &batches);
            Row {
                effective: effective(&process, &batches, &self.settings),
                progress: progress.with_batches(&batches),
                process,
                batches,
                models,
                providers,
                store: place.store.clone(),
            }
        };
        rows.extend(processes.into_iter().map(row));
        Ok(())
    }
}

fn line_of(rows: &[Row], workers: u64, skipped: &[SkippedStep], spent: Option<&Spent>) -> String {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let mut line = json!({ "processes": rows, "workers": workers });
    if !skipped.is_empty() {
        line["skipped_providers"] = json!(skipped);
    }
    if let Some(spent) = spent {
        line["spent"] = json!(spent.days);
    }
    sanitize::json(&line) + "\n"
}

fn print(text: &str) -> Result<(), Early> {
    stdout::write(text).map_err(closed)
}

fn once(args: &StatusArgs) -> Result<(), Early> {
    let mut reader = StatusReader::new(args)?;
    let rows = reader.read()?;
    let workers = reader.workers()?;
    let spent = reader.spent()?;
    let skipped = ProviderPlan::skipped_by_job_types(&reader.settings);
    if args.json {
        return print(&line_of(&rows, workers, &skipped, spent.as_ref()));
    }
    if !rows.is_empty() {
        print(&table(&rows, false, width()))?;
        print(&batch_lines(&rows, width()))?;
    }
    if workers > 0 {
        let number = number_of(workers, "worker is", "workers are");
        args.say.say(&format!("{number} running"));
    }
    advise(args, reader.only, &rows);
    if let Some(line) = spent.and_then(|spent| spent.line()) {
        args.say.say(&line);
    }
    for step in &skipped {
        args.say.say(&routes::skipped(step));
    }
    Ok(())
}

/// Interval at which a watched queue is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

fn watch(args: &StatusArgs) -> Result<(), Early> {
    let terminal = io::stdout().is_terminal() && !args.json;
    let mut reader = StatusReader::new(args)?;
    let mut screen = Screen::default();
    let mut before = HashMap::new();
    let mut first = true;
    loop {
        let rows = reader.read()?;
        if terminal {
            screen.draw(&rows).map_err(closed)?;
        } else {
            let now: HashMap<ProcessId, Seen> = rows.iter().map(seen).collect();
            if args.json && (first || now != before) {
                print(&line_of(&rows, reader.workers()?, &[], None))?;
            } else if !args.json {
                let changed = |row: &&Row| before.get(&row.id()) != now.get(&row.id());
                for row in rows.iter().filter(changed) {
                    print(&event(row))?;
                }
            }
            before = now;
        }
        first = false;
        if rows.iter().all(Row::is_finished) {
            if !args.json {
                advise(args, reader.only, &rows);
            }
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The values whose change prints a new line.
type Seen = (JobCounts, bool, bool, Vec<String>);

/// The batches, each on one line, or on several if the terminal is too narrow.
fn batch_lines(rows: &[Row], width: Option<usize>) -> String {
    let batches = rows.iter().flat_map(|row| &row.batches);
    let mut out = String::new();
    for batch in batches {
        let line = batches::line(batch);
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(4));
        for (n, line) in wrapped(&line, room).iter().enumerate() {
            let indent = if n == 0 { "  " } else { "    " };
            out.push_str(&format!("{indent}{line}\n"));
        }
    }
    out
}

fn seen(row: &Row) -> (ProcessId, Seen) {
    let process = &row.process;
    (
        row.id(),
        (
            process.counts,
            process.sealed,
            process.cancelled,
            row.batches.iter().map(batches::state).collect(),
        ),
    )
}

fn event(row: &Row) -> String {
    let line = display::line(&row.progress, usize::MAX);
    let first = match row.remarks() {
        remarks if remarks.is_empty() => format!("{} {line}\n", row.id()),
        remarks => format!("{} {line} · {remarks}\n", row.id()),
    };
    first + &batch_lines(std::slice::from_ref(row), None)
}

/// A table that is redrawn in place.
#[derive(Default)]
struct Screen {
    drawn: Vec<String>,
}

impl Screen {
    fn draw(&mut self, rows: &[Row]) -> io::Result<()> {
        let term = Term::stdout();
        let (height, width) = term.size();
        // A line that wraps or scrolls away could not be overwritten.
        let most = usize::from(height).saturating_sub(2).max(2);
        let width = usize::from(width).saturating_sub(2);
        let table = table(rows, true, Some(width)) + &batch_lines(rows, None);
        let mut lines: Vec<String> = table.lines().map(|line| shortened(line, width)).collect();
        if lines.len() > most {
            let hidden = lines.len() - (most - 1);
            lines.truncate(most - 1);
            lines.push(format!("and {} more", count(hidden as u64)));
        }
        if lines != self.drawn {
            term.clear_last_lines(self.drawn.len())?;
            lines.iter().try_for_each(|line| term.write_line(line))?;
            self.drawn = lines;
        }
        Ok(())
    }
}
