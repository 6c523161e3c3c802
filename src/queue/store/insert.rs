//! Adding jobs: claimable immediately, or held until their process is sealed. Inserts of several threads share a commit: one
//! thread performs the inserts that the others submitted while it waited for the write lock.

use std::collections::{HashMap, VecDeque};
use std::mem;

use parking_lot::{Condvar, Mutex};

use super::counters::CounterChanges;
use super::rows::{
    DELETING, HELD, MOST_JOBS, MOST_PROCESSES, PENDING, RELEASING, bounded, key, process_of,
};
use super::{JobLane, Store};
use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp, Usd};
use crate::queue::info::{ProcessBudget, ProcessInfo};
use crate::queue::job::{Job, PRIORITIES};

use super::lineage::{self, Standing, lock_one};
use super::rows::MOST;
use super::settle::too_large;
use super::statements::{Fault, Queries as _, Statements, by, stored};

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
        let most = self.most_value();
        if let Some(job) = jobs.iter().find(|job| job.payload.get().len() > most) {
            let name = job.item_id.as_deref().map(|id| format!("the job {id:?}"));
            let name = name.as_deref().unwrap_or("a job");
            return Err(too_large(name, job.payload.get().len(), most));
        }
        for same in jobs.chunk_by(has_lane_of) {
            self.make_lane(&first_lane(&same[0]))?;
        }
        let insert = Insert {
            process,
            part,
            info: info.map(written),
            parent: info
                .and_then(|info| info.parent)
                .map(|parent| parent.job_id),
            budget: info.and_then(|info| info.budget.clone()),
            jobs,
            sealed,
            now,
        };
        let ids = self.write_insert(insert, |tx, insert| add(self, tx, insert))?;
        if sealed {
            self.wake_workers();
        }
        Ok(ids)
    }
}

