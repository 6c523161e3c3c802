//! Reading jobs: single ones, those of a process in order, and pages of them by process, state and kind.

use const_format::formatcp;
use serde_json::value::RawValue;

use super::processes::{SUMS, sums};
use super::results::json;
use super::rows::{
    self, AT_PROVIDER, CANCELLED, DELETING, FAILED, HELD, MOST_JOBS, PENDING, key, key_of,
    process_no, small,
};
use super::statements::{Dialect, Fault, Queries as _, Row, Statements, by, id_of, limit, list};
use super::{JobReceipt, JobSummary, Store};
use crate::base::{Error, JobId, ProcessId, Timestamp};
use crate::queue::history::History;
use crate::queue::job::{JobCounts, JobFilter, JobPage, JobState};

/// Number of jobs that one call looks at, in chunks of a chore: 20,000 jobs.
const CHUNKS: i64 = 20;

/// The columns that [`job_state`] reads, without result and history, and the key.
const FOUND: &str = "j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes, j.visible_at, \
     b.item_id, r.error, NULL, NULL, j.claim, j.id";

impl Store {
    /// A job, if it exists. With an outcome it contains the receipt that acknowledges it; before that, the states of
    /// its child jobs, if any.
    pub fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        let id = key_of(job);
        let sql = formatcp!(
            "SELECT j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes,
               j.visible_at, b.item_id, r.error, r.body, r.history, j.claim, children.*
             FROM (SELECT {SUMS} FROM #processes WHERE parent = ? AND chore <> {DELETING}) children
               CROSS JOIN #jobs j CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
               CROSS JOIN #payloads b ON b.job = j.id LEFT JOIN #results r ON r.job = j.id
             WHERE j.id = ? AND p.chore <> {DELETING}"
        );
        // One statement reads a consistent state. Clients poll states often, and a transaction would add four
        // statements.
        self.read(|tx| {
            let Some(mut row) = tx.first(sql, by![id, id])? else {
                return Ok(None);
            };
            let children = sums(&mut row, 13)?;
            let state = job_state(self, tx, &mut row, id, children)?;
            // The rest of the id must match too, because it may belong to another database.
            Ok((state.job_id == job).then_some(state))
        })
    }

