//! Runs commands on separate threads; their records arrive through a channel.

use std::ops::ControlFlow;
use std::thread::{Builder, JoinHandle};

use batchwright::{Context, Error, ErrorKind};
use crossbeam_channel::{Receiver, bounded, never};

use super::record::{CommandJob, JobRecord};
use super::runner::{CommandReport, CommandRunner};
use crate::invalid;

/// The thread that runs them.
const THREAD: &str = "batchwright-commands";

/// The receiver of [`CommandRunner::submit_jobs`]: an iterator that yields each record when its command ends, and
/// ends after the last one. Dropping it kills the running commands and waits for their end.
pub struct SubmittedJobs {
    records: Receiver<JobRecord>,
    ctx: Context,
    thread: Option<JoinHandle<Result<CommandReport, Error>>>,
}

impl CommandRunner {
    /// Runs jobs on separate threads. The receiver yields each record when its command ends, and closes after the last
    /// one. If a run stops early, it yields all other commands as [`Cancelled`](super::JobStatus::Cancelled) with the
    /// reason: those that waited for a slot or the rate limit, and those that were not read, unless `jobs` may be
    /// endless. While no records are taken, no more commands are started than run at once.
    ///
    /// ```
    /// use batchwright_exec::{CommandJob, CommandRunner};
    /// let jobs = vec![CommandJob::new("true"), CommandJob::new("false")];
    /// let ended = CommandRunner::new().submit_jobs(jobs)?;
    /// let mut failed: Vec<bool> = ended.map(|record| record.error.is_some()).collect();
    /// failed.sort();
    /// assert_eq!(failed, [false, true]);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the settings are invalid, or the system cannot start a thread.
    pub fn submit_jobs<I>(&self, jobs: I) -> Result<SubmittedJobs, Error>
    where
        I: IntoIterator<Item = CommandJob>,
        I::IntoIter: Send + 'static,
    {
        self.check()?;
        let ctx = self.ctx.child();
        let runner = self.clone().context(&ctx);
        let jobs = jobs.into_iter();
        let total = jobs.size_hint().1;
        let (send, records) = bounded(1);
        let run = move || {
            let mut jobs = jobs.zip(1..).map(|(mut job, seq)| {
                job.seq = seq;
                job
            });
            let runner = runner.total(total.map(|total| total as u64));
            let report = runner.run(jobs.by_ref(), |record| match send.send(record) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })?;
            if let (Some(stop), Some(_)) = (&report.stop, total) {
                let mut rest = jobs.map(|job| JobRecord::not_run(job, stop));
                let _ = rest.try_for_each(|record| send.send(record).ok());
            }
            Ok(report)
        };
        let thread = Builder::new().name(THREAD.to_owned()).spawn(run);
        let refused = |why| invalid(format!("cannot start a thread: {why}"));
        Ok(SubmittedJobs {
            thread: Some(thread.map_err(refused)?),
            records,
            ctx,
        })
    }
}

impl SubmittedJobs {
    /// Takes the remaining records and returns the numbers of the run.
    ///
    /// # Errors
    /// As [`CommandRunner::run`].
    pub fn finish(mut self) -> Result<CommandReport, Error> {
        self.by_ref().for_each(drop);
        self.join()
    }

    fn join(&mut self) -> Result<CommandReport, Error> {
        let ended = self.thread.take().map(JoinHandle::join);
        let why = "the thread that ran the commands panicked";
        let gone = || Error::new(ErrorKind::Panic, why);
        ended.ok_or_else(gone)?.map_err(|_| gone())?
    }
}

impl Iterator for SubmittedJobs {
    type Item = JobRecord;

    fn next(&mut self) -> Option<JobRecord> {
        self.records.recv().ok()
    }
}

impl Drop for SubmittedJobs {
    fn drop(&mut self) {
        self.ctx.cancel();
        self.ctx.abort();
        // Nobody takes the records of jobs that will not run: there may be many of them, or no end.
        self.records = never();
        let _ = self.join();
    }
}