/// One of several inserts in a transaction. It is rejected before it has written anything, so the others are not
/// affected; a failure of the database fails all.
fn add(store: &Store, tx: &mut dyn Statements, insert: &Insert) -> Result<Inserted, Fault> {
    let mut found = || -> Result<(usize, Option<Target>), Fault> {
        let there = match &insert.part {
            Some(part) => there(tx, insert, part)?,
            None => 0,
        };
        if there >= insert.jobs.len() {
            return Ok((there, None));
        }
        let parent = insert.parent;
        let parent = parent.map(|parent| lineage::parent(store, tx, parent));
        Ok((there, Some(target(tx, insert, parent.transpose()?)?)))
    };
    let (there, (no, target)) = match found() {
        Ok((there, Some(target))) => (there, target),
        Ok((_, None)) => return Ok(Ok(Vec::new())),
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
    let mut changes = CounterChanges::default();
    changes.added(no, count);
    changes.write(tx, insert.now)?;
    if all_sealed {
        tx.run("UPDATE #processes SET sealed = total WHERE no = ?", by![no])?;
    }
    if let Some(info) = &insert.info {
        tx.run(
            "UPDATE #processes SET info = ? WHERE no = ?",
            by![info.clone(), no],
        )?;
    }
    Ok(Ok(ids))
}

fn add_rows(
    store: &Store,
    tx: &mut dyn Statements,
    (no, target): &Target,
    added: &[Job],
    now: Timestamp,
    status: i64,
) -> Result<Vec<JobId>, Fault> {
    let mut lanes = Vec::with_capacity(added.len());
    for same in added.chunk_by(has_lane_of) {
        let lane = store.lane_no(tx, &first_lane(&same[0]))?;
        lanes.extend(same.iter().map(|_| lane));
    }
    let keys = (target.total..).map(|seq| key(*no, seq));
    let keyed = keys.clone().zip(added);
    let mut jobs = keyed.clone().zip(lanes).map(|((id, job), lane)| {
        let (least, most) = PRIORITIES.into_inner();
        let (priority, retries) = (job.priority.clamp(least, most), job.max_retries);
        by![id, lane, priority, status, now.0, now.0, retries]
    });
    tx.insert_rows(
        ("INSERT INTO #jobs (id, lane, priority, status, visible_at, created_at, max_retries) VALUES", ""),
        &mut jobs,
    )?;
    let mut payloads = keyed.map(|(id, job)| {
        let body = job.payload.get().to_owned();
        by![id, job.item_id.clone(), job.request_hash.clone(), body]
    });
    tx.insert_rows(
        (
            "INSERT INTO #payloads (job, item_id, request_hash, body) VALUES",
            "",
        ),
        &mut payloads,
    )?;
    let ids = keys.take(added.len());
    Ok(ids.map(|id| store.job_id(id, now)).collect())
}

/// How many of the first jobs of a part its process has. Notes the request if it is new.
fn there(tx: &mut dyn Statements, insert: &Insert, part: &Part) -> Result<usize, Fault> {
    let (id, now) = (insert.process, insert.now);
    let known: Option<String> = tx.one(
        "SELECT request FROM #requests WHERE process = ? FOR UPDATE",
        by![stored(id)],
    )?;
    let total: Option<i64> = tx.one(
        &format!("SELECT total FROM #processes WHERE id = ? AND chore <> {DELETING}"),
        by![stored(id)],
    )?;
    match (known, total) {
        (None, None) => {
            let before = now.0.saturating_sub(REQUEST_KNOWN_MILLIS);
            tx.run("DELETE FROM #requests WHERE sent_at < ?", by![before])?;
            let note = "INSERT INTO #requests (process, request, sent_at) VALUES (?, ?, ?)";
            match tx.run(note, by![stored(id), part.request.clone(), now.0]) {
                // Another transaction has done so in the meantime.
                Err(fault) if fault.is_duplicate() => Err(Fault::Overtaken),
                noted => noted.map(|_| 0),
            }
        }
        (Some(known), Some(total)) if known == part.request => {
            let there = u64::try_from(total).unwrap_or_default();
            let there = there.saturating_sub(part.first);
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

/// How long a request is known.
const REQUEST_KNOWN_MILLIS: i64 = 24 * 60 * 60 * 1000;

fn has_lane_of(job: &Job, other: &Job) -> bool {
    job.kind == other.kind && job.lane == other.lane
}

/// The lane of a job at the first step.
fn first_lane(job: &Job) -> JobLane {
    JobLane {
        kind: job.kind.clone(),
        name: job.lane.clone(),
        step: 0,
    }
}

/// The description contains only texts, so serializing it cannot fail.
pub(super) fn written(info: &ProcessInfo) -> String {
    serde_json::to_string(info).unwrap_or_default()
}

/// The process, which is created if it does not exist.
fn target(tx: &mut dyn Statements, insert: &Insert, parent: Option<i64>) -> Result<Target, Fault> {
    let id = insert.process;
    let refuse = |why: &str| {
        Fault::from(Error::new(
            ErrorKind::Invalid,
            format!("process {id} {why}"),
        ))
    };
    let found = lock_one(tx, id)?;
    let count = i64::try_from(insert.jobs.len()).unwrap_or(i64::MAX);
    let room = MOST_JOBS - found.map_or(0, |(_, target)| target.total);
    if count > room {
        return Err(refuse(
            "would have more than 4,294,967,296 jobs; create another process",
        ));
    }
    match found {
        Some((_, target)) if target.chore == DELETING => Err(refuse("is being deleted")),
        Some((_, target)) if target.is_cancelled => Err(refuse(
            "was cancelled and accepts no more jobs; create another process",
        )),
        Some(found) => Ok(found),
        None => {
            // Its cost counts in the budget of its oldest ancestor, so that a child has none of its own.
            let root: Option<i64> = match parent {
                Some(parent) => {
                    let find = "SELECT IFNULL(root, no) FROM #processes WHERE no = ?";
                    tx.one(find, by![process_of(parent)])?
                }
                None => None,
            };
            let budget = insert.budget.as_ref().filter(|_| parent.is_none());
            let picos = |amount: Usd| bounded(amount.picos()).min(MOST);
            let limit = budget.map(|budget| picos(budget.limit));
            let used = budget.map_or(0, |budget| picos(budget.used));
            let at = insert.now.0;
            let made = tx.run(
                "INSERT INTO #processes (id, parent, root, created_at, changed_at, budget_limit, budget_used)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                by![stored(id), parent, root, at, at, limit, used],
            );
            match made {
                // Another transaction has created it in the meantime.
                Err(fault) if fault.is_duplicate() => return Err(Fault::Overtaken),
                other => drop(other?),
            }
            let no = tx.last_id();
            if no >= MOST_PROCESSES {
                return Err(Fault::Odd("it has had more than a billion processes"));
            }
            Ok((no, Standing::default()))
        }
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

pub(super) struct Insert {
    pub process: ProcessId,
    /// Jobs that are added once, however often they are inserted.
    pub part: Option<Part>,
    /// The description of the process, as stored.
    pub info: Option<String>,
    /// The job that waits for these jobs.
    pub parent: Option<JobId>,
    /// The budget of the process, if these jobs create it.
    pub budget: Option<ProcessBudget>,
    pub jobs: Vec<Job>,
    pub sealed: bool,
    pub now: Timestamp,
}

pub(super) type Inserted = Result<Vec<JobId>, Error>;

#[derive(Default)]
struct Queue {
    /// The number of the next insert.
    next: u64,
    waiting: VecDeque<(u64, Insert)>,
    /// Inserts that another thread has performed.
    done: HashMap<u64, Inserted>,
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

/// The inserts that are being performed. If that panics, each unanswered one gets an error.
struct Group<'a> {
    commit: &'a GroupCommit,
    numbers: Vec<u64>,
    results: Vec<Inserted>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let lost = || Error::new(ErrorKind::Panic, "the insert was abandoned by a panic");
        let mut results = mem::take(&mut self.results).into_iter();
        let mut queue = self.commit.queue.lock();
        for number in &self.numbers {
            let result = results.next().unwrap_or_else(|| Err(lost()));
            queue.done.insert(*number, result);
        }
        queue.is_busy = false;
        self.commit.changed.notify_all();
    }
}

impl GroupCommit {
    /// Performs an insert together with those of other threads. `all` is called without a lock held, and returns one
    /// reply per insert.
    pub(super) fn run<L>(
        &self,
        insert: Insert,
        lock: impl Fn() -> L,
        mut all: impl FnMut(L, Vec<Insert>) -> Vec<Inserted>,
    ) -> Inserted {
        let mut queue = self.queue.lock();
        let own = queue.next;
        queue.next += 1;
        queue.waiting.push_back((own, insert));
        loop {
            if let Some(result) = queue.done.remove(&own) {
                return result;
            }
            if queue.is_busy {
                self.changed.wait(&mut queue);
                continue;
            }
            queue.is_busy = true;
            drop(queue);
            // Other threads can add inserts until the database is locked.
            let lock = lock();
            let (numbers, inserts) = self.take();
            let mut group = Group {
                commit: self,
                numbers,
                results: Vec::new(),
            };
            group.results = all(lock, inserts);
            drop(group);
            queue = self.queue.lock();
        }
    }

    fn take(&self) -> (Vec<u64>, Vec<Insert>) {
        let mut queue = self.queue.lock();
        let mut jobs = 0;
        let fits = |(_, insert): &(u64, Insert)| {
            let is_first = jobs == 0;
            jobs += insert.jobs.len();
            is_first || jobs <= MOST_TOGETHER
        };
        let fitting = queue.waiting.iter().map(fits).take_while(|fits| *fits);
        let count = fitting.count();
        queue.waiting.drain(..count).unzip()
    }
}