    /// Up to `most` stored jobs of a process, in the order in which they were enqueued, after `after`.
    pub(crate) fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.read(|tx| {
            let Some(no) = process_no(tx, process)? else {
                return Ok(Vec::new());
            };
            let before = key(no, 0) - 1;
            let start = after.map_or(before, |job| key_of(job).max(before));
            let rows = tx.rows(
                "SELECT j.id, j.created_at, j.status, p.item_id, p.request_hash
                 FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.id > ? AND j.id <= ? ORDER BY j.id LIMIT ?",
                by![start, key(no, MOST_JOBS - 1), limit(most)],
            )?;
            let items = rows.into_iter().map(|mut row| {
                let status: i64 = row.at(2)?;
                Ok(JobSummary {
                    job_id: self.job_id(row.at(0)?, Timestamp(row.at(1)?)),
                    item_id: row.at(3)?,
                    request_hash: row.at(4)?,
                    status: rows::shown(status),
                    at_provider: status == AT_PROVIDER,
                })
            });
            items.collect()
        })
    }

    /// Up to `most` jobs that a filter selects, after `after`; see [`JobQueue::find`](crate::JobQueue::find): those of a
    /// process in order, those of all processes the newest first. A call looks at a bounded number of jobs, and does not
    /// delay writes.
    pub(crate) fn find(
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
                    let before = key(no, 0) - 1;
                    let start = after.map_or(before, |job| job.max(before));
                    (start, key(no, MOST_JOBS - 1), "j.id > ? AND j.id <= ?", "ASC")
                }
            };
            let (index, indexed) = index(tx.dialect(), &states);
            let range = format!("{indexed} {range}");
            let last = format!(
                "SELECT j.id, j.created_at FROM #jobs j {index} WHERE {range} ORDER BY j.id {order} LIMIT 1 OFFSET ?"
            );
            let looked_at = (self.chunk * CHUNKS).max(1);
            let last: Option<(i64, i64)> = match tx.first(&last, by![start, end, looked_at - 1])? {
                Some(mut row) => Some((row.at(0)?, row.at(1)?)),
                None => None,
            };
            let end = last.map_or(end, |(id, _)| id);
            let find = format!(
                "SELECT {FOUND} FROM #jobs j {index} STRAIGHT_JOIN #processes p ON p.no = j.id DIV 4294967296
                   STRAIGHT_JOIN #lanes l ON l.no = j.lane STRAIGHT_JOIN #payloads b ON b.job = j.id
                   LEFT JOIN #results r ON r.job = j.id
                 WHERE {range} AND p.chore <> {DELETING} AND j.status IN {} AND l.kind = IFNULL(?, l.kind)
                 ORDER BY j.id {order} LIMIT ?",
                list(&states)
            );
            let mut found = Vec::new();
            for mut row in tx.rows(&find, by![start, end, filter.kind.clone(), limit(most)])? {
                let id = row.at(13)?;
                found.push(job_state(self, tx, &mut row, id, JobCounts::default())?);
            }
            let next = match found.last() {
                Some(job) if found.len() >= most => Some(job.job_id),
                _ => last.map(|(id, created_at)| self.job_id(id, Timestamp(created_at))),
            };
            Ok(JobPage { jobs: found, next })
        })
    }

    /// The payload of a job, if the job exists.
    pub(crate) fn payload(&self, job: JobId) -> Result<Option<Box<RawValue>>, Error> {
        self.read(|tx| {
            let id = key_of(job);
            let sql = formatcp!(
                "SELECT j.created_at, b.body FROM #jobs j CROSS JOIN #payloads b ON b.job = j.id
               CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
             WHERE j.id = ? AND p.chore <> {DELETING}"
            );
            let Some(mut row) = tx.first(sql, by![id])? else {
                return Ok(None);
            };
            // The rest of the id must match too, because it may belong to another database.
            if self.job_id(id, Timestamp(row.at(0)?)) == job {
                json(row.at(1)?)
            } else {
                Ok(None)
            }
        })
    }
}

/// The index that finds jobs in these states, and the condition that it serves.
fn index(dialect: Dialect, states: &[i64]) -> (&'static str, String) {
    match (dialect, states) {
        // The condition of the partial index is repeated, because SQLite does not derive it.
        (Dialect::Sqlite, [status @ (FAILED | CANCELLED)]) => (
            "INDEXED BY jobs_not_completed",
            format!("j.status >= {FAILED} AND j.status = {status} AND"),
        ),
        #[cfg(feature = "mysql")]
        (Dialect::Mysql, [status]) => (
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

/// A job from 13 columns.
fn job_state(
    store: &Store,
    tx: &mut dyn Statements,
    row: &mut Row,
    id: i64,
    children: JobCounts,
) -> Result<JobState, Fault> {
    let lane = store.lane(tx, row.at(2)?)?;
    let written: i64 = row.at(3)?;
    let status = rows::shown(written);
    let history: Option<String> = row.at(11)?;
    let history = history.as_deref();
    let created_at = Timestamp(row.at(0)?);
    let claim = row.at(12)?;
    Ok(JobState {
        job_id: store.job_id(id, created_at),
        process_id: id_of(&row.at::<Vec<u8>>(1)?)?,
        kind: lane.kind.clone(),
        lane: lane.name.clone(),
        item_id: row.at(8)?,
        status,
        at_provider: written == AT_PROVIDER,
        priority: small(row.at(4)?),
        step: lane.route_step(),
        attempts: u32::try_from(row.at::<i64>(5)?).unwrap_or(u32::MAX),
        crashes: small(row.at(6)?),
        created_at,
        due_at: match written {
            PENDING | HELD => Some(Timestamp(row.at(7)?)),
            _ => None,
        },
        result: json(row.at(10)?)?,
        error: rows::error(written, row.at::<Option<String>>(9)?.as_deref()),
        errors: history.map_or_else(Vec::new, |history| History::parse(history).errors),
        receipt: status.is_final().then_some(JobReceipt { job: id, claim }),
        children: (!status.is_final() && children.total > 0).then_some(children),
    })
}
