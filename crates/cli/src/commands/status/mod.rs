//! `batchwright status`: where the processes in the queue stand, once or until they are finished.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use batchwright::batch::BatchInfo;
use batchwright::config::EffectiveStrategy;
use batchwright::queue::{JobCounts, ProcessState, ProgressTracker};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{ProcessId, Progress, Settings, Strategy};
use console::Term;
use serde_json::{Value, json};

use crate::args::status::StatusArgs;
use crate::batches;
use crate::commands::status::table::table;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::format::count;
use crate::queue::failed;
use crate::run_process;
use crate::sanitize::{self, shortened};
use crate::settings::{effective_strategy, settings};
use crate::table::width;
use crate::wrap::wrapped;
use models::KnownModels;

mod models;
pub mod table;

pub fn execute(args: &StatusArgs) -> Exit {
    args.say.start_log();
    let shown = match args.watch {
        true => watch(args),
        false => once(args),
    };
    match shown {
        Ok(()) => Exit::Success,
        Err(Failure::Refused(refusal)) => refusal.end(args.json, args.say.quiet),
        Err(Failure::OutputClosed) => Exit::StoppedEarly,
    }
}

enum Failure {
    Refused(Refusal),
    /// Standard output is closed.
    OutputClosed,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::OutputClosed
    }
}

/// A process and how fast it goes.
pub struct Row {
    pub process: ProcessState,
    pub progress: Progress,
    pub batches: Vec<BatchInfo>,
    pub effective: EffectiveStrategy,
    /// The models that its jobs name, or that have answered them, as far as that is known.
    pub models: Vec<String>,
    /// Who has its batches, or has answered, as far as that is known.
    pub providers: Vec<String>,
}

impl Row {
    pub fn id(&self) -> ProcessId {
        self.process.process_id
    }

    /// Whether all of its jobs have ended.
    fn is_finished(&self) -> bool {
        self.process.sealed && self.process.counts.is_finished()
    }

    fn json(&self) -> Value {
        let counts = &self.process.counts;
        let eta = self.progress.eta.map(|eta| eta.as_secs_f64().ceil() as u64);
        json!({
            "process_id": self.id(),
            "name": self.process.info.name,
            "input": self.process.info.input,
            "output": self.process.info.output,
            "command": self.process.info.command,
            "strategy": self.effective.strategy,
            "fallback_reason": self.effective.fallback_reason,
            "total": counts.total,
            "pending": counts.pending,
            "in_progress": counts.in_progress,
            "at_provider": counts.at_provider,
            "completed": counts.completed,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "eta_seconds": eta,
            "created_at": self.process.created_at,
            "age_seconds": self.age().as_secs(),
            "models": self.models,
            "providers": self.providers,
            "batches": self.batches.iter().map(batches::json).collect::<Vec<_>>(),
            "sealed": self.process.sealed,
            "consumed": counts.consumed,
        })
    }

    /// How long ago its first job was enqueued.
    pub fn age(&self) -> Duration {
        SystemClock.wall().since(self.process.created_at)
    }

    /// How it is carried out; unknown for a process that has ended without batches.
    pub fn strategy(&self) -> String {
        match self.is_finished() && self.batches.is_empty() {
            true => "-".to_owned(),
            false => self.effective.strategy.to_string(),
        }
    }

    pub fn name(&self) -> String {
        let name = self.process.info.name.clone();
        name.unwrap_or_else(|| "-".to_owned())
    }

    pub fn percent(&self) -> String {
        // Rounded down: all is done only at 100.
        let percent = self.progress.percent.unwrap_or(0.0);
        format!("{:.1} %", (percent * 10.0).floor() / 10.0)
    }

    pub fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        if !self.process.sealed {
            remarks.push("unsealed".to_owned());
        }
        if self.process.cancelled {
            remarks.push("cancelled".to_owned());
        }
        match self.process.counts.consumed {
            0 => {}
            taken => remarks.push(format!("{} results taken", count(taken))),
        }
        if self.is_finished() {
            remarks.push("finished".to_owned());
        }
        remarks.join(", ")
    }
}

/// The strategy of a process: batch where it has batches, else what the present settings say.
fn effective(
    process: &ProcessState,
    batches: &[BatchInfo],
    settings: &Settings,
) -> EffectiveStrategy {
    if !batches.is_empty() || process.counts.at_provider > 0 {
        return EffectiveStrategy::possible(Strategy::Batch);
    }
    effective_strategy(settings)
}

/// Reads again and again where the same processes stand.
struct StatusReader<'a> {
    args: &'a StatusArgs,
    queue: Option<batchwright::JobQueue>,
    only: Option<ProcessId>,
    tracker: ProgressTracker,
    settings: Settings,
    known_models: KnownModels,
}

impl<'a> StatusReader<'a> {
    fn new(args: &'a StatusArgs) -> Result<Self, Refusal> {
        let (queue, only) = match &args.process {
            Some(named) => {
                let (queue, process) = args.data.process(named)?;
                (Some(queue), Some(process.process_id))
            }
            None => (args.data.existing()?, None),
        };
        Ok(Self {
            args,
            queue,
            only,
            tracker: ProgressTracker::new(),
            known_models: KnownModels::default(),
            settings: settings(args.data.data_dir.as_deref())?,
        })
    }

