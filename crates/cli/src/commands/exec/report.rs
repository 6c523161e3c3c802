//! Output for people and programs: the plan, the summary, the exit code.

use std::io::Write;
use std::sync::Arc;

use batchwright::StopReason;
use batchwright_exec::{CommandReport, Commands, Finished, SandboxMode};
use parking_lot::Mutex;

use super::emit::Trouble;
use super::{Plan, REMINDER, skip, unreadable};
use crate::args::exec::ExecArgs;
use crate::command_line::command_line;
use crate::exit::{Exit, Refusal};
use crate::format::{count, number_of, span};
use crate::signals::Session;
use crate::stderr::{is_json, is_quiet};
use crate::{display, stdout};

/// A run that has ended.
pub struct Ended {
    pub report: CommandReport,
    /// The commands whose ends were written, completed and failed ones: others run again.
    pub written: [u64; 2],
    /// Number of results that an earlier run has written to the file.
    pub records_before: Option<u64>,
    pub plan: Plan,
    /// Commands that were skipped because an earlier run finished them.
    pub skipped: u64,
    /// The part of these that failed.
    pub failed_before: u64,
    pub failures: Vec<String>,
    pub trouble: Option<Trouble>,
}

impl Ended {
    /// Commands that were not run to their end, if that is known.
    fn pending(&self) -> Option<u64> {
        let done = self.skipped + self.ended();
        match self.plan.total {
            Some(total) => Some(total.saturating_sub(done)),
            None if self.report.stop.is_none() && self.trouble.is_none() => Some(0),
            None => None,
        }
    }

    /// Why it ended early.
    fn stopped(&self) -> Option<String> {
        match (&self.trouble, &self.report.stop) {
            (Some(Trouble::Unwritten(why)), _) => Some(why.clone()),
            (_, stop) => stop.as_ref().map(ToString::to_string),
        }
    }

    fn ended(&self) -> u64 {
        self.written.iter().sum()
    }
}

/// Commands of the job log that the input lacks.
const FOREIGN: &str = "command|commands of the log is|are not in the input";

/// What the run will do if an earlier run has finished a part of the commands, which of their results the output lacks, and
/// how to start afresh.
pub fn plan_line(args: &ExecArgs, plan: &Plan, records: Option<u64>) -> Option<String> {
    let total = plan.total.filter(|_| plan.finished + plan.foreign > 0)?;
    let foreign = match plan.foreign {
        0 => String::new(),
        n => format!("; {}", number_of(n, FOREIGN)),
    };
    let log = args.joblog.as_ref()?;
    let lacks = lacking(args, plan.finished, records);
    let lacks = lacks.map_or_else(String::new, |lacks| format!("; {lacks} of their results"));
    Some(format!(
        "{} of {} are done{}, {} to run{foreign}{lacks}; to start afresh, delete {} or name another --joblog",
        count(plan.finished),
        count(total),
        of_them_failed(plan.failed),
        count(total - plan.finished),
        log.display(),
    ))
}

/// How many results of finished commands the output lacks, if it does.
fn lacking(args: &ExecArgs, finished: u64, records: Option<u64>) -> Option<String> {
    let missing = finished.checked_sub(records?).filter(|n| *n > 0)?;
    let output = args.output.as_ref()?.display();
    Some(format!("{output} lacks {}", count(missing)))
}

fn of_them_failed(failed: u64) -> String {
    match failed {
        0 => String::new(),
        n => format!(" ({} of them failed)", count(n)),
    }
}

