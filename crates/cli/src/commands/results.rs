//! `batchwright results`: moves results out of the queue; each is deleted there only after it is saved here.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use batchwright::files::{FileRunError, ResultsAppender};
use batchwright::queue::{ConsumeError, JobResult, ProcessState};
use batchwright::unstable::named_file;
use batchwright::{Context, Error, ErrorKind, JobQueue, ProcessId};
use serde_json::json;

use crate::args::queue::ResultsArgs;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::format::{counts, number_of};
use crate::queue::{collected_elsewhere, failed, run_command};
use crate::signals::Signals;
use crate::stderr::is_json;
use crate::stdout;

pub fn execute(args: &ResultsArgs) -> Result<Exit, Refusal> {
    let ctx = Context::new();
    let stopping = "stopping after the current write; press Ctrl-C again to stop now";
    let signals = Signals::watch(&ctx, stopping.to_owned())?;
    let (mut queue, process) = args.data.process(args.process.as_deref())?;
    let id = process.process_id;
    if is_json() && stdout::is_named(args.output.as_deref()) {
        let why = "--json needs -o FILE, because the results are on standard output";
        return Err(Refusal::usage(why));
    }
    let keeps = args.keep || !(args.take || saves(args));
    if let Some(line) = collected_elsewhere(&process).filter(|_| !keeps) {
        let lost = args.data.of_lost_batch(&queue, &process)?;
        let look = args.data.command(&format!("results {id} --keep"));
        queue = lost.ok_or_else(|| {
            Refusal::usage(format!("{line}\nnothing was deleted. To show them: {look}"))
        })?;
    }
    if args.take && stdout::is_named(args.output.as_deref()) && stdout::is_closed() {
        return Err(Refusal::could_not_run(
            "standard output is closed or discarded, so the results would be lost: name a file with --output",
        ));
    }
    let target = target(named(args))?;
    let mut saved = Saved {
        target,
        ctx,
        safe: 0,
        written: 0,
        repeated: 0,
        failed: 0,
    };
    let ended = if keeps {
        show(&queue, id, &mut saved)
    } else {
        let taken = queue.consume(id, |results| saved.save(results));
        taken.map(drop)
    };
    match ended {
        Ok(()) => {
            let open = queue.process(id).map_err(failed)?;
            let open = open.map_or(0, |now| now.counts.total - now.counts.finished());
            display::note(&summary(args, &process, keeps, &saved, open));
            let exit = match saved.failed {
                0 => Exit::Success,
                _ => Exit::SomeFailed,
            };
            if !is_json() {
                return Ok(exit);
            }
            let facts = json!({"process_id": id, "written": saved.written, "already_there": saved.safe - saved.written,
                "repeated_ids": saved.repeated, "failed": saved.failed, "open": open, "kept": keeps, "exit_code": exit.code()});
            Ok(stdout::json(&facts, exit))
        }
        Err(ConsumeError::Save(Stop::Interrupted)) => {
            display::note(&format!("interrupted; {}", partly(&saved)));
            Ok(signals.exit().unwrap_or(Exit::CouldNotRun))
        }
        Err(ConsumeError::Save(Stop::ReaderGone)) => {
            let line = format!("the reader of the results went away; {}", partly(&saved));
            display::note(&line);
            Ok(Exit::StoppedEarly)
        }
        Err(ConsumeError::Save(Stop::Failed(error)) | ConsumeError::Queue(error)) => {
            let message = format!("{}; {}", error.message(), partly(&saved));
            Err(Refusal::could_not_run(message))
        }
    }
}

fn partly(saved: &Saved) -> String {
    let written = number_of(saved.safe, "result|results is|are written");
    format!("{written}, the others stay in the queue")
}

/// The output, unless it is standard output.
fn named(args: &ResultsArgs) -> Option<&Path> {
    let output = args.output.as_deref();
    output.filter(|path| *path != Path::new("-"))
}

/// True if the output is a file. For a pipe or a terminal it is unknown whether the output was read.
fn saves(args: &ResultsArgs) -> bool {
    match named(args) {
        Some(path) => std::fs::metadata(path).map_or(true, |metadata| metadata.is_file()),
        None => stdout::is_file(),
    }
}