    fn read(&mut self) -> Result<Vec<Row>, Refusal> {
        let Some(queue) = &self.queue else {
            return Ok(Vec::new());
        };
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
            }
        };
        Ok(processes.into_iter().map(row).collect())
    }

    /// What to do next, for people.
    fn advise(&self, rows: &[Row]) {
        let command = |words: String| self.args.data.command(&words);
        let say = |line: String| self.args.say.say(&line);
        if rows.is_empty() {
            say(match self.only {
                Some(_) => "all its results have been taken".to_owned(),
                None => "nothing is queued; to begin: batchwright submit INPUT".to_owned(),
            });
            return;
        }
        let id = match rows {
            [only] => only.id().to_string(),
            _ => "PROCESS".to_owned(),
        };
        let any = |which: &dyn Fn(&Row) -> bool| rows.iter().any(which);
        // Processes of runs are continued by their runs; lines below say how.
        let of_run = |row: &Row| row.process.info.output.is_some();
        let beside_runs = self.only.is_some() || any(&of_run);
        let free = |which: &dyn Fn(&Row) -> bool| -> Vec<ProcessId> {
            let free = rows.iter().filter(|row| !of_run(row) && which(row));
            free.map(Row::id).collect()
        };
        let waiting = free(&|row| row.process.sealed && row.process.counts.pending > 0);
        if !waiting.is_empty() && !any(&|row| row.process.counts.in_progress > 0) {
            say(format!(
                "to carry out what waits: {}",
                command(run_process::work_command(&waiting, beside_runs))
            ));
        }
        let batch = |which: &dyn Fn(&BatchInfo) -> bool| any(&|row| row.batches.iter().any(which));
        let alone = free(&|row| row.batches.iter().any(|batch| !batch.attended));
        if !alone.is_empty() {
            let words = run_process::work_command(&alone, beside_runs);
            say(format!(
                "nobody attends batches; to collect them: {}",
                command(format!("{words} --strategy batch"))
            ));
        }
        if batch(&batches::lacks_its_key) {
            say(format!(
                "the key, or the address, of batches is not here; {}",
                batches::adoption_advice(|words| command(words.to_owned()))
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
                    command(words.to_owned())
                }));
            }
        }
        if batch(&|batch| batch.state == "held") {
            say(format!(
                "held batches wait for you; to send them again: {}; to give them up: {}",
                command("config set batch.on_unknown resubmit".to_owned()),
                command(format!("cancel {id}"))
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
                "to try the failed ones again: {}",
                command(format!("retry {id}"))
            ));
        }
        // Results of a run belong to its output and are not offered for another file.
        let taken = |row: &Row| row.is_finished() && row.process.info.output.is_none();
        if any(&taken) {
            let mut free = rows.iter().filter(|row| taken(row)).map(Row::id);
            let id = match (free.next(), free.next()) {
                (Some(only), None) => only.to_string(),
                _ => "PROCESS".to_owned(),
            };
            say(format!(
                "to take the results: {}",
                command(format!("results {id} -o FILE"))
            ));
        }
        rows.iter()
            .filter_map(|row| run_process::line(&row.process))
            .for_each(say);
        if any(&|row| !row.process.sealed) {
            say(format!(
                "unsealed: it is being submitted, or that was interrupted; to give it up: {}",
                command(format!("cancel {id} --delete"))
            ));
        }
    }
}

fn line_of(rows: &[Row]) -> String {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    sanitize::json(&json!({ "processes": rows })) + "\n"
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn once(args: &StatusArgs) -> Result<(), Failure> {
    let mut reader = StatusReader::new(args)?;
    let rows = reader.read()?;
    if args.json {
        return Ok(print(&line_of(&rows))?);
    }
    if !rows.is_empty() {
        print(&table(&rows, false, width()))?;
        print(&batch_lines(&rows, width()))?;
    }
    reader.advise(&rows);
    Ok(())
}

/// How often a watched queue is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

fn watch(args: &StatusArgs) -> Result<(), Failure> {
    let terminal = io::stdout().is_terminal() && !args.json;
    let mut reader = StatusReader::new(args)?;
    let mut screen = Screen::default();
    let mut before = HashMap::new();
    let mut first = true;
    loop {
        let rows = reader.read()?;
        if terminal {
            screen.draw(&rows)?;
        } else {
            let now: HashMap<ProcessId, Seen> = rows.iter().map(seen).collect();
            if args.json && (first || now != before) {
                print(&line_of(&rows))?;
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
                reader.advise(&rows);
            }
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// What a line is printed for when it changes.
type Seen = (JobCounts, bool, bool, Vec<String>);

/// The batches, each on a line, or on several where the terminal is too narrow for it.
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
        // A line that wraps, or scrolls away, could not be drawn over.
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