/// Prints the commands that would run.
pub fn dry_run(commands: Commands, plan: &Plan, finished: Finished) -> Result<Exit, Refusal> {
    if is_json() {
        let value = serde_json::json!({
            "total": plan.total,
            "finished_before": plan.finished,
            "failed_before": plan.failed,
            "to_run": plan.to_run(),
        });
        return Ok(stdout::json(&value, Exit::Success));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for job in skip(commands, Arc::new(Mutex::new(finished))) {
        let job = job.map_err(unreadable)?;
        let mut line = job.text_bytes().into_owned();
        line.push(b'\n');
        if out.write_all(&line).is_err() {
            // The reader closed the pipe and needs no more.
            return Ok(Exit::Success);
        }
    }
    let _ = out.flush();
    Ok(Exit::Success)
}

pub fn report(args: &ExecArgs, ended: &Ended, session: &Session) -> Exit {
    let mut exit = exit_of(ended, session);
    match (&ended.trouble, &ended.report.stop) {
        (Some(Trouble::Unwritten(why)), _) => display::error(why),
        (_, Some(stop)) => display::say(&format!("stopped: {stop}")),
        _ => {}
    }
    if is_json() {
        exit = print_json(args, ended, exit);
    }
    if !is_quiet() {
        print(args, ended);
    }
    exit
}

fn exit_of(ended: &Ended, session: &Session) -> Exit {
    match (&ended.trouble, &ended.report.stop) {
        (Some(Trouble::Unwritten(_)), _) => Exit::CouldNotRun,
        (Some(Trouble::Gone), _) => Exit::StoppedEarly,
        (_, Some(StopReason::Cancelled)) => session.signals.exit().unwrap_or(Exit::StoppedEarly),
        // A line that is not a command, in an input that could not be checked before.
        (_, Some(StopReason::Fatal(_))) => Exit::Usage,
        (_, Some(_)) => Exit::StoppedEarly,
        (_, None) if ended.ended() + ended.skipped == 0 => {
            display::error("there are no commands in the input");
            Exit::Usage
        }
        (_, None) if ended.written[1] + ended.failed_before > 0 => Exit::SomeFailed,
        (_, None) => Exit::Success,
    }
}

fn print(args: &ExecArgs, ended: &Ended) {
    let report = &ended.report;
    let [completed, failed] = ended.written;
    let before = match ended.skipped {
        0 => String::new(),
        n => {
            let failed = of_them_failed(ended.failed_before);
            format!("{} finished before{failed}, ", count(n))
        }
    };
    let done = match &ended.trouble {
        Some(_) => "run or not written",
        None => "run",
    };
    let pending = match ended.pending() {
        Some(0) => String::new(),
        Some(n) => format!(", {} not {done}", count(n)),
        None => format!(", the rest of the input not {done}"),
    };
    let rate = match report.elapsed.as_secs_f64() {
        seconds if seconds > 0.0 => format!(", {:.1}/s", ended.ended() as f64 / seconds),
        _ => String::new(),
    };
    let retries = match report.retries {
        0 => String::new(),
        n => format!(" ({})", number_of(n, "retry|retries")),
    };
    let mut lines = vec![format!(
        "{before}{} completed, {} failed{retries}{pending}; {}{rate}",
        count(completed),
        count(failed),
        span(report.elapsed),
    )];
    lines.extend(ended.failures.iter().map(|line| format!("  {line}")));
    // Of an input that can be read twice, the plan has said it.
    let unplanned = ended.plan.total.is_none().then_some(ended.skipped);
    let lacks = unplanned.and_then(|skipped| lacking(args, skipped, ended.records_before));
    lines.extend(
        lacks.map(|lacks| format!("  {lacks} of the results of those that finished before")),
    );
    let more = failed.saturating_sub(ended.failures.len() as u64);
    if more > 0 {
        lines.push(format!("  and {} more that failed", count(more)));
    }
    if failed > 0 && args.sandbox == SandboxMode::On {
        lines.push(format!("  {REMINDER}"));
    }
    if let Some(path) = &args.output {
        lines.push(format!("  results    {}", path.display()));
    }
    lines.extend(how_to_go_on(args, ended).map(|line| format!("  {line}")));
    display::say(&lines.join("\n"));
}

fn how_to_go_on(args: &ExecArgs, ended: &Ended) -> Option<String> {
    let left = ended.pending() != Some(0);
    let failed = ended.written[1] + ended.failed_before;
    match (&args.joblog, left) {
        (Some(_), true) => Some(format!("to go on:\n    {}", command_line())),
        (Some(_), false) if failed > 0 && !args.resume_failed => {
            Some("to run failed commands again, add --resume-failed to the same command".to_owned())
        }
        _ => None,
    }
}

/// Prints the summary for programs. Returns `exit`, or an error if it could not be printed.
fn print_json(args: &ExecArgs, ended: &Ended, exit: Exit) -> Exit {
    let report = &ended.report;
    let value = serde_json::json!({
        "summary": {
            "total": ended.plan.total,
            "completed": ended.written[0],
            "failed": ended.written[1],
            "cancelled": report.cancelled,
            "finished_before": ended.skipped,
            "failed_before": ended.failed_before,
            "pending": ended.pending(),
            "retries": report.retries,
            "elapsed_seconds": report.elapsed.as_secs_f64(),
        },
        "stopped": ended.stopped(),
        "output": args.output.as_ref().map(|path| path.to_string_lossy()),
        "joblog": args.joblog.as_ref().map(|path| path.to_string_lossy()),
        "exit_code": exit.code(),
    });
    stdout::json(&value, exit)
}
