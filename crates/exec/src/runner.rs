//! Runs commands on the pool, with a limited concurrency and rate and with retries, until all are done or the run
//! stops.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use derive_setters::Setters;

use batchwright::unstable::{Optional, Pool, PoolEnd, TaskEnd};
use batchwright::{
    Context, Error, ErrorKind, ErrorPolicy, ProgressNotifier, RetryPolicy, StopReason,
};
use parking_lot::Mutex;

use super::monitor::{JobCounts, Monitor};
use super::process::{self, CommandLimits, StopCall};
use super::record::{CommandJob, CommandResult, FailureKind, JobError, JobRecord, JobStatus};
use super::sandbox::{Launcher, Sandbox, SandboxMode};
use crate::invalid;

/// Higher values are rejected unless [`CommandRunner::max_concurrency`] allows them.
const MOST_AT_ONCE: usize = 10;

/// Runs commands in parallel, each in a separate process group and with empty standard input.
///
/// ```
/// use std::ops::ControlFlow;
/// use batchwright_exec::{CommandJob, CommandRunner, JobStatus};
/// let jobs = (0..10).map(|i| CommandJob::new("echo").arg(i.to_string()));
/// let report = CommandRunner::new().concurrency(4).run(jobs, |record| {
///     assert_eq!(record.status, JobStatus::Completed);
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(report.completed, 10);
/// # Ok::<(), batchwright::Error>(())
/// ```
///
/// When a command has ended, its process group is killed, including background processes: immediately if they do
/// not hold the command's output open, otherwise after 200 ms in which the last output is read. A process that has
/// started its own session (`setsid`) is killed when the run ends.
// More than 15 fields, because each is a setting with its own setter.
#[derive(Clone, Setters)]
pub struct CommandRunner {
    /// Number of commands at once, up to [`max_concurrency`](Self::max_concurrency). Default: 5.
    concurrency: usize,
    /// The maximum for this number. Default: 10.
    max_concurrency: usize,
    /// Starts per second, evenly spaced, including retries. Fractions are allowed. Default: no limit.
    rate: Option<f64>,
    /// How a failed command affects the others. These failures are critical: a program that is not found, not allowed,
    /// or cannot be started or confined; death by a signal; a full disk. If a command is retried, its last attempt counts.
    /// Default: [`ErrorPolicy::ContinueOnError`].
    on_error: ErrorPolicy,
    /// Maximum duration of an attempt; then its group receives SIGTERM, and SIGKILL after
    /// [`kill_grace`](Self::kill_grace). Default: no limit.
    timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL. Aborted commands have a quarter of a second. Default: 2 s.
    kill_grace: Duration,
    /// Number of retries after an exit code other than 0, a signal or a time-out. Default: 0.
    retries: u8,
    /// Wait before the first retry; each further wait doubles, up to a minute, with added jitter. Default: 1 s.
    retry_delay: Duration,
    /// Maximum number of bytes of each output of a command that are kept. An output of more than 64 KiB is in a temporary
    /// file without a name, which is deleted with its [`Output`](crate::Output). The rest is read and dropped. Default: 1
    /// GiB.
    max_output: u64,
    /// The folder in which commands run. Default: that of this process.
    #[setters(rename = "current_dir", into, strip_option)]
    folder: Option<PathBuf>,
    /// The permissions of commands; rules that the kernel cannot enforce are logged. Default: the permissions and the
    /// environment of this process.
    ///
    /// On Linux, a second instance of this program keeps the commands together and ends them with this process, however it
    /// ends: see [`confine_main`](crate::confine_main). If this program cannot be that instance and there is no sandbox,
    /// commands are children of this process, and go on if it is killed.
    sandbox: Sandbox,
    /// Number of commands, for progress. Default: the number that the iterator reports, if any.
    total: Option<u64>,
    #[setters(skip)]
    pub(super) ctx: Context,
    /// Receives the progress. Default: no notifier.
    #[setters(strip_option)]
    notifier: Option<Arc<dyn ProgressNotifier>>,
    #[setters(skip)]
    monitor: Monitor,
}

impl Default for CommandRunner {
    fn default() -> Self {
        Self::new()
    }
}

/// The numbers of a run of commands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommandReport {
    /// Commands that ended with exit code 0.
    pub completed: u64,
    /// Commands that failed permanently.
    pub failed: u64,
    /// Commands that were read but did not end, because the run ended.
    pub cancelled: u64,
    /// Attempts after the first of each command.
    pub retries: u64,
    /// Duration of the run.
    pub elapsed: Duration,
    /// The reason if it ended before its source did.
    pub stop: Option<StopReason>,
}

