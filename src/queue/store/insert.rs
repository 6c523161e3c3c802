//! Adding jobs: claimable immediately, or held until their process is sealed. Inserts of several threads share a commit: one
//! thread performs the inserts that the others submitted while it waited for the write lock.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Sender, TryRecvError};

use const_format::formatcp;
use parking_lot::{Condvar, Mutex};

use super::lineage::{self, ROOT, Standing, lock_one};
use super::rows::{
    DELETING, HELD, MOST, MOST_JOBS, MOST_PROCESSES, PENDING, RELEASING, bounded, key, process_of,
};
use super::statements::{Fault, Queries as _, Sql, by, stored};
use super::{JobLane, Mode, Store};
use crate::base::trusted_time::{KnownTime, TrustedTime};
use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp, Usd};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, PRIORITIES};

/// A process to which jobs are added, by its number.
type Target = (i64, Standing);

impl Store {
    /// The same as `insert_part` without a description, for jobs that are inserted whenever this is called.
    pub fn insert(
        &self,
        process: ProcessId,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        self.insert_part(process, None, jobs, sealed, None, now)
    }

    /// Adds jobs to a process in one transaction; the first jobs create the process. With `sealed` they can be claimed
    /// at once, unless an unsealed part precedes them. Without it the process is unsealed from now on, and the added
    /// jobs cannot be claimed before [`seal`](Self::seal). A process that was cancelled or is being deleted accepts no
    /// jobs. An empty list changes nothing. The description replaces an earlier one; `None` keeps it.
    ///
    /// A `part` of a request is inserted once: jobs whose numbers are taken are skipped. Within a day of its first part, it
    /// is known also when its process is gone.
    pub(crate) fn insert_part(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        part: Option<Part>,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // Done before the transaction, because others wait for that.
        for job in &jobs {
            let name = job.item_id.as_deref();
            let name = name.map_or_else(String::new, |name| format!(" {name:?}"));
            self.check_size(format_args!("the job{name}"), job.payload.get())?;
        }
        let insert = Insert {
            process,
            part,
            info: info.cloned(),
            jobs,
            sealed,
            now,
        };
        let ids = self.insert_together(insert)?;
        if sealed {
            self.wake_workers();
        }
        Ok(ids)
    }
}

/// One of several inserts in a transaction. It is rejected before it has written anything, so the others are not
/// affected; a failure of the database fails all.
fn add(store: &Store, tx: &mut dyn Sql, insert: &Insert) -> Result<Inserted, Fault> {
    let (there, (no, target)) = match place(store, tx, insert) {
        Ok(Some(place)) => place,
        Ok(None) => return Ok(Ok(Vec::new())),
        Err(Fault::Refused(error)) => return Ok(Err(error)),
        Err(fault) => return Err(fault),
    };
    let jobs = &insert.jobs[there..];
    let all_sealed = insert.sealed && target.sealed == target.total;
    let status = if all_sealed && target.chore != RELEASING {
        PENDING
    } else {
        HELD
    };
    let ids = add_rows(store, tx, &(no, target), jobs, insert.now, status)?;
    let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
    let total = target.total + count;
    let sealed = if all_sealed { total } else { target.sealed };
    let info = insert.info.as_ref().map(written);
    tx.defer(
        "UPDATE #processes SET total = ?, pending = pending + ?, sealed = ?, info = IFNULL(?, info),
           changed_at = GREATEST(changed_at, ?) WHERE no = ?",
        by![total, count, sealed, info, insert.now.0, no],
    )?;
    Ok(Ok(ids))
}

/// How many of the jobs exist, and the process of the others, if any.
fn place(
    store: &Store,
    tx: &mut dyn Sql,
    insert: &Insert,
) -> Result<Option<(usize, Target)>, Fault> {
    let there = match &insert.part {
        Some(part) => there(tx, insert, part)?,
        None => 0,
    };
    if there >= insert.jobs.len() {
        return Ok(None);
    }
    let parent = insert.info.as_ref().and_then(|info| info.parent);
    let parent = parent.map(|parent| lineage::parent(store, tx, parent.job_id));
    Ok(Some((there, target(tx, insert, parent.transpose()?)?)))
}

