//! Runs commands on the pool: so many at once, at a rate, with retries, until they are done or the run stops.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::engine::route::RetryPolicy;
use crate::observe::progress::ProgressNotifier;
use crate::pool::{Pool, TaskEnd};

use super::job::CommandJob;
use super::launch::{self, Launcher};
use super::monitor::Monitor;
use super::order::{Gate, Reorder};
use super::output::{OutputSettings, Overflow};
use super::process::{Deadlines, Ended, StopCall};
use super::record::{CommandResult, FailureKind, JobError, JobRecord, JobStatus};
use super::sandbox::Sandbox;
use super::sandbox::confined::Intervention;
use super::sandbox::prepared::Prepared;
use super::script::Commands;

/// More at once are refused unless [`CommandRunner::max_concurrency`] says otherwise.
const MOST_AT_ONCE: usize = 10;
/// What is aborted gets this long between SIGTERM and SIGKILL.
const ABORT_GRACE: Duration = Duration::from_millis(250);

/// What becomes of running commands when the run stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They go on to their end; after a cancel, within the context's grace period.
    #[default]
    Finish,
    /// They are killed, each with its process group.
    Kill,
}

/// Runs commands in parallel: each in a process group of its own, with nothing on its standard input.
///
/// ```
/// use std::ops::ControlFlow;
/// use batchwright::commands::{CommandJob, CommandRunner, JobStatus};
/// let jobs = (0..10).map(|i| CommandJob::new("echo").arg(i.to_string()));
/// let report = CommandRunner::new().concurrency(4).keep_order(true).run(jobs, |record| {
///     assert_eq!(record.status, JobStatus::Completed);
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(report.completed, 10);
/// # Ok::<(), batchwright::Error>(())
/// ```
///
/// A command that has ended takes its process group with it: what it left in the background is killed, at once
/// if it does not hold the command's output open, else after 200 ms in which the last output is read. What
/// started a session of its own (`setsid`) is out of reach without a [`sandbox`](Self::sandbox).
#[derive(Clone)]
pub struct CommandRunner {
    concurrency: usize,
    max_concurrency: usize,
    rate: Option<f64>,
    on_error: ErrorPolicy,
    on_stop: OnStop,
    timeout: Option<Duration>,
    kill_grace: Duration,
    retries: u8,
    retry_delay: Duration,
    keep_order: bool,
    output_limit: usize,
    overflow: Overflow,
    max_output: u64,
    critical_exits: BTreeSet<i32>,
    folder: Option<PathBuf>,
    sandbox: Option<Sandbox>,
    total: Option<u64>,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    monitor: Monitor,
}

impl Default for CommandRunner {
    fn default() -> Self {
        Self::new()
    }
}

/// How a run of commands went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommandReport {
    /// Commands that ended with exit code 0.
    pub completed: u64,
    /// Commands that failed in the end.
    pub failed: u64,
    /// Commands that were read and did not end, because the run did.
    pub cancelled: u64,
    /// Tries beyond the first of each command.
    pub retries: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Why it ended before its source did.
    pub stop: Option<StopReason>,
}

impl CommandRunner {
    /// Five at once, no retries, no time limit, on after errors.
    pub fn new() -> Self {
        Self {
            concurrency: 5,
            max_concurrency: MOST_AT_ONCE,
            rate: None,
            on_error: ErrorPolicy::ContinueOnError,
            on_stop: OnStop::default(),
            timeout: None,
            kill_grace: Duration::from_secs(2),
            retries: 0,
            retry_delay: Duration::from_secs(1),
            keep_order: false,
            output_limit: 64 * 1024,
            overflow: Overflow::default(),
            max_output: 1 << 30,
            critical_exits: BTreeSet::new(),
            folder: None,
            sandbox: None,
            total: None,
            ctx: Context::new(),
            notifier: None,
            monitor: Monitor::default(),
        }
    }

    /// Commands at once, up to [`max_concurrency`](Self::max_concurrency). Default: 5.
    pub fn concurrency(mut self, commands: usize) -> Self {
        self.concurrency = commands;
        self
    }

    /// The most that may be asked for. Default: 10.
    pub fn max_concurrency(mut self, commands: usize) -> Self {
        self.max_concurrency = commands;
        self
    }

    /// Starts a second, evenly spaced, tries again included. Fractions are allowed. Default: as fast as slots
    /// come free.
    pub fn rate(mut self, starts_per_second: Option<f64>) -> Self {
        self.rate = starts_per_second;
        self
    }

