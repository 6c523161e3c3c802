//! The thread that advances batches: it checks and enqueues inputs, and moves results from the queue into files. Each
//! step can be repeated: after a crash the next server continues, and no line is lost or duplicated in a file.

use std::collections::HashMap;
use std::io;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::queue::{ConsumeError, EnqueueError, JobCounts, ProcessInfo, ProcessState};
use batchwright::{Error, ErrorKind, JobQueue};
use log::{info, warn};

use super::direct;
use super::lines::{Lines, check};
use super::results::ResultFiles;
use crate::app::App;
use crate::background::Background;
use crate::problem::Problem;
use crate::records::{BatchFault, BatchRecord, BatchState, FileRecord, Stored as _, now};

/// Interval of checks of open batches.
const LOOK: Duration = Duration::from_millis(250);
/// Interval of checks for abandoned requests and expired files.
const TIDY: Duration = Duration::from_secs(5);
/// Time until a failed step is retried.
const AGAIN: Duration = Duration::from_secs(15);

/// Starts the thread that advances batches.
///
/// # Errors
/// When the system cannot start a thread.
pub(crate) fn start(app: Arc<App>) -> io::Result<Background> {
    let wake = Arc::clone(&app.batches);
    Background::start("batch-progress", &wake, move || {
        Rounds {
            app: &app,
            failed: HashMap::new(),
            time: 0,
            is_doubted: false,
        }
        .run();
    })
}

struct Rounds<'a> {
    app: &'a App,
    /// Batches whose last step failed, and when it is retried.
    failed: HashMap<String, Instant>,
    /// What the time is at least: nothing ends because a clock is ahead.
    time: u64,
    is_doubted: bool,
}

