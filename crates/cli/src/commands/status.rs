//! `batchwright status`: the state of the processes in the queue, once or until they are finished.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use batchwright::batch::BatchInfo;
use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::provider::Day;
use batchwright::queue::{DaySpent, JobCounts, ProcessState, ProcessTracker};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{JobQueue, ProcessId, Progress, Settings, Strategy, Usd};
use console::Term;
use serde_json::{Value, json};

use crate::args::queue::StatusArgs;
use crate::batches;
use crate::budget::advice;
use crate::display;
use crate::exit::{Early, Exit, Refusal};
use crate::format::{count, number_of, span};
use crate::logging::is_json;
use crate::queue::{PAUSED, failed};
use crate::run_process;
use crate::sanitize::{self, shortened};
use crate::settings;
use crate::stdout;
use crate::table::Table;
use crate::worker;

pub fn execute(args: &StatusArgs) -> Result<Exit, Early> {
    let mut reader = Reader::new(args)?;
    if args.watch {
        watch(args, &mut reader)?;
    } else {
        once(args, &mut reader)?;
    }
    Ok(Exit::Success)
}

/// A process and its progress.
struct Row {
    process: ProcessState,
    progress: Progress,
    batches: Vec<BatchInfo>,
    effective: EffectiveStrategy,
}

impl Row {
    fn id(&self) -> ProcessId {
        self.process.process_id
    }

    fn state(&self) -> String {
        let process = &self.process;
        let budget = process.budget.as_ref();
        let is_paused = budget.is_some_and(|budget| budget.needed.is_some());
        let counts = &process.counts;
        let runs = counts.in_progress + counts.at_provider > 0;
        let taken = format!("{} results taken", count(counts.consumed));
        let states = [
            (!process.sealed, "unsealed"),
            (process.cancelled, "cancelled"),
            (is_paused, "paused by its budget"),
            (counts.consumed > 0, &taken),
            (process.is_finished(), "finished"),
            (runs && !process.is_finished(), "running"),
        ];
        let states = states.iter().filter(|(is_so, _)| *is_so);
        let states: Vec<&str> = states.map(|(_, state)| *state).collect();
        match states.as_slice() {
            [] => "waiting".to_owned(),
            states => states.join(", "),
        }
    }

    /// The known cost of its jobs; with a `+` if there are jobs of unknown cost.
    fn cost(&self) -> String {
        let spent = &self.process.spent;
        let more = if spent.unpriced > 0 { "+" } else { "" };
        let known = spent.cost_usd.map(|cost| format!("{cost}{more}"));
        known.unwrap_or_else(|| "-".to_owned())
    }

    /// The processes of a run go on with its own command.
    fn waits_for_a_worker(&self) -> bool {
        !self.process.is_finished() && run_process::line(&self.process).is_none()
    }

    /// What limits it at the moment; `workers` is what limits the workers.
    fn limited_by<'w>(&self, workers: &'w [(String, u64)]) -> Option<&'w str> {
        let budget = self.process.budget.as_ref();
        if self.process.is_finished() {
            None
        } else if budget.is_some_and(|budget| budget.needed.is_some()) {
            Some("budget")
        } else {
            workers.first().map(|(limit, _)| limit.as_str())
        }
    }

    fn json(&self, args: &StatusArgs, workers: &[(String, u64)]) -> Value {
        let eta = self.progress.eta.map(|eta| eta.as_secs_f64().ceil() as u64);
        let age = SystemClock.wall().since(self.process.created_at);
        let mut line = json!(self.process);
        line["queue"] = json!(args.data.file.queue);
        line["strategy"] = json!(self.effective.strategy);
        line["fallback_reason"] = json!(self.effective.fallback_reason);
        line["eta_seconds"] = json!(eta);
        line["limited_by"] = json!(self.limited_by(workers));
        line["age_seconds"] = json!(age.as_secs());
        line["batches"] = json!(self.batches);
        line
    }
}

/// Reads the states of the same processes repeatedly.
struct Reader {
    /// `None` if there is no queue yet, or its run has removed it.
    queue: Option<JobQueue>,
    only: Option<ProcessId>,
    tracker: ProcessTracker,
    settings: Settings,
}

impl Reader {
    fn new(args: &StatusArgs) -> Result<Self, Refusal> {
        let (queue, only) = match &args.process {
            Some(named) => {
                let (queue, process) = args.data.process(Some(named))?;
                (Some(queue), Some(process.process_id))
            }
            None => (args.data.existing()?, None),
        };
        Ok(Self {
            queue,
            only,
            tracker: ProcessTracker::new(),
            settings: settings::settings()?,
        })
    }

