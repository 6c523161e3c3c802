//! Runs commands on the pool, with a limited concurrency and rate and with retries, until all are done or the run
//! stops.

mod run;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;

use batchwright::{Context, Error, ErrorPolicy, ProgressNotifier, StopReason};

use super::job::CommandJob;
use super::monitor::Monitor;
use super::record::JobRecord;
use super::sandbox::Sandbox;
use crate::invalid;
use run::Run;

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
    /// Maximum number of bytes of each output of a command in memory. A longer one is in a temporary file without a name,
    /// which is deleted with its [`Output`](crate::Output). Default: 64 KiB.
    output_limit: usize,
    /// Maximum number of bytes of each output of a command that are kept, including the file of a long one. The rest is
    /// read and dropped. Default: 1 GiB.
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
    #[setters(strip_option)]
    sandbox: Option<Sandbox>,
    /// Number of commands, for progress. Default: the number that the iterator reports, if any.
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
            output_limit: 64 * 1024,
            max_output: 1 << 30,
            folder: None,
            sandbox: None,
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

    pub(super) fn ctx(&self) -> &Context {
        &self.ctx
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
        let exact = match jobs.size_hint() {
            (least, Some(most)) if least == most => Some(most as u64),
            _ => None,
        };
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

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