impl Rounds<'_> {
    fn run(&mut self) {
        let mut tidy_at = Instant::now();
        while !self.app.batches.is_stopped() {
            self.look_at_clock();
            let mut open = self.batches();
            if Instant::now() >= tidy_at {
                let left = self.tidy();
                open |= left;
                tidy_at = Instant::now() + if left { LOOK } else { TIDY };
            }
            if self.app.batches.wait(if open { LOOK } else { TIDY }) {
                // Somebody may have made room, or left.
                self.failed.clear();
                tidy_at = Instant::now();
            }
        }
    }

    fn look_at_clock(&mut self) {
        let (earliest, latest) = self.app.time();
        let is_doubted = earliest > 0 && earliest != latest;
        if is_doubted && !self.is_doubted {
            warn!(
                "the clock has jumped by {} hours: nothing expires by it until it has gone on for a day",
                (latest - earliest) / 3600
            );
        }
        (self.time, self.is_doubted) = (earliest, is_doubted);
    }

    /// Advances all batches. Returns true if the next check should follow soon.
    fn batches(&mut self) -> bool {
        let open = BatchRecord::open(&self.app.records.single());
        let open = open.unwrap_or_else(|error| {
            warn!("batches cannot be read: {error}");
            Vec::new()
        });
        for batch in &open {
            let now = Instant::now();
            if self.failed.get(&batch.id).is_some_and(|until| *until > now) {
                continue;
            }
            match self.bring_on(batch) {
                Ok(()) => {
                    self.failed.remove(&batch.id);
                }
                Err(_) if self.app.batches.is_stopped() => return false,
                Err(problem) => {
                    warn!("{} is delayed: {}", batch.id, problem.for_log());
                    self.failed.insert(batch.id.clone(), now + AGAIN);
                    let fault = BatchFault::new("delayed", problem.to_string(), None);
                    let told = self.change(&batch.id, |batch| batch.faults = vec![fault.clone()]);
                    if let Err(error) = told {
                        warn!("{}: {error}", batch.id);
                    }
                }
            }
        }
        !open.is_empty()
    }

    /// Changes a batch as it stands now: its maker may have cancelled it meanwhile.
    fn change(&self, id: &str, change: impl Fn(&mut BatchRecord)) -> Result<BatchRecord, Error> {
        self.app.records.step(&self.app.queue)?;
        self.app.records.transaction(|database| {
            BatchRecord::change(database, id, |batch| {
                change(batch);
                Ok(())
            })
        })
    }

    fn bring_on(&self, batch: &BatchRecord) -> Result<(), Problem> {
        let process = self.app.queue.process(batch.process)?;
        match (batch.state, process) {
            // Somebody has put some of it back: that is paid for, and comes with the rest.
            (BatchState::Finalizing, Some(process)) if !process.is_finished() => Ok(()),
            (BatchState::Finalizing, process) => self.finish(batch, process),
            // All that was in the queue is in files already, or somebody has deleted it.
            (_, None) if batch.has_been(BatchState::InProgress) => self.finish(batch, None),
            // Somebody has cancelled it in the queue, perhaps before all of it was there.
            (BatchState::Validating, Some(process)) if process.cancelled => {
                self.change(&batch.id, |batch| {
                    batch.enter(BatchState::Cancelling);
                    batch.total = process.counts.total;
                })?;
                Ok(())
            }
            (BatchState::Validating, Some(process)) if process.sealed => {
                // The server died between the last request and its note of that.
                self.begun(batch, process.counts.total, None)
            }
            (BatchState::Validating, process) => {
                if process.is_some() {
                    self.withdraw(batch)?;
                }
                self.begin(batch)
            }
            // It was cancelled in the queue, and not because it expired.
            (BatchState::InProgress, Some(process))
                if process.cancelled && !batch.has_been(BatchState::Expired) =>
            {
                self.change(&batch.id, |batch| {
                    if batch.state == BatchState::InProgress {
                        batch.enter(BatchState::Cancelling);
                    }
                })?;
                Ok(())
            }
            (_, Some(process)) if process.is_finished() => self.finish(batch, Some(process)),
            (BatchState::Cancelling, Some(process)) if process.sealed => self.cancel(&process),
            (BatchState::Cancelling, process) => {
                if process.is_some() {
                    let queue = self.queue(batch, ProcessInfo::new());
                    queue.delete(batch.process)?;
                }
                self.change(&batch.id, |batch| batch.enter(BatchState::Cancelled))?;
                Ok(())
            }
            (_, Some(process)) if self.time >= batch.expires_at && !process.cancelled => {
                info!("{} has expired: what waits of it is cancelled", batch.id);
                self.change(&batch.id, |batch| {
                    batch.times.insert(BatchState::Expired, now());
                })?;
                self.cancel(&process)
            }
            _ => Ok(()),
        }
    }

    /// The queue for the process of a batch: only the batch adds jobs to it, collects its results and deletes it.
    fn queue(&self, batch: &BatchRecord, info: ProcessInfo) -> JobQueue {
        self.app.queue.described(info.collector(&batch.id))
    }

    /// Deletes what was enqueued of a batch, so that it can begin anew.
    fn withdraw(&self, batch: &BatchRecord) -> Result<(), Problem> {
        let queue = self.queue(batch, ProcessInfo::new());
        queue.forget_request(batch.process)?;
        queue.delete(batch.process)?;
        Ok(())
    }

    fn cancel(&self, process: &ProcessState) -> Result<(), Problem> {
        if !process.cancelled {
            self.app.records.step(&self.app.queue)?;
            self.app.queue.cancel(process.process_id)?;
        }
        Ok(())
    }

    /// Checks the input of a batch and enqueues its requests, except those with a reply: `server.db` may be a backup.
    fn begin(&self, batch: &BatchRecord) -> Result<(), Problem> {
        let (app, stopped) = (self.app, || self.app.batches.is_stopped());
        if self.time >= batch.expires_at {
            self.change(&batch.id, |batch| batch.enter(BatchState::Expired))?;
            return Ok(());
        }
        let input = FileRecord::get(&app.records.single(), &batch.input_file)?;
        let Some(input) = input else {
            let why = format!("The file {} no longer exists.", batch.input_file);
            return self.fail(batch, vec![BatchFault::new("file_not_found", why, None)]);
        };
        let (file, _) = app.storage.read(&input)?;
        let checked = check(file, &batch.endpoint, &stopped)?;
        if !checked.faults.is_empty() {
            return self.fail(batch, checked.faults);
        }
        let (file, _) = app.storage.read(&input)?;
        let lines = Lines::new(file, &batch.endpoint);
        let before = ResultFiles::existing(&app.storage, batch)?;
        let has_reply = |id: &str| before.as_ref().is_some_and(|files| files.has(id));
        let jobs = lines.filter_map(|line| match line {
            _ if stopped() => Some(Err(Problem::new(503, "stopping", "the server stops"))),
            Ok(Ok(asked)) => (!has_reply(&asked.id)).then_some(Ok(asked.job)),
            Ok(Err(fault)) => Some(Err(Problem::conflict(fault.message))),
            Err(error) => Some(Err(error.into())),
        });
        app.records.step(&app.queue)?;
        // Asked for once all lines are there, and before any of them can be started.
        let cancelled = || match self.state(batch) {
            Ok(Some(BatchState::Cancelling)) => Some(Problem::conflict("the batch was cancelled")),
            state => state.err().map(Problem::from),
        };
        let end = iter::once_with(|| cancelled().map(Err));
        let jobs = jobs.chain(end.flatten());
        let info = ProcessInfo::new()
            .name(format!("{} ({})", batch.id, input.filename))
            .input(input.filename);
        let queue = self.queue(batch, info);
        match queue.try_enqueue_once(batch.process, &batch.id, jobs) {
            Ok(_) => {}
            Err(EnqueueError::Queue(error)) if error.kind() == ErrorKind::NotFound => {
                warn!(
                    "{} was in the queue before, and is not sent again: {}",
                    batch.id,
                    error.message()
                );
            }
            Err(error) => {
                let known = app.queue.process(batch.process)?;
                if known.is_some_and(|process| process.cancelled) {
                    // The next round ends it.
                    return Ok(());
                }
                self.withdraw(batch)?;
                if self.state(batch)? == Some(BatchState::Cancelling) {
                    return Ok(());
                }
                return Err(match error {
                    EnqueueError::Source(problem) => problem,
                    // A line that the database cannot store, now or later.
                    EnqueueError::Queue(error) if error.status() == Some(413) => {
                        return self.fail(
                            batch,
                            vec![BatchFault::new("too_large", error.message(), None)],
                        );
                    }
                    EnqueueError::Queue(error) => error.into(),
                });
            }
        }
        self.begun(batch, checked.requests, checked.model)
    }

    /// Where a batch stands now.
    fn state(&self, batch: &BatchRecord) -> Result<Option<BatchState>, Error> {
        let known = BatchRecord::get(&self.app.records.single(), &batch.id)?;
        Ok(known.map(|batch| batch.state))
    }

    fn begun(&self, batch: &BatchRecord, total: u64, model: Option<String>) -> Result<(), Problem> {
        let batch = self.change(&batch.id, |batch| {
            batch.times.insert(BatchState::InProgress, now());
            batch.total = total;
            batch.model = model.clone().or(batch.model.take());
            batch.faults = Vec::new();
            if batch.state == BatchState::Validating {
                batch.state = BatchState::InProgress;
            }
        })?;
        info!("{} is in progress with {total} requests", batch.id);
        if batch.state == BatchState::Cancelling {
            self.app.queue.cancel(batch.process)?;
        }
        Ok(())
    }

    fn fail(&self, batch: &BatchRecord, faults: Vec<BatchFault>) -> Result<(), Problem> {
        self.change(&batch.id, |batch| {
            batch.enter(BatchState::Failed);
            batch.faults.clone_from(&faults);
        })?;
        Ok(())
    }

    /// The files of the results. Both are made before the batch is finalizing: one that is missing then is made again only if
    /// the queue has what was in it.
    fn result_files(
        &self,
        batch: &BatchRecord,
        process: Option<&ProcessState>,
    ) -> Result<ResultFiles<'_>, Problem> {
        let storage = &self.app.storage;
        let names = [&batch.output_file, &batch.error_file];
        let missing = names.into_iter().find(|id| !storage.has(id));
        let missing = missing.filter(|_| batch.state == BatchState::Finalizing);
        let files = ResultFiles::resume(storage, batch)?;
        let Some(id) = missing else {
            return Ok(files);
        };
        let left = process.map_or(0, |process| process.counts.total - process.counts.consumed);
        if files.lines + left < batch.total {
            files.end()?;
            let why = format!(
                "{id} is missing, a file of its results, and the queue does not have them any more: put it back into the \
                 folder files of the server, or make an empty one to go on without them"
            );
            return Err(Problem::new(500, "file_missing", why));
        }
        warn!(
            "{}: {id} was missing, and is made again from the queue",
            batch.id
        );
        Ok(files)
    }

    /// Moves the results into files, and ends the batch.
    fn finish(&self, batch: &BatchRecord, process: Option<ProcessState>) -> Result<(), Problem> {
        let app = self.app;
        let mut files = self.result_files(batch, process.as_ref())?;
        let batch = self.change(&batch.id, |batch| {
            if batch.state != BatchState::Finalizing {
                batch.enter(BatchState::Finalizing);
            }
            if let Some(JobCounts {
                completed, failed, ..
            }) = process.as_ref().map(|process| &process.counts)
            {
                batch.ended = Some((*completed, *failed));
            }
        })?;
        let queue = self.queue(&batch, ProcessInfo::new());
        let moved = queue.consume(batch.process, |results| {
            if app.batches.is_stopped() {
                Err(Problem::new(503, "stopping", "the server stops"))
            } else {
                files.write(results)
            }
        });
        moved.map_err(|error| match error {
            ConsumeError::Save(problem) => problem,
            ConsumeError::Queue(error) => error.into(),
        })?;
        if app.queue.process(batch.process)?.is_some() {
            // Somebody has put some of it back meanwhile.
            return Ok(());
        }
        let (_, created_at) = app.time();
        let kept = batch.output_kept.unwrap_or(super::files::KEPT_SECONDS);
        let batch = app.records.transaction(|database| -> Result<_, Error> {
            // Whatever was asked since then comes too late.
            let batch = BatchRecord::change(database, &batch.id, |batch| {
                ended(batch, &files);
                Ok::<(), Error>(())
            })?;
            for (id, bytes, what) in [
                (&batch.output_file, files.output.bytes, "output"),
                (&batch.error_file, files.errors.bytes, "error"),
            ] {
                if bytes > 0 {
                    let file = FileRecord {
                        id: id.clone(),
                        purpose: "batch_output".to_owned(),
                        filename: format!("{}_{what}.jsonl", batch.id),
                        bytes,
                        created_at,
                        expires_at: Some(created_at + kept),
                        request: None,
                    };
                    file.store(database)?;
                }
            }
            Ok(batch)
        })?;
        files.end()?;
        info!("{} is {}", batch.id, batch.state.as_str());
        Ok(())
    }

    /// Removes what nobody waits for any more, and files that need not be kept. True when something of that still
    /// runs.
    fn tidy(&self) -> bool {
        let tidied = || -> Result<bool, Problem> {
            let app = self.app;
            let left = direct::settle_abandoned(&app.queue, &app.records, &app.waiting)?;
            let expired = FileRecord::expired(&app.records.single(), self.time)?;
            for file in &expired {
                if app.reads(&file.id)? {
                    continue;
                }
                // What is listed can be deleted again, what is not would lie there for good.
                if let Err(error) = app.storage.remove(&file.id) {
                    warn!("{} could not be deleted yet: {error}", file.id);
                    continue;
                }
                FileRecord::delete(&app.records.single(), &file.id)?;
                let (id, name) = (&file.id, &file.filename);
                info!("{id} ({name:?}) has expired and is deleted");
            }
            Ok(left)
        };
        tidied().unwrap_or_else(|problem| {
            let why = problem.for_log();
            warn!("obsolete data could not be deleted yet: {why}");
            false
        })
    }
}

/// What a batch is once all its results are in files.
fn ended(batch: &mut BatchRecord, files: &ResultFiles<'_>) {
    batch.total = batch.total.max(files.lines);
    batch.has_output = files.output.bytes > 0;
    batch.has_errors = files.errors.bytes > 0;
    batch.totals = Some(files.totals);
    batch.faults = Vec::new();
    if files.lines < batch.total {
        let why = format!(
            "{} of {} results are neither in the queue nor in its files: another program fetched or deleted them, or a file \
             was removed.",
            batch.total - files.lines,
            batch.total
        );
        batch.faults = vec![BatchFault::new("results_missing", why, None)];
        batch.enter(BatchState::Failed);
    } else if batch.has_been(BatchState::Cancelling) {
        batch.enter(BatchState::Cancelled);
    } else if batch.has_been(BatchState::Expired) {
        batch.state = BatchState::Expired;
    } else {
        batch.enter(BatchState::Completed);
    }
}