    /// The number of living workers, and what limits them.
    fn workers(&self) -> Result<(u64, Vec<(String, u64)>), Refusal> {
        let Some(queue) = &self.queue else {
            return Ok((0, Vec::new()));
        };
        let mut limits = queue.limited_by().map_err(failed)?;
        // It only waits for jobs.
        limits.retain(|(limit, _)| limit != "source");
        Ok((queue.workers().map_err(failed)?, limits))
    }

    fn is_paused(&self) -> Result<bool, Refusal> {
        let paused = self.queue.as_ref().map(JobQueue::is_paused);
        Ok(paused.transpose().map_err(failed)?.unwrap_or_default())
    }

    /// What the calls for jobs of the queue have cost since the first day of this month (UTC), by day and model, if all
    /// processes are shown; and today.
    fn spent(&self) -> Result<Option<(Vec<DaySpent>, Day)>, Refusal> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.only.is_none()) else {
            return Ok(None);
        };
        let today = Day::of(SystemClock.wall());
        let days = queue.spent_since(Some(today.first_of_month()));
        Ok(Some((days.map_err(failed)?, today)))
    }

    /// For programs; `whole` with what does not change while the queue is watched.
    fn json(&self, args: &StatusArgs, rows: &[Row], whole: bool) -> Result<String, Refusal> {
        let (workers, limits) = self.workers()?;
        let rows: Vec<Value> = rows.iter().map(|row| row.json(args, &limits)).collect();
        let mut line = json!({"processes": rows, "workers": workers, "paused": self.is_paused()?});
        if whole {
            let skipped = ProviderPlan::skipped_by_job_types(&self.settings);
            if !skipped.is_empty() {
                line["skipped_providers"] = json!(skipped);
            }
            if let Some((days, _)) = self.spent()? {
                line["spent"] = json!(days);
            }
        }
        Ok(sanitize::json(&line) + "\n")
    }

    fn read(&mut self, args: &StatusArgs) -> Result<Vec<Row>, Refusal> {
        // A run that has ended meanwhile has removed its store.
        if args
            .data
            .file
            .queue
            .as_ref()
            .is_some_and(|file| !file.exists())
        {
            self.queue = None;
        }
        let Some(queue) = &self.queue else {
            return Ok(Vec::new());
        };
        let processes = match self.only {
            Some(id) => queue.process(id).map(|found| found.into_iter().collect()),
            None => queue.open_processes(),
        };
        let processes: Vec<ProcessState> = processes.map_err(failed)?;
        let batches = queue.batches(self.only).map_err(failed)?;
        let (now, wall) = (SystemClock.now(), SystemClock.wall());
        let row = |process: ProcessState| {
            let is_own = |batch: &&BatchInfo| batch.process_id == Some(process.process_id);
            let own: Vec<BatchInfo> = batches.iter().filter(is_own).cloned().collect();
            let progress = self.tracker.progress(&process, now, wall);
            let effective = if own.is_empty() && process.counts.at_provider == 0 {
                EffectiveStrategy::expected(&self.settings)
            } else {
                EffectiveStrategy::possible(Strategy::Batch)
            };
            Row {
                progress: progress.with_batches(&own),
                process,
                batches: own,
                effective,
            }
        };
        Ok(processes.into_iter().map(row).collect())
    }
}

/// Ends the command once standard output is closed.
fn closed(_: io::Error) -> Early {
    Early::Ended(Exit::StoppedEarly)
}

fn print(text: &str) -> Result<(), Early> {
    stdout::write(text).map_err(closed)
}

fn once(args: &StatusArgs, reader: &mut Reader) -> Result<(), Early> {
    let rows = reader.read(args)?;
    if is_json() {
        return print(&reader.json(args, &rows, true)?);
    }
    if !rows.is_empty() {
        print(&table(&rows))?;
    }
    let (workers, limits) = reader.workers()?;
    if workers > 0 {
        let number = number_of(workers, "worker is", "workers are");
        let limits = limits.iter().map(|(limit, of)| {
            let some = (*of < workers).then(|| format!(" {of}"));
            let some = some.unwrap_or_default();
            format!(",{some} limited by {limit}{}", display::lever(limit))
        });
        display::note(format!("{number} running{}", limits.collect::<String>()));
    } else if rows.iter().any(Row::waits_for_a_worker) {
        let work = args.data.command("work");
        display::note(format!("no worker is running; to go on: {work}"));
    }
    if reader.is_paused()? {
        display::note(PAUSED);
    }
    note_end(args, reader, &rows);
    if let Some((days, today)) = reader.spent()?
        && !days.is_empty()
    {
        display::note(spent_line(&days, today));
    }
    for step in ProviderPlan::skipped_by_job_types(&reader.settings) {
        display::note(worker::skipped(&step));
    }
    Ok(())
}

