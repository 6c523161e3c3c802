//! One run: the effect of an attempt on its command, and on the other commands.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use batchwright::unstable::{Pool, TaskEnd};
use batchwright::{Context, Error, ErrorKind, ErrorPolicy, RetryPolicy, StopReason};
use parking_lot::Mutex;

use super::{CommandReport, CommandRunner};
use crate::invalid;
use crate::job::CommandJob;
use crate::output::OutputSettings;
use crate::process::{self, StopCall};
use crate::record::{CommandResult, FailureKind, JobError, JobRecord, JobStatus};
use crate::sandbox::Launcher;
use crate::start::{Deadlines, Ended, NotStarted};

/// How often a command that lacks open files, processes or memory is started again, and how long it waits before that.
const SCARCE: (u32, Duration) = (3, Duration::from_secs(1));

/// A command in the pool.
pub(super) struct Task {
    index: u64,
    job: Arc<CommandJob>,
    /// The result of its last attempt.
    last: Mutex<LastTry>,
}

type LastTry = (Option<CommandResult>, Option<JobError>);
pub(super) type Call<'c> = &'c (dyn Fn(&Task, u32, &Context) -> Result<(), Error> + Sync);
pub(super) type TaskSink<'s> = &'s mut dyn FnMut(TaskEnd<Task, ()>) -> ControlFlow<()>;

/// One run of a runner.
pub(super) struct Run<'a> {
    runner: &'a CommandRunner,
    launcher: Launcher,
    output: OutputSettings,
    stop: Arc<StopCall>,
    /// No more commands are started.
    stopping: Arc<AtomicBool>,
    /// Why the keeper has ended, which ends the run.
    lost: OnceLock<Error>,
}

impl<'a> Run<'a> {
    pub(super) fn new(runner: &'a CommandRunner) -> Result<Self, Error> {
        runner.check()?;
        let stop = StopCall::new().map_err(|why| invalid(format!("cannot make a pipe: {why}")))?;
        let folder = match &runner.folder {
            Some(folder) => std::path::absolute(folder),
            None => std::env::current_dir(),
        };
        let folder =
            folder.map_err(|why| invalid(format!("cannot tell the working directory: {why}")))?;
        let launcher = Launcher::new(folder, runner.sandbox.as_ref())?;
        if !launcher.status.missing.is_empty() {
            log::warn!(
                "commands run without what this system cannot enforce: {}",
                launcher.status.missing.join("; ")
            );
        }
        if let Some(why) = &launcher.status.no_namespace {
            log::warn!(
                "commands get no process namespace ({why}): a process that leaves its command is looked for and killed \
                 at the end of the run, and may be missed"
            );
        }
        Ok(Self {
            runner,
            launcher,
            output: OutputSettings {
                in_memory: runner.output_limit,
                most: runner.max_output,
            },
            stop: Arc::new(stop),
            stopping: Arc::default(),
            lost: OnceLock::new(),
        })
    }

    pub(super) fn source<J>(&self, jobs: J) -> impl Iterator<Item = Result<Task, Error>> + use<J>
    where
        J: Iterator<Item = Result<CommandJob, Error>>,
    {
        let monitor = self.runner.monitor.clone();
        jobs.zip(0..).map(move |(job, index)| {
            let mut job = job?;
            if job.seq == 0 {
                job.seq = index + 1;
            }
            let job = Arc::new(job);
            monitor.read(index, job.clone());
            Ok(Task {
                index,
                job,
                last: Mutex::default(),
            })
        })
    }