impl CommandRunner {
    /// Five commands at once, no retries, no time limit, continues after errors.
    pub fn new() -> Self {
        Self {
            concurrency: 5,
            max_concurrency: MOST_AT_ONCE,
            rate: None,
            on_error: ErrorPolicy::ContinueOnError,
            timeout: None,
            kill_grace: Duration::from_secs(2),
            retries: 0,
            retry_delay: Duration::from_secs(1),
            max_output: 1 << 30,
            folder: None,
            sandbox: Sandbox::new(SandboxMode::Off).pass_variable("*"),
            total: None,
            ctx: Context::new(),
            notifier: None,
            monitor: Monitor::default(),
        }
    }

    /// Cancellation, deadline and grace period. After a cancel, no more commands start; an abort kills the running
    /// ones. Default: a context that is never cancelled.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Shows the commands of this run while it is in progress.
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// Checks that the settings are valid.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (given, most) = (self.concurrency, self.max_concurrency);
        let why = if !(1..=most).contains(&given) {
            format!("commands at once must be from 1 to {most}, not {given}")
        } else if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            format!("the rate must be above 0 a second, not {rate}")
        } else {
            return Ok(());
        };
        Err(invalid(why))
    }

    /// Runs jobs, and passes each record to `sink` on this thread when the command ends. Returning `Break` stops the
    /// run. `jobs` is read by a separate thread, a few items ahead, and may be endless; cancelling waits for a `next()`
    /// that blocks. When the run stops, all other commands that were read are passed on as
    /// [`Cancelled`](crate::JobStatus::Cancelled) with the reason.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](batchwright::ErrorKind::Invalid) if the settings are invalid; the message names what they accept. Nothing was run then.
    pub fn run<I>(
        &self,
        jobs: I,
        sink: impl FnMut(JobRecord) -> ControlFlow<()>,
    ) -> Result<CommandReport, Error>
    where
        I: IntoIterator<Item = CommandJob>,
        I::IntoIter: Send,
    {
        let jobs = jobs.into_iter();
        let (least, most) = jobs.size_hint();
        let exact = most.filter(|most| *most == least).map(|most| most as u64);
        let run = Run::new(self)?;
        let source = run.source(jobs.map(Ok));
        run.carry_out(self.total.or(exact), sink, |pool, call, sink| {
            pool.run(source, call, sink)
        })
    }

    /// As [`run`](Self::run), for [`Commands`](crate::Commands), which are read from files or standard input, and for
    /// any other source whose items may be errors, which stop the run. If a read blocks for ever, its thread is left
    /// behind when the run ends.
    ///
    /// # Errors
    /// As [`run`](Self::run). A line that is not a command does not return an error but stops the run.
    pub fn run_commands<I>(
        &self,
        commands: I,
        sink: impl FnMut(JobRecord) -> ControlFlow<()>,
    ) -> Result<CommandReport, Error>
    where
        I: IntoIterator<Item = Result<CommandJob, Error>>,
        I::IntoIter: Send + 'static,
    {
        let run = Run::new(self)?;
        let source = run.source(commands.into_iter());
        run.carry_out(self.total, sink, |pool, call, sink| {
            pool.run_detached(source, call, sink)
        })
    }
}

/// How often a command that lacks open files, processes or memory is started again, and how long it waits before that.
const SCARCE: (u32, Duration) = (3, Duration::from_secs(1));

/// A command in the pool.
struct Task {
    index: u64,
    job: Arc<CommandJob>,
    /// The result of its last attempt.
    last: Mutex<LastTry>,
}

type LastTry = (Option<CommandResult>, Option<JobError>);
type Call<'c> = &'c (dyn Fn(&Task, u32, &Context) -> Result<(), Error> + Sync);
type TaskSink<'s> = &'s mut dyn FnMut(TaskEnd<Task, ()>) -> ControlFlow<()>;

/// One run of a runner.
struct Run<'a> {
    runner: &'a CommandRunner,
    launcher: Launcher,
    limits: CommandLimits,
    stop: Arc<StopCall>,
    /// Why the keeper has ended, which ends the run.
    lost: OnceLock<Error>,
    /// No further command may start. The engine learns later what ends the run, and may have given commands to other
    /// threads already.
    stopping: AtomicBool,
}

