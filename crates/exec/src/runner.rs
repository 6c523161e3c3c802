//! Runs commands on the pool: so many at once, at a rate, with retries, until they are done or the run stops.

mod run;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;

use batchwright::{Context, Error, ErrorKind, ErrorPolicy, ProgressNotifier, StopReason};

use super::job::CommandJob;
use super::monitor::Monitor;
use super::output::Overflow;
use super::record::JobRecord;
use super::sandbox::Sandbox;
use super::script::Commands;
use run::Run;

/// More at once are refused unless [`CommandRunner::max_concurrency`] says otherwise.
const MOST_AT_ONCE: usize = 10;

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
/// use batchwright_exec::{CommandJob, CommandRunner, JobStatus};
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
// More than 15 fields: each is a setting with a setter of its own.
#[derive(Clone, Setters)]
pub struct CommandRunner {
    /// Commands at once, up to [`max_concurrency`](Self::max_concurrency). Default: 5.
    concurrency: usize,
    /// The most that may be asked for. Default: 10.
    max_concurrency: usize,
    /// Starts a second, evenly spaced, tries again included. Fractions are allowed. Default: as fast as slots
    /// come free.
    rate: Option<f64>,
    /// What a failed command means for the others. Critical are: a program that is not found, not allowed or
    /// cannot be started or confined, death by a signal, more use of something than its
    /// [`sandbox`](Self::sandbox) lets it, a full disk, and [`critical_exits`](Self::critical_exits); what is
    /// tried again counts by its last try. Default: [`ErrorPolicy::ContinueOnError`].
    on_error: ErrorPolicy,
    /// What becomes of running commands when the run stops. Default: [`OnStop::Finish`].
    on_stop: OnStop,
    /// The longest that a try may take; then its group is sent SIGTERM, and SIGKILL after
    /// [`kill_grace`](Self::kill_grace). Default: no limit.
    timeout: Option<Duration>,
    /// The time between SIGTERM and SIGKILL. What is aborted gets a quarter of a second. Default: 2 s.
    kill_grace: Duration,
    /// Tries again after an exit code other than 0, a signal or a time-out. Default: 0.
    retries: u8,
    /// The wait before the first retry; each further one doubles, up to a minute, with jitter on top. Default:
    /// 1 s.
    retry_delay: Duration,
    /// Whether records come in the order of the input. Commands run ahead of a slow one until what they printed
    /// takes 64 MiB. Default: in the order in which they end.
    keep_order: bool,
    /// Bytes of each output of a command that are kept in memory. Default: 64 KiB.
    output_limit: usize,
    /// Where longer outputs go. Default: what is beyond the limit is dropped.
    overflow: Overflow,
    /// Bytes of each output of a command that are kept in all, with the file of a long one. What is beyond is read
    /// and dropped. Default: 1 GiB.
    max_output: u64,
    #[setters(skip)]
    critical_exits: BTreeSet<i32>,
    /// The folder that commands run in. Default: that of this process.
    #[setters(rename = "current_dir", into, strip_option)]
    folder: Option<PathBuf>,
    /// What commands may do; what the kernel does not enforce of it is logged. Default: what this process may do,
    /// with its environment.
    ///
    /// If this process is killed, its commands are killed. Without a sandbox, a shell that watches the run kills their
    /// process groups, also those of commands that are being started; if the shell is killed first, commands run on. On
    /// Linux, a sandbox ends all of their processes, even with [`SandboxMode::Off`](crate::SandboxMode::Off).
    #[setters(strip_option)]
    sandbox: Option<Sandbox>,
    /// How many commands there will be, for progress. Default: what the iterator says, else unknown.
    total: Option<u64>,
    #[setters(skip)]
    ctx: Context,
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

    /// Exit codes that are critical, see [`on_error`](Self::on_error). Default: none.
    pub fn critical_exits(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.critical_exits = codes.into_iter().collect();
        self
    }

    /// Cancellation, deadline and grace. A cancel starts no more; an abort kills what runs. Default: a context
    /// that nobody cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
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
    /// [`Cancelled`](crate::JobStatus::Cancelled) with the reason.
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

#[cfg(all(test, unix))]
#[path = "runner_tests.rs"]
mod tests;
