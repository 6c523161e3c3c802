//! Reading processes and jobs: single ones, in order, and pages of jobs by process, state and kind.

use std::collections::HashSet;

use const_format::formatcp;
use serde_json::value::RawValue;

use super::insert::written;
use super::rows::{
    self, AT_PROVIDER, CANCELLED, DELETING, FAILED, PENDING, PROCESS_COLUMNS, bounded, key_of,
    keys_after, known_cost, process_no,
};
use super::statements::{Fault, Queries as _, Row, Sql, by, limit, list, stored};
use super::{JobReceipt, JobSummary, Store};
use crate::base::{Error, JobId, ProcessId, Timestamp};
use crate::queue::history::History;
use crate::queue::info::ProcessInfo;
use crate::queue::job::{
    JobCounts, JobFilter, JobPage, JobState, JobStatus, ProcessState, QueueTotals,
};

/// The number of jobs of several processes by state. Sums may exceed an integer.
pub(super) const SUMS: &str = "IFNULL(SUM(total + 0e0), 0), IFNULL(SUM(pending + 0e0), 0), \
     IFNULL(SUM(in_progress + 0e0), 0), IFNULL(SUM(at_provider + 0e0), 0), IFNULL(SUM(completed + 0e0), 0), \
     IFNULL(SUM(failed + 0e0), 0), IFNULL(SUM(cancelled_jobs + 0e0), 0), IFNULL(SUM(consumed + 0e0), 0)";

/// The query for processes as [`ProcessState`]s.
fn processes(which: &str) -> String {
    format!("SELECT {PROCESS_COLUMNS} FROM #processes WHERE chore <> {DELETING} {which}")
}

impl Store {
    /// Replaces the description of a process. Returns false if the process does not exist.
    pub(crate) fn describe(&self, process: ProcessId, info: &ProcessInfo) -> Result<bool, Error> {
        let info = written(info);
        let set = formatcp!("UPDATE #processes SET info = ? WHERE id = ? AND chore <> {DELETING}");
        let set = self.write(|tx| tx.run(set, by![info.clone(), stored(process)]))?;
        Ok(set > 0)
    }

    /// The state of a process; `None` if it does not exist, or all its results were consumed.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.read(|tx| tx.one(&processes("AND id = ?"), by![stored(process)]))
    }

    /// Every process that has jobs or results in the queue, oldest first. Check them after a restart. A process with
    /// a parent belongs to a job that waits for it; only that job can collect its results.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn open_processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.read(|tx| tx.many(&processes("ORDER BY no"), by![]))
    }

    /// Every process whose jobs, seal or cancellation has changed at this time or later, perhaps others too.
    pub(crate) fn changed_processes(&self, since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.read(|tx| tx.many(&processes("AND changed_at >= ? ORDER BY no"), by![since.0]))
    }

    /// The ids of all processes.
    pub(crate) fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        let find = formatcp!("SELECT id FROM #processes WHERE chore <> {DELETING}");
        let ids = self.read(|tx| tx.many(find, by![]))?;
        Ok(ids.into_iter().collect())
    }

    /// Up to `most` processes with their numbers in the queue, newest first, from below the number `before`, for a
    /// list with pages: all of them, or those that are or are not [finished](ProcessState::is_finished). Processes with a
    /// parent are not included.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn newest_processes(
        &self,
        before: Option<u64>,
        finished: Option<bool>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        let before = before.map_or(i64::MAX, bounded);
        // As `ProcessState::is_finished`.
        let state = match finished {
            None => "",
            Some(true) => "AND sealed = total AND completed + failed + cancelled_jobs = total",
            Some(false) => "AND (sealed <> total OR completed + failed + cancelled_jobs <> total)",
        };
        let sql = format!(
            "SELECT no, {PROCESS_COLUMNS} FROM #processes
             WHERE no < ? AND parent IS NULL AND chore <> {DELETING} {state} ORDER BY no DESC LIMIT ?"
        );
        self.read(|tx| tx.many(&sql, by![before, limit(most)]))
    }

    /// The number of jobs in each state. Reads only the counters of the processes.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn totals(&self) -> Result<QueueTotals, Error> {
        let sum = formatcp!(
            "SELECT {SUMS}, COUNT(*), IFNULL(SUM(sealed < total OR pending + in_progress + at_provider > 0), 0),
               IFNULL(SUM(cost_picos + 0e0), 0), IFNULL(SUM(unpriced + 0e0), 0)
             FROM #processes WHERE chore <> {DELETING}"
        );
        let sums = self.read(|tx| tx.one(sum, by![]))?;
        let (jobs, processes, open, cost, unpriced) = sums.unwrap_or_default();
        Ok(QueueTotals {
            jobs,
            processes,
            open,
            cost_usd: known_cost(cost, unpriced),
            unpriced,
        })
    }

    /// The number of waiting jobs by priority, highest first, due or not. Jobs that wait for other jobs are not
    /// included.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        let count = formatcp!(
            "SELECT priority, COUNT(*) FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {PENDING} GROUP BY priority ORDER BY priority DESC"
        );
        self.read(|tx| tx.many(count, by![]))
    }
}