    pub(super) fn carry_out(
        &self,
        total: Option<u64>,
        mut sink: impl FnMut(JobRecord) -> ControlFlow<()>,
        run: impl FnOnce(&Pool<'_>, Call<'_>, TaskSink<'_>) -> batchwright::unstable::PoolEnd,
    ) -> Result<CommandReport, Error> {
        let runner = self.runner;
        let retry = RetryPolicy::default().max_retries(runner.retries);
        let pool = Pool::new(&runner.ctx)
            .concurrency(runner.concurrency)
            .rate(runner.rate)
            .retry(retry.base_delay(runner.retry_delay))
            .on_error(runner.on_error)
            .total(total)
            .notifier(runner.notifier.clone());
        let stopping = self.stopping.clone();
        let _stopping = (runner.ctx).on_cancel(move || stopping.store(true, Ordering::SeqCst));
        let mut closed = false;
        let (mut completed, mut failed, mut cancelled) = (0, 0, 0);
        let mut hand_out = |record: JobRecord| {
            match record.status {
                JobStatus::Completed => completed += 1,
                JobStatus::Failed => failed += 1,
                _ => cancelled += 1,
            }
            closed = closed || sink(record).is_break();
            closed
        };
        let mut take = |end: TaskEnd<Task, ()>| {
            let index = end.task.index;
            let record = self.record(end);
            runner.monitor.ended(index, &record);
            if hand_out(record) | self.lost.get().is_some() {
                self.stop_starts();
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let call = |task: &Task, attempt: u32, ctx: &Context| self.call(task, attempt, ctx);
        let end = run(&pool, &call, &mut take);
        if let Some(StopReason::Misuse(why)) = end.stop {
            return Err(invalid(why));
        }
        Ok(CommandReport {
            completed,
            failed,
            cancelled,
            retries: end.summary.retries,
            elapsed: end.summary.elapsed,
            stop: match self.lost.get() {
                Some(why) => Some(StopReason::Critical(why.clone())),
                None => end.stop,
            },
        })
    }

    fn stop_starts(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn call(&self, task: &Task, attempt: u32, ctx: &Context) -> Result<(), Error> {
        let monitor = &self.runner.monitor;
        monitor.started(task.index, attempt);
        let (abort, stopping) = (self.stop.clone(), self.stopping.clone());
        let _abort = ctx.on_cancel(move || {
            abort.abort();
            stopping.store(true, Ordering::SeqCst);
        });
        let (result, error) = match self.try_once(task) {
            Ok(ended) => self.judge(ended),
            Err(error) => (None, Some(error)),
        };
        let outcome = error.as_ref().map_or(Ok(()), |error| {
            let engine_error = self.engine_error(error, attempt);
            // The engine learns of this failure later, and may have given commands to other threads already.
            if !self.is_retried(engine_error.kind(), attempt) && self.ends_run(error) {
                self.stop_starts();
            }
            Err(engine_error)
        });
        *task.last.lock() = (result, error);
        monitor.tried(task.index);
        outcome
    }

    fn try_once(&self, task: &Task) -> Result<Ended, JobError> {
        let runner = self.runner;
        let deadlines = Deadlines {
            timeout: runner.timeout,
            grace: runner.kill_grace,
        };
        let (mut again, pause) = SCARCE;
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                let why = "the run ended before it started";
                return Err(JobError::new(FailureKind::Cancelled, why));
            }
            let (launcher, job) = (&self.launcher, &task.job);
            match process::run(launcher, job, deadlines, self.output, &self.stop) {
                Ok(ended) => return Ok(ended),
                Err(NotStarted { scarce: true, .. }) if again > 0 => {
                    again -= 1;
                    self.stop.wait(pause);
                }
                Err(NotStarted { why, lost, .. }) => {
                    if lost {
                        let why = invalid(why.message.clone());
                        self.lost.get_or_init(|| why.with_critical());
                        self.stop_starts();
                    }
                    return Err(why);
                }
            }
        }
    }

    /// Converts the end of a command to the result of its attempt.
    fn judge(&self, ended: Ended) -> LastTry {
        let runner = self.runner;
        let result = ended.result;
        let (kind, why) = if let Some(why) = ended.output_error {
            let kind = match why.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
                _ => FailureKind::NotStarted,
            };
            (kind, format!("its output cannot be kept: {why}"))
        } else if ended.timed_out {
            let limit = humantime::format_duration(runner.timeout.unwrap_or_default());
            (FailureKind::Timeout, format!("killed after {limit}"))
        } else if ended.left {
            (FailureKind::Signal, process::NEVER_ENDS.to_owned())
        } else if result.exit_code == Some(0) {
            return (Some(result), None);
        } else if ended.stopped {
            let why = "killed while it ran, since the run ended early";
            (FailureKind::Cancelled, why.to_owned())
        } else if let Some(signal) = result.signal {
            (FailureKind::Signal, format!("killed by signal {signal}"))
        } else {
            let code = result.exit_code.unwrap_or_default();
            (FailureKind::Exit, format!("exit code {code}"))
        };
        (Some(result), Some(JobError::new(kind, why)))
    }

    /// The same as an error for the engine, which decides what follows.
    fn engine_error(&self, error: &JobError, attempt: u32) -> Error {
        let kind = match error.kind {
            FailureKind::Cancelled => ErrorKind::Cancelled,
            kind if kind.is_retried() => ErrorKind::Transient,
            _ => ErrorKind::Invalid,
        };
        let engine_error = Error::new(kind, error.message.clone());
        if error.kind.is_critical() && !self.is_retried(kind, attempt) {
            engine_error.with_critical()
        } else {
            engine_error
        }
    }

    fn is_retried(&self, kind: ErrorKind, attempt: u32) -> bool {
        kind == ErrorKind::Transient && attempt <= u32::from(self.runner.retries)
    }

    /// Whether the run ends because of this failure, after the last retry.
    fn ends_run(&self, error: &JobError) -> bool {
        match self.runner.on_error {
            ErrorPolicy::ContinueOnError => false,
            ErrorPolicy::StopOnError => true,
            ErrorPolicy::StopOnCriticalError => error.kind.is_critical(),
        }
    }

    /// The record of a command that has ended, or will never start. If it stops the run, that is initiated here.
    fn record(&self, end: TaskEnd<Task, ()>) -> JobRecord {
        let (result, last_error) = end.task.last.into_inner();
        let (status, error) = match end.result {
            Ok(()) => (JobStatus::Completed, None),
            Err(error) => match error.kind() {
                ErrorKind::Cancelled | ErrorKind::DeadlineExceeded => (
                    JobStatus::Cancelled,
                    Some(JobError::new(FailureKind::Cancelled, error.message())),
                ),
                ErrorKind::Panic => (
                    JobStatus::Failed,
                    Some(JobError::new(FailureKind::Panic, error.message())),
                ),
                _ => (JobStatus::Failed, last_error),
            },
        };
        let ends_run = |error: &JobError| self.ends_run(error);
        if status == JobStatus::Failed && error.as_ref().is_some_and(ends_run) {
            self.stop_starts();
        }
        JobRecord {
            job: end.task.job,
            status,
            attempts: end.attempts,
            result,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_starts_after_a_failure_that_ends_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::new();
        let task = |line: &str| Task {
            index: 0,
            job: Arc::new(CommandJob::shell(line)),
            last: Mutex::default(),
        };
        let runner = CommandRunner::new()
            .current_dir(folder.path())
            .retries(1)
            .on_error(ErrorPolicy::StopOnError);
        let run = Run::new(&runner).unwrap();
        let fails = task("exit 1");
        // Neither attempt was reported to the engine, which still starts commands.
        run.call(&fails, 1, &ctx).unwrap_err();
        run.call(&task("touch between"), 1, &ctx).unwrap();
        assert!(folder.path().join("between").exists());
        run.call(&fails, 2, &ctx).unwrap_err();
        let late = run.call(&task("touch late"), 1, &ctx).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Cancelled);
        assert!(!folder.path().join("late").exists());
    }
}
