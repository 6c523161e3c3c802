//! `batchwright status`: the state of the processes in the queue, once or until they are finished.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::thread;
use std::time::Duration;

use batchwright::batch::BatchInfo;
use batchwright::plan::EffectiveStrategy;
use batchwright::provider::Day;
use batchwright::queue::{DaySpent, JobCounts, ProcessBudget, ProcessState, ProcessTracker};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{Error, JobQueue, ProcessId, Settings, Strategy, Usd};
use console::Term;
use serde_json::{Value, json};

use crate::args::queue::StatusArgs;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::format::{Table, count, counts, number_of, span};
use crate::queue::{self, PAUSED, failed, run_line};
use crate::sanitize::{self, shortened};
use crate::settings;
use crate::stderr::is_json;
use crate::stdout;

/// Interval at which a watched queue is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

const NOTHING: &str = "nothing is queued; to begin: batchwright submit INPUT";
const FETCHED: &str = "all its results have been fetched";

/// Shows the processes; a watched queue again after each change, on a terminal in the same place.
pub fn execute(args: &StatusArgs) -> Result<Exit, Refusal> {
    let settings = settings::settings()?;
    let (mut queue, only) = match &args.process {
        Some(named) => {
            let (queue, process) = args.data.process(Some(named))?;
            (Some(queue), vec![process.process_id])
        }
        None => (args.data.existing()?, Vec::new()),
    };
    let mut tracker = ProcessTracker::new();
    let mut drawn = None;
    loop {
        // A run that has ended meanwhile has removed its store.
        let file = args.data.file.queue.as_deref();
        queue = queue.filter(|_| file.is_none_or(Path::exists));
        let Some(queue) = &queue else {
            return nothing(only.is_empty());
        };
        let rows = rows(queue, &only, &mut tracker).map_err(failed)?;
        let now: Vec<_> = rows.iter().map(Row::changes).collect();
        let ends = !args.watch || rows.iter().all(|row| row.process.is_finished());
        if drawn.as_ref().is_none_or(|(before, _)| *before != now) || redraws() {
            let lines = drawn.map_or(0, |(_, lines)| lines);
            let shown = if is_json() {
                json(args, queue, only.is_empty(), &rows, &settings)?
            } else {
                table(&rows)
            };
            let written = draw(&shown, lines, args.watch);
            drawn = Some((
                now,
                written.map_err(|_| Refusal::ended(Exit::StoppedEarly))?,
            ));
        }
        if ends {
            if !is_json() {
                note_end(args, queue, only.is_empty(), &rows, &settings)?;
            }
            return Ok(Exit::Success);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// What is said if there is no queue.
fn nothing(all: bool) -> Result<Exit, Refusal> {
    if is_json() {
        let empty = json!({"processes": [], "workers": 0, "paused": false, "spent": []});
        return Ok(stdout::json(&empty, Exit::Success));
    }
    display::note(if all { NOTHING } else { FETCHED });
    Ok(Exit::Success)
}

fn redraws() -> bool {
    io::stdout().is_terminal() && !is_json()
}

/// Writes the text; on a terminal that is watched, in place of the lines that were drawn before. Returns how many lines
/// to replace next.
fn draw(text: &str, before: usize, watched: bool) -> io::Result<usize> {
    if !watched || !redraws() {
        return stdout::write(text).map(|()| 0);
    }
    let term = Term::stdout();
    let (height, width) = term.size();
    // A line that wraps or scrolls away could not be replaced.
    let most = usize::from(height).saturating_sub(2).max(2);
    let width = usize::from(width).saturating_sub(2);
    let lines: Vec<String> = text
        .lines()
        .take(most)
        .map(|line| shortened(line, width))
        .collect();
    term.clear_last_lines(before)?;
    lines.iter().try_for_each(|line| term.write_line(line))?;
    Ok(lines.len())
}

/// A process, its batches, and the time that is left.
pub struct Row {
    pub process: ProcessState,
    pub batches: Vec<BatchInfo>,
    eta: Option<Duration>,
}

/// All open processes, or those of `only`.
pub fn rows(
    queue: &JobQueue,
    only: &[ProcessId],
    tracker: &mut ProcessTracker,
) -> Result<Vec<Row>, Error> {
    let mut processes = match only {
        [id] => queue.process(*id)?.into_iter().collect(),
        _ => queue.open_processes()?,
    };
    processes.retain(|process| only.is_empty() || only.contains(&process.process_id));
    let batches = queue.batches(None)?;
    let (now, wall) = (SystemClock.now(), SystemClock.wall());
    let row = |process: ProcessState| {
        let is_own = |batch: &&BatchInfo| batch.process_id == Some(process.process_id);
        Row {
            batches: batches.iter().filter(is_own).cloned().collect(),
            eta: tracker.progress(&process, now, wall).eta,
            process,
        }
    };
    Ok(processes.into_iter().map(row).collect())
}

impl Row {
    /// What a watched queue is shown again for.
    fn changes(&self) -> (JobCounts, String, Vec<String>) {
        let batches = self.batches.iter().map(queue::batch_state);
        (self.process.counts, self.state(), batches.collect())
    }

    fn state(&self) -> String {
        let process = &self.process;
        let counts = &process.counts;
        let runs = counts.in_progress + counts.at_provider > 0;
        let taken = number_of(counts.consumed, "result|results taken");
        let states = [
            (!process.sealed, "unsealed"),
            (process.cancelled, "cancelled"),
            (self.is_out_of_budget(), "paused by its budget"),
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

    fn is_out_of_budget(&self) -> bool {
        let budget = self.process.budget.as_ref();
        budget.is_some_and(|budget| budget.needed.is_some())
    }

    /// The known cost of its jobs; with a `+` if there are jobs of unknown cost.
    fn cost(&self) -> String {
        let spent = &self.process.spent;
        let more = if spent.unpriced > 0 { "+" } else { "" };
        let known = spent.cost_usd.map(|cost| format!("{cost}{more}"));
        known.unwrap_or_else(|| "unknown".to_owned())
    }

    /// How its prompts are sent.
    fn strategy(&self, settings: &Settings) -> EffectiveStrategy {
        if self.batches.is_empty() && self.process.counts.at_provider == 0 {
            EffectiveStrategy::expected(settings)
        } else {
            EffectiveStrategy::possible(Strategy::Batch)
        }
    }
}

/// The number of living workers, and what limits them.
fn workers(queue: &JobQueue) -> Result<(u64, Vec<(String, u64)>), Error> {
    let mut limits = queue.limited_by()?;
    // It only waits for jobs.
    limits.retain(|(limit, _)| limit != "source");
    Ok((queue.workers()?, limits))
}

/// What the calls for jobs of the queue have cost since the first day of this month (UTC), by day and model.
fn spent(queue: &JobQueue) -> Result<Vec<DaySpent>, Error> {
    queue.spent_since(Some(Day::of(SystemClock.wall()).first_of_month()))
}

/// All of it for programs, on one line.
fn json(
    args: &StatusArgs,
    queue: &JobQueue,
    all: bool,
    rows: &[Row],
    settings: &Settings,
) -> Result<String, Refusal> {
    let (workers, limits) = workers(queue).map_err(failed)?;
    let limit = limits.first().map(|(limit, _)| limit.as_str());
    let row = |row: &Row| {
        let strategy = row.strategy(settings);
        let age = SystemClock.wall().since(row.process.created_at);
        let mut line = json!(row.process);
        line["queue"] = json!(args.data.file.queue);
        line["strategy"] = json!(strategy.strategy);
        line["fallback_reason"] = json!(strategy.fallback_reason);
        line["eta_seconds"] = json!(row.eta.map(|eta| eta.as_secs_f64().ceil() as u64));
        let limit = if row.is_out_of_budget() {
            Some("budget")
        } else {
            limit
        };
        line["limited_by"] = json!(limit.filter(|_| !row.process.is_finished()));
        line["age_seconds"] = json!(age.as_secs());
        line["batches"] = json!(row.batches);
        line
    };
    let processes: Vec<Value> = rows.iter().map(row).collect();
    let mut line = json!({"processes": processes, "workers": workers, "paused": queue.is_paused().map_err(failed)?});
    if all {
        line["spent"] = json!(spent(queue).map_err(failed)?);
    }
    Ok(sanitize::json(&line) + "\n")
}

/// What the table does not say: who works, what was spent, and how each process goes on.
fn note_end(
    args: &StatusArgs,
    queue: &JobQueue,
    all: bool,
    rows: &[Row],
    settings: &Settings,
) -> Result<(), Refusal> {
    let (workers, limits) = workers(queue).map_err(failed)?;
    let command = |words: &str| args.data.command(words);
    // The processes of a run go on with its own command.
    let waits = |row: &Row| !row.process.is_finished() && run_line(&row.process).is_none();
    if rows.is_empty() {
        display::note(if all { NOTHING } else { FETCHED });
    }
    if workers > 0 {
        let limits = limits.iter();
        let limits =
            limits.map(|(limit, _)| format!(", limited by {limit}{}", display::lever(limit)));
        let running = number_of(workers, "worker|workers is|are");
        display::note(format!("{running} running{}", limits.collect::<String>()));
    } else if rows.iter().any(waits) {
        display::note(format!(
            "no worker is running; to go on: {}",
            command("work")
        ));
    }
    if queue.is_paused().map_err(failed)? {
        display::note(PAUSED);
    }
    ways_on(rows, &command).iter().for_each(display::note);
    let mut reasons = rows
        .iter()
        .filter_map(|row| row.strategy(settings).fallback_reason);
    if let Some(reason) = reasons.next() {
        display::note(format!("strategy: {reason}"));
    }
    let days = if all {
        spent(queue).map_err(failed)?
    } else {
        Vec::new()
    };
    if !days.is_empty() {
        let cost: Usd = days.iter().map(|row| row.cost_usd).sum();
        // The store adds up only known costs, so a zero may be either.
        let is_unsure = |row: &&DaySpent| row.cost_usd == Usd::ZERO;
        let unsure = days.iter().filter(is_unsure).map(|row| row.calls).sum();
        let calls = counts([
            (days.iter().map(|row| row.calls).sum(), "call|calls"),
            (unsure, "of them free or of unknown cost"),
        ]);
        let calls = calls.join(", ");
        display::note(format!(
            "known cost in this month (UTC): {cost} for {calls}"
        ));
    }
    Ok(())
}

/// How processes go on that their budget has paused, or that belong to a run.
pub fn ways_on(rows: &[Row], command: &dyn Fn(&str) -> String) -> Vec<String> {
    let lines = rows.iter().flat_map(|row| {
        let (id, budget) = (row.process.process_id, row.process.budget.as_ref());
        let paused = budget.and_then(ProcessBudget::why).map(|why| {
            let retry = command(&format!("retry {id} --budget USD"));
            format!("process {id} is paused: {why}; to continue with a higher budget: {retry}")
        });
        paused.into_iter().chain(run_line(&row.process))
    });
    lines.collect()
}

/// The processes, and below them their batches, each on one line.
pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    const NUMBERS: [&str; 6] = ["total", "pending", "running", "done", "failed", "cancelled"];
    let has_eta = rows.iter().any(|row| row.eta.is_some());
    let mut head = vec!["process", "name"];
    head.extend(NUMBERS);
    head.extend(has_eta.then_some("left"));
    head.extend(["cost", "state"]);
    let mut table = Table::new(head);
    for row in rows {
        let counts = &row.process.counts;
        let mut id = row.process.process_id.to_string();
        if io::stdout().is_terminal() {
            // People can type the end of an id instead of the id.
            id = format!("…{}", &id[id.len() - 8..]);
        }
        let name = row.process.info.name.clone();
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
            cells.push(row.eta.map_or_else(|| "-".to_owned(), span));
        }
        cells.extend([row.cost(), row.state()]);
        table.row(cells.iter().map(String::as_str));
    }
    let batches = rows.iter().flat_map(|row| &row.batches);
    let batches = batches.map(|batch| format!("  {}\n", queue::batch_line(batch, None)));
    table.lines() + &batches.collect::<String>()
}