fn spent_line(days: &[DaySpent], today: Day) -> String {
    let cost: Usd = days.iter().map(|row| row.cost_usd).sum();
    let calls = count(days.iter().map(|row| row.calls).sum());
    let of_today = days.iter().filter(|row| row.day == today);
    let today: Usd = of_today.map(|row| row.cost_usd).sum();
    format!("known cost in this month (UTC): {cost} for {calls} calls, {today} of it today")
}

/// What the table does not say: why it has no rows, how a process goes on, and why its strategy is not possible.
fn note_end(args: &StatusArgs, reader: &Reader, rows: &[Row]) {
    if rows.is_empty() {
        display::note(match reader.only {
            Some(_) => "all its results have been fetched",
            None => "nothing is queued; to begin: batchwright submit INPUT",
        });
    }
    for row in rows {
        let (id, budget) = (row.id(), row.process.budget.as_ref());
        let command = |words: &str| args.data.command(words);
        if let Some(text) = budget.and_then(|budget| advice(&command, id, budget)) {
            display::note(format!("process {id} is {text}"));
        }
        if let Some(line) = run_process::line(&row.process) {
            display::note(line);
        }
    }
    let mut reasons = rows
        .iter()
        .filter_map(|row| row.effective.fallback_reason.as_ref());
    if let Some(reason) = reasons.next() {
        display::note(format!("strategy: {reason}"));
    }
}

/// The processes, and below them their batches, each on one line.
fn table(rows: &[Row]) -> String {
    const NUMBERS: [&str; 6] = ["total", "pending", "running", "done", "failed", "cancelled"];
    let is_terminal = io::stdout().is_terminal();
    let has_eta = rows.iter().any(|row| row.progress.eta.is_some());
    let mut head = vec!["process", "name"];
    head.extend(NUMBERS);
    head.extend(has_eta.then_some("left"));
    head.extend(["cost", "state"]);
    let mut table = Table::new(head);
    for row in rows {
        let counts = &row.process.counts;
        let name = row.process.info.name.clone();
        let mut id = row.id().to_string();
        if is_terminal {
            // People can type the end of an id instead of the id.
            id = format!("…{}", &id[id.len() - 8..]);
        }
        let mut cells = vec![id, name.unwrap_or_else(|| "-".to_owned())];
        let numbers = [
            counts.total,
            counts.pending,
            counts.in_progress + counts.at_provider,
            counts.completed,
            counts.failed,
            counts.cancelled,
        ];
        cells.extend(numbers.map(count));
        if has_eta {
            cells.push(row.progress.eta.map_or_else(|| "-".to_owned(), span));
        }
        cells.extend([row.cost(), row.state()]);
        table.row(cells.iter().map(String::as_str));
    }
    table.lines() + &rows.iter().map(batch_lines).collect::<String>()
}

fn batch_lines(row: &Row) -> String {
    let line = |batch| format!("  {}\n", batches::line(batch));
    row.batches.iter().map(line).collect()
}

/// Interval at which a watched queue is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The values whose change prints a new line.
type Seen = (JobCounts, bool, bool, Vec<String>);

fn watch(args: &StatusArgs, reader: &mut Reader) -> Result<(), Early> {
    let terminal = io::stdout().is_terminal() && !is_json();
    let mut screen = Screen::default();
    let mut before: Option<HashMap<ProcessId, Seen>> = None;
    loop {
        let rows = reader.read(args)?;
        if terminal {
            screen.draw(&rows).map_err(closed)?;
        } else {
            let now: HashMap<ProcessId, Seen> = rows.iter().map(seen).collect();
            if is_json() && before.as_ref() != Some(&now) {
                print(&reader.json(args, &rows, false)?)?;
            } else if !is_json() {
                let known = before.unwrap_or_default();
                let changed = |row: &&Row| known.get(&row.id()) != now.get(&row.id());
                for row in rows.iter().filter(changed) {
                    print(&event(row))?;
                }
            }
            before = Some(now);
        }
        if rows.iter().all(|row| row.process.is_finished()) {
            if !is_json() {
                note_end(args, reader, &rows);
            }
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn seen(row: &Row) -> (ProcessId, Seen) {
    let process = &row.process;
    let batches = row.batches.iter().map(batches::state).collect();
    let seen = (process.counts, process.sealed, process.cancelled, batches);
    (row.id(), seen)
}

fn event(row: &Row) -> String {
    let line = display::line(&row.progress, usize::MAX);
    format!(
        "{} {line} · {}\n{}",
        row.id(),
        row.state(),
        batch_lines(row)
    )
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
        let table = table(rows);
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
