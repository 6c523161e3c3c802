//! Pages of jobs by process, state and kind. Each call looks at a bounded number of jobs.

use const_format::formatcp;
use serde_json::value::RawValue;

use crate::base::{Error, JobId, Timestamp};
use crate::queue::history::History;
use crate::queue::job::{JobCounts, JobFilter, JobPage, JobState};
use crate::queue::store::rows::{
    self, AT_PROVIDER, CANCELLED, COMPLETED, DELETING, FAILED, HELD, IN_PROGRESS, MOST_JOBS,
    PENDING, key, key_of, process_of, small,
};
use crate::queue::store::{JobReceipt, Store};

use super::results::json;
use super::statements::{Dialect, Fault, Queries as _, Row, Statements, by, id_of, limit, list};

/// Number of jobs that one call looks at, in chunks of a chore: 20,000 jobs.
const CHUNKS: i64 = 20;

/// The columns that [`job_state`] reads, without result and history, and the key.
const FOUND: &str = "j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes, j.visible_at, \
     b.item_id, r.error, NULL, NULL, j.claim, j.id";

impl Store {
    /// Up to `most` jobs that a filter selects, after `after`; see [`JobQueue::find`](crate::JobQueue::find). A call
    /// looks at a bounded number of jobs, and does not delay writes.
    pub(crate) fn find(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        most: usize,
    ) -> Result<JobPage, Error> {
        self.read(|tx| {
        let states = states(filter);
        let Some((start, end)) = keys(tx, filter, &states, after)? else {
            return Ok(JobPage::default());
        };
        let (index, indexed) = index(tx.dialect(), &states);
        // The jobs of a process in order, those of all processes the newest first.
        let (range, order) = match filter.process {
            Some(_) => ("j.id > ? AND j.id <= ?", "ASC"),
            None => ("j.id < ? AND j.id >= ?", "DESC"),
        };
        let range = format!("{indexed} {range}");
        let last = format!(
            "SELECT j.id, j.created_at FROM #jobs j {index} WHERE {range} ORDER BY j.id {order} LIMIT 1 OFFSET ?"
        );
        let looked_at = (self.chunk * CHUNKS).max(1);
        let last = tx.first(&last, by![start, end, looked_at - 1])?;
        let last: Option<(i64, i64)> = match last {
            Some(mut row) => Some((row.at(0)?, row.at(1)?)),
            None => None,
        };
        let states = list(states);
        let (kind, value) = match &filter.kind {
            Some(kind) => ("AND l.kind = ?", by![kind.clone()]),
            None => ("", Vec::new()),
        };
        let mut bound = by![start, last.map_or(end, |(id, _)| id)];
        bound.extend(value);
        bound.push(limit(most).into());
        let rows = tx.rows(
            &format!(
                "SELECT {FOUND} FROM #jobs j {index} STRAIGHT_JOIN #processes p ON p.no = j.id DIV 4294967296
                   STRAIGHT_JOIN #lanes l ON l.no = j.lane STRAIGHT_JOIN #payloads b ON b.job = j.id
                   LEFT JOIN #results r ON r.job = j.id
                 WHERE {range} AND p.chore <> {DELETING} AND j.status IN {states} {kind} ORDER BY j.id {order} LIMIT ?"
            ),
            bound,
        )?;
        let is_full = rows.len() >= most;
        let mut found = Vec::new();
        for row in rows {
            found.push(shown(self, tx, row)?);
        }
        let next = match found.last() {
            Some(job) if is_full => Some(job.job_id),
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

/// The keys to look at: after the first, up to the second. `None` if no job can fit.
fn keys(
    tx: &mut dyn Statements,
    filter: &JobFilter,
    states: &[i64],
    after: Option<JobId>,
) -> Result<Option<(i64, i64)>, Fault> {
    if states.is_empty() {
        return Ok(None);
    }
    let Some(process) = filter.process else {
        let start = after.map_or(i64::MAX, key_of);
        let newest = newest_process(tx, states, process_of(start))?;
        return Ok(newest.map(|no| (start.min(key(no + 1, 0)), 0)));
    };
    Ok(tx.process_no(process)?.map(|no| {
        let before = key(no, 0) - 1;
        let start = after.map_or(before, |job| key_of(job).max(before));
        (start, key(no, MOST_JOBS - 1))
    }))
}

/// The newest process up to this number that can have a job in one of these states, according to its counters.
fn newest_process(
    tx: &mut dyn Statements,
    states: &[i64],
    up_to: i64,
) -> Result<Option<i64>, Fault> {
    let counters = states.iter().map(|state| match *state {
        PENDING | HELD => "pending",
        IN_PROGRESS => "in_progress",
        AT_PROVIDER => "at_provider",
        COMPLETED => "completed",
        FAILED => "failed",
        _ => "cancelled_jobs",
    });
    let counters: Vec<&str> = counters.collect();
    let any = format!("{} > 0 AND total > consumed", counters.join(" + "));
    let sql = format!(
        "SELECT no FROM #processes WHERE no <= ? AND chore <> {DELETING} AND {any} ORDER BY no DESC LIMIT 1"
    );
    tx.one(&sql, by![up_to])
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

fn shown(store: &Store, tx: &mut dyn Statements, mut row: Row) -> Result<JobState, Fault> {
    let id = row.at(13)?;
    job_state(store, tx, &mut row, id, JobCounts::default())
}

/// A job from 13 columns.
pub(super) fn job_state(
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
            rows::PENDING | rows::HELD => Some(Timestamp(row.at(7)?)),
            _ => None,
        },
        result: json(row.at(10)?)?,
        error: rows::error(written, row.at::<Option<String>>(9)?.as_deref()),
        errors: history.map_or_else(Vec::new, |history| History::parse(history).errors),
        receipt: status.is_final().then_some(JobReceipt { job: id, claim }),
        children: (!status.is_final() && children.total > 0).then_some(children),
    })
}