// Jobs.

/// Number of jobs that one call looks at, in chunks of a chore: 20,000 jobs.
const CHUNKS: i64 = 20;

/// The columns that [`job_state`] reads, before result and history.
const STATE: &str = "j.id, j.claim, j.lane, j.status, j.created_at, p.id, b.item_id, j.priority, j.calls, j.crashes, \
     j.visible_at, r.error";

impl Store {
    /// One job; `None` if it does not exist, or its result was consumed.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        let id = key_of(job);
        let sql = formatcp!(
            "SELECT children.*, {STATE}, r.body, r.history
             FROM (SELECT {SUMS} FROM #processes WHERE parent = ? AND chore <> {DELETING}) children
               CROSS JOIN #jobs j CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
               CROSS JOIN #payloads b ON b.job = j.id LEFT JOIN #results r ON r.job = j.id
             WHERE j.id = ? AND p.chore <> {DELETING}"
        );
        // One statement reads a consistent state. Clients poll states often, and a transaction would add four
        // statements.
        self.read(|tx| {
            let Some(mut row) = tx.rows(sql, by![id, id])?.pop() else {
                return Ok(None);
            };
            let children: JobCounts = row.read()?;
            let mut state = job_state(self, tx, row)?;
            if !state.status.is_final() && children.total > 0 {
                state.children = Some(children);
            }
            // The rest of the id must match too, because it may belong to another database.
            Ok((state.job_id == job).then_some(state))
        })
    }

    /// Up to `most` stored jobs of a process after the job `after`, in the order in which they were enqueued, to
    /// compare them with jobs to enqueue. Jobs whose results were consumed are not included.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.read(|tx| {
            let Some(no) = process_no(tx, process)? else {
                return Ok(Vec::new());
            };
            let (start, end) = keys_after(no, after.map(key_of));
            let rows = tx.rows(
                "SELECT j.id, j.created_at, j.status, p.item_id, p.request_hash
                 FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.id > ? AND j.id <= ? ORDER BY j.id LIMIT ?",
                by![start, end, limit(most)],
            )?;
            let items = rows.into_iter().map(|mut row| {
                let (id, created_at, status) = row.read()?;
                Ok(JobSummary {
                    job_id: self.job_id(id, created_at),
                    item_id: row.read()?,
                    request_hash: row.read()?,
                    status: rows::shown(status),
                    at_provider: status == AT_PROVIDER,
                })
            });
            items.collect()
        })
    }

    /// Up to `most` jobs that a filter selects, after `after`, the [`next`](JobPage::next) of the page before. Jobs of
    /// one process come in the order in which they were enqueued; without a process, those of the newest process come
    /// first, and in each process the last one.
    ///
    /// Each call looks at a bounded number of jobs, so that no search holds up other programs. So a page can be empty
    /// although more jobs follow: call again until [`next`](JobPage::next) is `None`. Failed and cancelled jobs are
    /// found by an index, and processes without a job in the wanted state are skipped.
    ///
    /// ```
    /// use batchwright::{Job, JobQueue, ProcessId};
    /// use batchwright::queue::JobFilter;
    /// let queue = JobQueue::in_memory()?;
    /// queue.enqueue(ProcessId::new(), [Job::new("letter", &"Dear Ada")?.item_id("ada-1")])?;
    /// let filter = JobFilter { kind: Some("letter".to_owned()), ..JobFilter::default() };
    /// let page = queue.find(&filter, None, 50)?;
    /// assert_eq!(page.jobs[0].item_id.as_deref(), Some("ada-1"));
    /// assert!(page.next.is_none());
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn find(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        most: usize,
    ) -> Result<JobPage, Error> {
        let states = states(filter);
        if states.is_empty() {
            return Ok(JobPage::default());
        }
        self.read(|tx| {
            let after = after.map(key_of);
            let (start, end, range, order) = match filter.process {
                None => (after.unwrap_or(i64::MAX), 0, "j.id < ? AND j.id >= ?", "DESC"),
                Some(process) => {
                    let Some(no) = process_no(tx, process)? else {
                        return Ok(JobPage::default());
                    };
                    let (start, end) = keys_after(no, after);
                    (start, end, "j.id > ? AND j.id <= ?", "ASC")
                }
            };
            let (index, indexed) = index(tx.is_server(), &states);
            let range = format!("{indexed} {range}");
            let last = format!(
                "SELECT j.id, j.created_at FROM #jobs j {index} WHERE {range} ORDER BY j.id {order} LIMIT 1 OFFSET ?"
            );
            let looked_at = (self.chunk * CHUNKS).max(1);
            let last: Option<(i64, Timestamp)> = tx.one(&last, by![start, end, looked_at - 1])?;
            let end = last.map_or(end, |(id, _)| id);
            let find = format!(
                "SELECT {STATE}, NULL, NULL FROM #jobs j {index} STRAIGHT_JOIN #processes p ON p.no = j.id DIV 4294967296
                   STRAIGHT_JOIN #lanes l ON l.no = j.lane STRAIGHT_JOIN #payloads b ON b.job = j.id
                   LEFT JOIN #results r ON r.job = j.id
                 WHERE {range} AND p.chore <> {DELETING} AND j.status IN {} AND l.kind = IFNULL(?, l.kind)
                 ORDER BY j.id {order} LIMIT ?",
                list(&states)
            );
            let rows = tx.rows(&find, by![start, end, filter.kind.clone(), limit(most)])?;
            let found = rows.into_iter().map(|row| job_state(self, tx, row));
            let found: Vec<JobState> = found.collect::<Result<_, _>>()?;
            let next = match found.last() {
                Some(job) if found.len() >= most => Some(job.job_id),
                _ => last.map(|(id, created_at)| self.job_id(id, created_at)),
            };
            Ok(JobPage { jobs: found, next })
        })
    }

    /// The payload of a job; `None` if the job does not exist, or its result was consumed.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn payload(&self, job: JobId) -> Result<Option<Box<RawValue>>, Error> {
        self.read(|tx| {
            let id = key_of(job);
            let sql = formatcp!(
                "SELECT j.created_at, b.body FROM #jobs j CROSS JOIN #payloads b ON b.job = j.id
               CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
             WHERE j.id = ? AND p.chore <> {DELETING}"
            );
            let found: Option<(Timestamp, _)> = tx.one(sql, by![id])?;
            // The rest of the id must match too, because it may belong to another database.
            let ours = found.filter(|(created_at, _)| self.job_id(id, *created_at) == job);
            Ok(ours.map(|(_, payload)| payload))
        })
    }
}