impl<'a> Run<'a> {
    fn new(runner: &'a CommandRunner) -> Result<Self, Error> {
        runner.check()?;
        let stop = StopCall::new().map_err(|why| invalid(format!("cannot make a pipe: {why}")))?;
        let folder = runner.folder.as_deref().unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder)
            .map_err(|why| invalid(format!("cannot tell the working directory: {why}")))?;
        let launcher = runner.sandbox.prepare(&folder)?;
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
            limits: CommandLimits {
                timeout: runner.timeout,
                grace: runner.kill_grace,
                most: runner.max_output,
            },
            stop: Arc::new(stop),
            lost: OnceLock::new(),
            stopping: AtomicBool::new(false),
        })
    }

    fn source<J>(&self, jobs: J) -> impl Iterator<Item = Result<Task, Error>> + use<J>
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
            let last = Mutex::default();
            Ok(Task { index, job, last })
        })
    }

    fn carry_out(
        &self,
        total: Option<u64>,
        mut sink: impl FnMut(JobRecord) -> ControlFlow<()>,
        run: impl FnOnce(&Pool<'_>, Call<'_>, TaskSink<'_>) -> PoolEnd,
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
        let mut closed = false;
        let mut counts = JobCounts::default();
        let mut take = |end: TaskEnd<Task, ()>| {
            let index = end.task.index;
            let record = self.record(end);
            runner.monitor.ended(index, &record);
            counts.ended(record.status);
            closed = closed || sink(record).is_break();
            if closed || self.lost.get().is_some() {
                self.stopping.store(true, Ordering::SeqCst);
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
        let lost = self.lost.get().cloned().map(StopReason::Critical);
        Ok(CommandReport {
            completed: counts.completed,
            failed: counts.failed,
            cancelled: counts.cancelled,
            retries: end.summary.retries,
            elapsed: end.summary.elapsed,
            stop: lost.or(end.stop),
        })
    }

    fn call(&self, task: &Task, attempt: u32, ctx: &Context) -> Result<(), Error> {
        let monitor = &self.runner.monitor;
        monitor.set(task.index, JobStatus::Running, attempt);
        let abort = self.stop.clone();
        let _abort = ctx.on_cancel(move || abort.abort());
        let (result, error) = match self.try_once(task) {
            Ok((result, error)) => (Some(result), error),
            Err(error) => (None, Some(error)),
        };
        let failure = error.as_ref();
        let failure = failure.map(|error| self.engine_error(error, attempt));
        if failure
            .as_ref()
            .is_some_and(|why| self.ends_run(why, attempt))
        {
            self.stopping.store(true, Ordering::SeqCst);
        }
        *task.last.lock() = (result, error);
        monitor.set(task.index, JobStatus::Pending, attempt);
        failure.map_or(Ok(()), Err)
    }

    fn try_once(&self, task: &Task) -> Result<(CommandResult, Option<JobError>), JobError> {
        let (mut again, pause) = SCARCE;
        loop {
            let is_over = self.stopping.load(Ordering::SeqCst) || self.lost.get().is_some();
            if is_over || self.runner.ctx.is_cancelled() {
                let why = "the run ended before it started";
                return Err(JobError::new(FailureKind::Cancelled, why));
            }
            let (launcher, job) = (&self.launcher, &task.job);
            match process::run(launcher, job, self.limits, &self.stop) {
                Err(why) if why.kind == FailureKind::Resources && again > 0 => {
                    again -= 1;
                    self.stop.wait(pause);
                }
                // The keeper has ended, and with it all commands.
                Err(why) if why.kind == FailureKind::Cancelled => {
                    let lost = invalid(why.message.clone());
                    self.lost.get_or_init(|| lost.with_critical());
                    return Err(why);
                }
                ended => return ended,
            }
        }
    }

    /// A failure as an error for the engine, which decides what follows.
    fn engine_error(&self, error: &JobError, attempt: u32) -> Error {
        let kind = match error.kind {
            FailureKind::Cancelled => ErrorKind::Cancelled,
            kind if kind.is_retried() => ErrorKind::Transient,
            _ => ErrorKind::Invalid,
        };
        let is_critical = error.kind.is_critical() && !self.is_retried(kind, attempt);
        Error::new(kind, error.message.clone()).when(is_critical, Error::with_critical)
    }

    fn is_retried(&self, kind: ErrorKind, attempt: u32) -> bool {
        kind == ErrorKind::Transient && attempt <= u32::from(self.runner.retries)
    }

    fn ends_run(&self, why: &Error, attempt: u32) -> bool {
        match self.runner.on_error {
            ErrorPolicy::ContinueOnError => false,
            ErrorPolicy::StopOnError => !self.is_retried(why.kind(), attempt),
            ErrorPolicy::StopOnCriticalError => why.is_critical(),
        }
    }

    /// The record of a command that has ended, or will never start.
    fn record(&self, end: TaskEnd<Task, ()>) -> JobRecord {
        let (result, last_error) = end.task.last.into_inner();
        let (status, error) = match end.result {
            Ok(()) => (JobStatus::Completed, None),
            Err(error) => {
                let of_run = |kind| Some(JobError::new(kind, error.message()));
                match error.kind() {
                    ErrorKind::Cancelled | ErrorKind::DeadlineExceeded => {
                        (JobStatus::Cancelled, of_run(FailureKind::Cancelled))
                    }
                    ErrorKind::Panic => (JobStatus::Failed, of_run(FailureKind::Panic)),
                    _ => (JobStatus::Failed, last_error),
                }
            }
        };
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
#[path = "runner_tests.rs"]
mod tests;