fn add_rows(
    store: &Store,
    tx: &mut dyn Sql,
    (no, target): &Target,
    added: &[Job],
    now: Timestamp,
    status: i64,
) -> Result<Vec<JobId>, Fault> {
    let mut lanes = Vec::with_capacity(added.len());
    for same in added.chunk_by(|job, next| job.kind == next.kind && job.lane == next.lane) {
        let (kind, name, step) = (same[0].kind.clone(), same[0].lane.clone(), 0);
        let lane = store.lane_no(tx, &JobLane { kind, name, step })?;
        lanes.extend(same.iter().map(|_| lane));
    }
    let keys = (target.total..).map(|seq| key(*no, seq));
    let keyed = keys.clone().zip(added);
    let mut jobs = keyed.clone().zip(lanes).map(|((id, job), lane)| {
        let (least, most) = PRIORITIES.into_inner();
        let (priority, retries) = (job.priority.clamp(least, most), job.max_retries);
        by![id, lane, priority, status, now.0, now.0, retries]
    });
    let head = "INSERT INTO #jobs (id, lane, priority, status, visible_at, created_at, max_retries) VALUES";
    tx.insert_rows((head, ""), &mut jobs)?;
    let mut payloads = keyed.map(|(id, job)| {
        let body = job.payload.get().to_owned();
        by![id, job.item_id.clone(), job.request_hash.clone(), body]
    });
    let head = "INSERT INTO #payloads (job, item_id, request_hash, body) VALUES";
    tx.insert_rows((head, ""), &mut payloads)?;
    let ids = keys.take(added.len());
    Ok(ids.map(|id| store.job_id(id, now)).collect())
}

/// How many of the first jobs of a part its process has. Notes the request if it is new.
fn there(tx: &mut dyn Sql, insert: &Insert, part: &Part) -> Result<usize, Fault> {
    let (id, now) = (insert.process, insert.now);
    let find = "SELECT request FROM #requests WHERE process = ? FOR UPDATE";
    let known: Option<String> = tx.one(find, by![stored(id)])?;
    let find = formatcp!("SELECT total FROM #processes WHERE id = ? AND chore <> {DELETING}");
    let total: Option<u64> = tx.one(find, by![stored(id)])?;
    match (known, total) {
        (None, None) => {
            let time = trusted_time(tx, now)?;
            let before = time.earliest.0.saturating_sub(REQUEST_KNOWN_MILLIS);
            tx.run("DELETE FROM #requests WHERE sent_at < ?", by![before])?;
            let note = "INSERT IGNORE INTO #requests (process, request, sent_at) VALUES (?, ?, ?)";
            match tx.run(note, by![stored(id), part.request.clone(), time.latest.0])? {
                // Another transaction has done so in the meantime.
                0 => Err(Fault::Overtaken),
                _ => Ok(0),
            }
        }
        (Some(known), Some(total)) if known == part.request => {
            let there = total.saturating_sub(part.first);
            Ok(usize::try_from(there).unwrap_or(usize::MAX))
        }
        (Some(known), None) if known == part.request => {
            let why = format!("process {id} has ended: its results were fetched or deleted");
            Err(Error::new(ErrorKind::NotFound, why).into())
        }
        _ => {
            let why = format!("process {id} was created by another request");
            Err(Error::new(ErrorKind::Changed, why).into())
        }
    }
}

impl Store {
    /// What the time is while the clock says this.
    pub(crate) fn trusted_time(&self, clock: Timestamp) -> Result<TrustedTime, Error> {
        let (time, new) = self.read(|tx| look(tx, clock))?;
        // Not to note it, on a full disk for example, delays what ends by age, and nothing else.
        if new.is_some()
            && let Err(error) = self.write(|tx| trusted_time(tx, clock))
        {
            log::debug!("the time is noted later: {error}");
        }
        Ok(time)
    }
}

impl Store {
    /// Has the next request of a process be a new one, also if the process is gone.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn forget_request(&self, process: ProcessId) -> Result<(), Error> {
        let forget = "DELETE FROM #requests WHERE process = ?";
        self.write(|tx| tx.run(forget, by![stored(process)]))
            .map(drop)
    }
}

fn look(tx: &mut dyn Sql, clock: Timestamp) -> Result<(TrustedTime, Option<KnownTime>), Fault> {
    let find = "SELECT value FROM #meta WHERE name = 'time'";
    let known: Option<String> = tx.one(find, by![])?;
    let known = known.as_deref().and_then(KnownTime::parse);
    Ok(KnownTime::look(known, clock))
}

fn trusted_time(tx: &mut dyn Sql, clock: Timestamp) -> Result<TrustedTime, Fault> {
    let (time, new) = look(tx, clock)?;
    if let Some(new) = new {
        let change = "UPDATE #meta SET value = ? WHERE name = 'time'";
        if tx.run(change, by![new.text()])? == 0 {
            let add = "INSERT IGNORE INTO #meta (name, value) VALUES ('time', ?)";
            tx.run(add, by![new.text()])?;
        }
    }
    Ok(time)
}

/// How long a request is known.
const REQUEST_KNOWN_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// The description contains only texts, so serializing it cannot fail.
pub(super) fn written(info: &ProcessInfo) -> String {
    serde_json::to_string(info).unwrap_or_default()
}

/// The process, which is created if it does not exist.
fn target(tx: &mut dyn Sql, insert: &Insert, parent: Option<i64>) -> Result<Target, Fault> {
    let id = insert.process;
    let refuse = |why| {
        let why = format!("process {id} {why}");
        Err(Error::new(ErrorKind::Invalid, why).into())
    };
    let found = lock_one(tx, id)?;
    let count = i64::try_from(insert.jobs.len()).unwrap_or(i64::MAX);
    match found {
        None if count <= MOST_JOBS => Ok((make(tx, insert, parent)?, Standing::default())),
        Some((_, target)) if target.chore == DELETING => refuse("is being deleted"),
        Some((_, target)) if target.is_cancelled => {
            refuse("was cancelled and accepts no more jobs; create another process")
        }
        Some(found) if count <= MOST_JOBS - found.1.total => Ok(found),
        _ => refuse("would have more than 4,294,967,296 jobs; create another process"),
    }
}