fn summary(
    args: &ResultsArgs,
    process: &ProcessState,
    keeps: bool,
    saved: &Saved,
    open: u64,
) -> String {
    let id = process.process_id;
    let to = named(args).map_or_else(String::new, |path| format!(" to {}", path.display()));
    let mut line = match saved.safe {
        0 => "no results yet".to_owned(),
        _ => number_of(saved.written, "result|results written") + &to,
    };
    for part in counts([
        (saved.safe - saved.written, "was|were already there"),
        (saved.failed, "of them without success"),
        (
            saved.repeated,
            "of them under an id that the file had before: the last line of an id counts",
        ),
    ]) {
        line.push_str(&format!(", {part}"));
    }
    if open > 0 {
        let open = number_of(open, "job|jobs is|are still open");
        line.push_str(&format!(
            "; {open}; to fetch the rest later, run the same command"
        ));
    }
    if keeps && saved.safe > 0 {
        line.push_str("; the queue keeps them\n  to ");
        line.push_str(&match run_command(&process.info) {
            Some(back) => format!("save them there: {back}"),
            None => {
                let fetch = args.data.command(&format!("results {id}"));
                format!("fetch them: {fetch} -o FILE")
            }
        });
    }
    line
}

enum Target {
    File(Box<ResultsAppender>),
    Stream(Box<dyn Write>),
}

fn target(named: Option<&Path>) -> Result<Target, Refusal> {
    let Some(path) = named else {
        return Ok(Target::Stream(Box::new(io::stdout().lock())));
    };
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = named_file::output(OpenOptions::new().append(true), path, true, true);
        let file = file.map_err(|error| {
            Refusal::could_not_run(format!(
                "{}: cannot open the output: {error}",
                path.display()
            ))
        })?;
        return Ok(Target::Stream(Box::new(file)));
    }
    match ResultsAppender::open(path) {
        Ok(file) => Ok(Target::File(Box::new(file))),
        Err(FileRunError::Usage(error)) => Err(Refusal::usage(error.message())),
        Err(error) => Err(Refusal::could_not_run(error.to_string())),
    }
}

/// Why writing results ended early.
enum Stop {
    Interrupted,
    ReaderGone,
    Failed(Error),
}

/// Where results are written, and how many were.
struct Saved {
    target: Target,
    ctx: Context,
    /// Number of saved results, including those that existed before.
    safe: u64,
    written: u64,
    /// The part of these whose id the file had before, with another line.
    repeated: u64,
    failed: u64,
}

impl Saved {
    fn save(&mut self, results: &[JobResult]) -> Result<(), Stop> {
        if self.ctx.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        let lines: Vec<String> = results.iter().map(JobResult::line).collect();
        let written = match &mut self.target {
            Target::File(file) => {
                let added = file.append(&lines).map_err(Stop::Failed)?;
                self.repeated = file.repeated();
                added
            }
            Target::Stream(stream) => {
                write(stream, &lines)?;
                lines.len() as u64
            }
        };
        self.written += written;
        self.safe += results.len() as u64;
        self.failed += results.iter().filter(|r| !r.is_success()).count() as u64;
        Ok(())
    }
}

fn write(stream: &mut dyn Write, lines: &[String]) -> Result<(), Stop> {
    let all: String = lines.iter().map(|line| line.clone() + "\n").collect();
    let written = stream.write_all(all.as_bytes());
    written
        .and_then(|()| stream.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::ReaderGone,
            _ => {
                let why = format!("cannot write the results: {error}");
                Stop::Failed(Error::new(ErrorKind::Invalid, why))
            }
        })
}

/// Number of results that are written at once.
const GROUP: usize = 100;

fn show(queue: &JobQueue, id: ProcessId, saved: &mut Saved) -> Result<(), ConsumeError<Stop>> {
    let mut results = queue.get_results(id).peekable();
    while results.peek().is_some() {
        let group: Result<Vec<_>, _> = results.by_ref().take(GROUP).collect();
        let group = group.map_err(ConsumeError::Queue)?;
        saved.save(&group).map_err(ConsumeError::Save)?;
    }
    Ok(())
}