    /// What a failed command means for the others. Critical are: a program that is not found, not allowed or
    /// cannot be started or confined, death by a signal, more use of something than its
    /// [`sandbox`](Self::sandbox) lets it, a full disk, and [`critical_exits`](Self::critical_exits); what is
    /// tried again counts by its last try. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// What becomes of running commands when the run stops. Default: [`OnStop::Finish`].
    pub fn on_stop(mut self, what: OnStop) -> Self {
        self.on_stop = what;
        self
    }

    /// The longest that a try may take; then its group is sent SIGTERM, and SIGKILL after
    /// [`kill_grace`](Self::kill_grace). Default: no limit.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// The time between SIGTERM and SIGKILL. What is aborted gets a quarter of a second. Default: 2 s.
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.kill_grace = grace;
        self
    }

    /// Tries again after an exit code other than 0, a signal or a time-out. Default: 0.
    pub fn retries(mut self, retries: u8) -> Self {
        self.retries = retries;
        self
    }

    /// The wait before the first retry; each further one doubles, up to a minute, with jitter on top. Default:
    /// 1 s.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// Whether records come in the order of the input. Commands run ahead of a slow one until what they printed
    /// takes 64 MiB. Default: in the order in which they end.
    pub fn keep_order(mut self, yes: bool) -> Self {
        self.keep_order = yes;
        self
    }

    /// Bytes of each output of a command that are kept in memory. Default: 64 KiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Where longer outputs go. Default: what is beyond the limit is dropped.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Bytes of each output of a command that are kept in all, with the file of a long one. What is beyond is read
    /// and dropped. Default: 1 GiB.
    pub fn max_output(mut self, bytes: u64) -> Self {
        self.max_output = bytes;
        self
    }

    /// Exit codes that are critical, see [`on_error`](Self::on_error). Default: none.
    pub fn critical_exits(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.critical_exits = codes.into_iter().collect();
        self
    }

    /// What commands may do; what the kernel does not enforce of it is logged. Default: what this process may do,
    /// with its environment.
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// The folder that commands run in. Default: that of this process.
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// How many commands there will be, for progress. Default: what the iterator says, else unknown.
    pub fn total(mut self, commands: Option<u64>) -> Self {
        self.total = commands;
        self
    }

    /// Cancellation, deadline and grace. A cancel starts no more; an abort kills what runs. Default: a context
    /// that nobody cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Who is told about progress. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Shows the commands of this run while it goes on.
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    pub(super) fn ctx(&self) -> &Context {
        &self.ctx
    }

    /// Whether the settings make sense.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (given, most) = (self.concurrency, self.max_concurrency);
        let why = if !(1..=most).contains(&given) {
            format!("commands at once must be from 1 to {most}, not {given}")
        } else if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            format!("the rate must be above 0 a second, not {rate}")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// Runs jobs, and hands each record to `sink` on this thread as the command ends. Breaking stops the run.
    /// `jobs` is read on a thread of its own, a few ahead, and may be endless; cancelling waits for a `next()`
    /// that blocks. When the run stops, whatever was read is handed over as
    /// [`Cancelled`](JobStatus::Cancelled) with the reason.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the settings make no sense, with what they accept. Nothing was run then.
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
        let exact = match jobs.size_hint() {
            (least, Some(most)) if least == most => Some(most as u64),
            _ => None,
        };
        let run = Run::new(self)?;
        let source = run.source(jobs.map(Ok));
        let ended = |_: &JobRecord| ControlFlow::Continue(());
        run.carry_out(self.total.or(exact), ended, sink, |pool, call, sink| {
            pool.run(source, call, sink)
        })
    }

    /// As [`run`](Self::run), for commands that are read from files or standard input. A read that blocks for
    /// ever is left behind when the run ends.
    ///
    /// # Errors
    /// As [`run`](Self::run). A line that is no command stops the run instead.
    pub fn run_commands(
        &self,
        commands: Commands,
        sink: impl FnMut(JobRecord) -> ControlFlow<()>,
    ) -> Result<CommandReport, Error> {
        self.run_source(commands.jobs(), |_| ControlFlow::Continue(()), sink)
    }

    /// As [`run_commands`](Self::run_commands), for a source whose items may be errors, which stop the run. `ended`
    /// sees each record at once as its command ends, before `sink` gets it, which with
    /// [`keep_order`](Self::keep_order) may be much later: what a log must have. Breaking stops the run.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_source(
        &self,
        jobs: impl Iterator<Item = Result<CommandJob, Error>> + Send + 'static,
        ended: impl FnMut(&JobRecord) -> ControlFlow<()>,
        sink: impl FnMut(JobRecord) -> ControlFlow<()>,
    ) -> Result<CommandReport, Error> {
        let run = Run::new(self)?;
        let source = run.source(jobs);
        run.carry_out(self.total, ended, sink, |pool, call, sink| {
            pool.run_detached(source, call, sink)
        })
    }
}