/// Creates the process. Returns its number.
fn make(tx: &mut dyn Sql, insert: &Insert, parent: Option<i64>) -> Result<i64, Fault> {
    // Its cost counts in the budget of its oldest ancestor, so that a child has no budget of its own.
    let root: Option<i64> = match parent {
        Some(parent) => tx.one(ROOT, by![process_of(parent)])?,
        None => None,
    };
    let budget = insert.info.as_ref().and_then(|info| info.budget.as_ref());
    let budget = budget.filter(|_| parent.is_none());
    let picos = |amount: Usd| bounded(amount.picos()).min(MOST);
    let limit = budget.map(|budget| picos(budget.limit));
    let used = budget.map_or(0, |budget| picos(budget.used));
    let (id, at) = (stored(insert.process), insert.now.0);
    let made = tx.run(
        "INSERT IGNORE INTO #processes (id, parent, root, created_at, changed_at, budget_limit, budget_used)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        by![id, parent, root, at, at, limit, used],
    )?;
    match tx.last_id() {
        // Another transaction has created it in the meantime.
        _ if made == 0 => Err(Fault::Overtaken),
        no if no < MOST_PROCESSES => Ok(no),
        _ => Err(Fault::Odd("it has had more than a billion processes")),
    }
}

// Several inserts in one transaction.

/// Which part of a request the jobs of an insert are.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The hash of the request.
    pub request: String,
    /// The number of the first job.
    pub first: u64,
}

struct Insert {
    process: ProcessId,
    /// Jobs that are added once, however often they are inserted.
    part: Option<Part>,
    info: Option<ProcessInfo>,
    jobs: Vec<Job>,
    sealed: bool,
    now: Timestamp,
}

type Inserted = Result<Vec<JobId>, Error>;

#[derive(Default)]
struct Queue {
    /// Where their threads get the results.
    waiting: VecDeque<(Insert, Sender<Inserted>)>,
    /// A thread performs inserts.
    is_busy: bool,
}

/// Maximum number of jobs in one transaction, unless a single insert has more.
const MOST_TOGETHER: usize = 1_000;

#[derive(Default)]
pub(super) struct GroupCommit {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// A thread performs inserts until this is dropped.
struct Turn<'a>(&'a GroupCommit);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().is_busy = false;
        self.0.changed.notify_all();
    }
}

impl GroupCommit {
    /// Takes the inserts that wait.
    fn take(&self) -> (Vec<Insert>, Vec<Sender<Inserted>>) {
        let mut queue = self.queue.lock();
        let mut jobs = 0;
        let fits = |(insert, _): &(Insert, _)| {
            let is_first = jobs == 0;
            jobs += insert.jobs.len();
            is_first || jobs <= MOST_TOGETHER
        };
        let fitting = queue.waiting.iter().map(fits).take_while(|fits| *fits);
        let count = fitting.count();
        queue.waiting.drain(..count).unzip()
    }
}

impl Store {
    /// Performs an insert, in one transaction with those of other threads.
    fn insert_together(&self, insert: Insert) -> Inserted {
        let commit = &self.inserts;
        let (sender, result) = mpsc::channel();
        let mut queue = commit.queue.lock();
        queue.waiting.push_back((insert, sender));
        loop {
            match result.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Empty) if queue.is_busy => commit.changed.wait(&mut queue),
                Err(TryRecvError::Empty) => {
                    queue.is_busy = true;
                    drop(queue);
                    let turn = Turn(commit);
                    self.insert_group(commit);
                    drop(turn);
                    queue = commit.queue.lock();
                }
                Err(TryRecvError::Disconnected) => {
                    let why = "the insert was abandoned by a panic";
                    return Err(Error::new(ErrorKind::Panic, why));
                }
            }
        }
    }

    fn insert_group(&self, commit: &GroupCommit) {
        let mut taken = None;
        let done = self.write_as(Mode::WriteOnce, |tx| {
            // Other threads can add inserts until the database is locked.
            let (inserts, _) = taken.get_or_insert_with(|| commit.take());
            let added = inserts.iter().map(|insert| add(self, tx, insert));
            added.collect::<Result<Vec<_>, Fault>>()
        });
        let (_, senders) = taken.unwrap_or_else(|| commit.take());
        let mut results = done.map(Vec::into_iter);
        for sender in senders {
            let result = match &mut results {
                Ok(results) => results.next(),
                Err(error) => Some(Err(error.clone())),
            };
            // Without a result, it is as after a panic.
            let _ = result.map(|result| sender.send(result));
        }
    }
}