/// The index that finds jobs in these states, and the condition that it serves.
fn index(is_server: bool, states: &[i64]) -> (&'static str, String) {
    match (is_server, states) {
        // The condition of the partial index is repeated, because SQLite does not derive it.
        (false, [status @ (FAILED | CANCELLED)]) => (
            "INDEXED BY jobs_not_completed",
            format!("j.status >= {FAILED} AND j.status = {status} AND"),
        ),
        (true, [status]) => (
            "FORCE INDEX (by_status)",
            format!("j.status = {status} AND"),
        ),
        _ => ("FORCE INDEX (PRIMARY)", String::new()),
    }
}

/// The stored states that the filter wants.
fn states(filter: &JobFilter) -> Vec<i64> {
    let wanted = |state: &i64| {
        filter
            .status
            .is_none_or(|status| rows::shown(*state) == status)
            && filter
                .at_provider
                .is_none_or(|yes| yes == (*state == AT_PROVIDER))
    };
    (PENDING..=CANCELLED).filter(wanted).collect()
}

/// A job from the columns of [`STATE`], result and history.
fn job_state(store: &Store, tx: &mut dyn Sql, mut row: Row) -> Result<JobState, Fault> {
    let receipt: JobReceipt = row.read()?;
    let lane = store.lane(tx, row.read()?)?;
    let written: i64 = row.read()?;
    let status = rows::shown(written);
    let created_at = row.read()?;
    let mut state = JobState {
        job_id: store.job_id(receipt.job, created_at),
        process_id: row.read()?,
        kind: lane.kind.clone(),
        lane: lane.name.clone(),
        item_id: row.read()?,
        status,
        at_provider: written == AT_PROVIDER,
        priority: row.read()?,
        step: lane.route_step(),
        attempts: row.read()?,
        crashes: row.read()?,
        created_at,
        due_at: Some(row.read()?).filter(|_| status == JobStatus::Pending),
        error: rows::error(written, row.read()?),
        result: row.read()?,
        errors: Vec::new(),
        receipt: status.is_final().then_some(receipt),
        children: None,
    };
    if let Some(history) = row.read::<Option<String>>()? {
        state.errors = History::parse(&history).errors;
    }
    Ok(state)
}