/// A command on its way through the pool.
struct Task {
    index: u64,
    job: Arc<CommandJob>,
    /// How its last try went.
    last: Mutex<LastTry>,
}

type LastTry = (Option<CommandResult>, Option<JobError>);
type Call<'c> = &'c (dyn Fn(&Task, u32, &Context) -> Result<(), Error> + Sync);
type TaskSink<'s> = &'s mut dyn FnMut(TaskEnd<Task, ()>) -> ControlFlow<()>;

/// One run of a runner.
struct Run<'a> {
    runner: &'a CommandRunner,
    launcher: Launcher,
    output: OutputSettings,
    stop: Arc<StopCall>,
    gate: Arc<Gate>,
}

impl<'a> Run<'a> {
    fn new(runner: &'a CommandRunner) -> Result<Self, Error> {
        runner.check()?;
        let stop = StopCall::new()
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("cannot make a pipe: {why}")))?;
        let sandbox = (runner.sandbox.as_ref())
            .map(Sandbox::prepare)
            .transpose()?;
        let missing = sandbox.as_ref().map_or(&[][..], Prepared::not_in_force);
        if !missing.is_empty() {
            log::warn!(
                "commands run without what this system cannot enforce: {}",
                missing.join("; ")
            );
        }
        let folder = match &runner.folder {
            Some(folder) => std::path::absolute(folder),
            None => std::env::current_dir(),
        };
        let folder = folder.map_err(|why| {
            Error::new(
                ErrorKind::Invalid,
                format!("cannot tell the working directory: {why}"),
            )
        })?;
        Ok(Self {
            runner,
            launcher: Launcher::new(folder, sandbox),
            output: OutputSettings::new(runner.output_limit, runner.max_output, &runner.overflow)?,
            stop: Arc::new(stop),
            gate: Arc::default(),
        })
    }

    fn source<J>(&self, jobs: J) -> impl Iterator<Item = Result<Task, Error>> + use<J>
    where
        J: Iterator<Item = Result<CommandJob, Error>>,
    {
        let (gate, ctx) = (self.gate.clone(), self.runner.ctx.clone());
        let monitor = self.runner.monitor.clone();
        jobs.zip(0..).map(move |(job, index)| {
            let mut job = job?;
            if job.seq == 0 {
                job.seq = index + 1;
            }
            let job = Arc::new(job);
            monitor.read(index, job.clone());
            gate.pass(&ctx);
            Ok(Task {
                index,
                job,
                last: Mutex::default(),
            })
        })
    }

    fn carry_out(
        &self,
        total: Option<u64>,
        mut ended: impl FnMut(&JobRecord) -> ControlFlow<()>,
        mut sink: impl FnMut(JobRecord) -> ControlFlow<()>,
        run: impl FnOnce(&Pool<'_>, Call<'_>, TaskSink<'_>) -> crate::pool::PoolEnd,
    ) -> Result<CommandReport, Error> {
        let runner = self.runner;
        let retry = RetryPolicy::default().max_retries(runner.retries);
        let pool = Pool::new(&runner.ctx)
            .concurrency(runner.concurrency)
            .rate(runner.rate)
            .retry(retry.base_delay(runner.retry_delay))
            .on_error(runner.on_error)
            .total(total)
            .notifier(runner.notifier.as_deref().map(|notifier| notifier as _));
        let kill = self.stop.clone();
        let _kill =
            (runner.on_stop == OnStop::Kill).then(|| runner.ctx.on_cancel(move || kill.stop()));
        let mut closed = false;
        let (mut completed, mut failed, mut cancelled) = (0, 0, 0);
        let mut hand_out = |record: JobRecord| {
            match record.status {
                JobStatus::Completed => completed += 1,
                JobStatus::Failed => failed += 1,
                _ => cancelled += 1,
            }
            if !closed && sink(record).is_break() {
                closed = true;
                self.gate.open();
            }
            closed
        };
        let mut order = runner.keep_order.then(|| Reorder::new(&self.gate));
        let mut take = |end: TaskEnd<Task, ()>| {
            let index = end.task.index;
            let record = self.record(end);
            runner.monitor.ended(index, &record);
            let mut over = ended(&record).is_break();
            if over {
                self.gate.open();
            }
            match &mut order {
                Some(order) => order.put(index, record, |record| over |= hand_out(record)),
                None => over |= hand_out(record),
            }
            match over {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let call = |task: &Task, attempt: u32, ctx: &Context| self.call(task, attempt, ctx);
        let end = run(&pool, &call, &mut take);
        self.output.leave();
        if let Some(order) = order {
            order.rest(|record| {
                let _ = hand_out(record);
            });
        }
        if let Some(StopReason::Misuse(why)) = end.stop {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(CommandReport {
            completed,
            failed,
            cancelled,
            retries: end.summary.retries,
            elapsed: end.summary.elapsed,
            stop: end.stop,
        })
    }

    fn call(&self, task: &Task, attempt: u32, ctx: &Context) -> Result<(), Error> {
        let monitor = &self.runner.monitor;
        monitor.started(task.index, attempt);
        let abort = self.stop.clone();
        let _abort = ctx.on_cancel(move || abort.abort());
        // What an earlier try printed would pass for this one's.
        if let (Some(mut earlier), _) = std::mem::take(&mut *task.last.lock()) {
            earlier.stdout.remove();
            earlier.stderr.remove();
        }
        let (result, error) = match self.try_once(task) {
            Ok(ended) => self.judge(ended),
            Err(error) => (None, Some(error)),
        };
        let outcome = error.as_ref().map_or(Ok(()), |error| {
            Err(self.engine_error(error, result.as_ref(), attempt))
        });
        *task.last.lock() = (result, error);
        monitor.tried(task.index);
        outcome
    }

    fn try_once(&self, task: &Task) -> Result<Ended, JobError> {
        let runner = self.runner;
        let command = self.launcher.command(&task.job)?;
        let deadlines = Deadlines {
            timeout: runner.timeout,
            grace: runner.kill_grace,
            abort_grace: ABORT_GRACE.min(runner.kill_grace),
        };
        super::process::run(command, task.job.seq, deadlines, &self.output, &self.stop)
            .map_err(|why| launch::not_started(&task.job, &why))
    }

    /// What a command's end means.
    fn judge(&self, ended: Ended) -> LastTry {
        let runner = self.runner;
        let result = ended.result;
        if let Some(Intervention::NotStarted(why)) = ended.intervention {
            return (None, Some(JobError::new(FailureKind::Sandbox, why)));
        }
        let error = if let Some(why) = ended.output_error {
            let kind = match why.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
                _ => FailureKind::NotStarted,
            };
            Some(JobError::new(
                kind,
                format!("its output cannot be kept: {why}"),
            ))
        } else if let Some(Intervention::Killed(why)) = ended.intervention {
            Some(JobError::new(FailureKind::Limit, format!("killed: {why}")))
        } else if ended.timed_out {
            let limit = runner.timeout.unwrap_or_default();
            Some(JobError::new(
                FailureKind::Timeout,
                format!("killed after {}", humantime::format_duration(limit)),
            ))
        } else if result.exit_code == Some(0) {
            None
        } else if ended.stopped {
            Some(JobError::new(
                FailureKind::Cancelled,
                "killed while it ran, since the run ended early",
            ))
        } else if let Some(signal) = result.signal {
            Some(JobError::new(
                FailureKind::Signal,
                format!("killed by signal {signal}"),
            ))
        } else {
            let code = result.exit_code.unwrap_or_default();
            Some(JobError::new(
                FailureKind::Exit,
                format!("exit code {code}"),
            ))
        };
        (Some(result), error)
    }

    /// The same as the engine has it, which decides what follows.
    fn engine_error(
        &self,
        error: &JobError,
        result: Option<&CommandResult>,
        attempt: u32,
    ) -> Error {
        let kind = match error.kind {
            FailureKind::Cancelled => ErrorKind::Cancelled,
            kind if kind.is_retried() => ErrorKind::Transient,
            _ => ErrorKind::Invalid,
        };
        let engine_error = Error::new(kind, error.message.clone());
        let tries_left = kind == ErrorKind::Transient && attempt <= u32::from(self.runner.retries);
        match self.is_critical(error, result) && !tries_left {
            true => engine_error.with_critical(),
            false => engine_error,
        }
    }

    fn is_critical(&self, error: &JobError, result: Option<&CommandResult>) -> bool {
        let code = result.and_then(|result| result.exit_code);
        error.kind.is_critical()
            || (error.kind == FailureKind::Exit
                && code.is_some_and(|code| self.runner.critical_exits.contains(&code)))
    }

    /// The record of a command that has ended, or never will. If it stops the run, what that means for
    /// others begins here.
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
        if status == JobStatus::Failed {
            let critical =
                (error.as_ref()).is_some_and(|error| self.is_critical(error, result.as_ref()));
            let stops = match self.runner.on_error {
                ErrorPolicy::ContinueOnError => false,
                ErrorPolicy::StopOnError => true,
                ErrorPolicy::StopOnCriticalError => critical,
            };
            if stops {
                self.gate.open();
                if self.runner.on_stop == OnStop::Kill {
                    self.stop.stop();
                }
            }
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

#[cfg(all(test, unix))]
#[path = "runner_tests.rs"]
mod tests;
