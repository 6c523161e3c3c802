//! Looking at processes, jobs and outcomes, and deleting outcomes that were saved elsewhere.

use std::collections::HashSet;
use std::sync::Arc;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::engine::item_time::ItemTime;
use crate::queue::job::{AttemptError, JobCounts, JobResult, JobState, ProcessState, QueueTotals};
use crate::queue::store::{ConsumerLock, DeliveredResult, JobLane, JobReceipt, ResultStore};

use super::SqliteStore;
use super::counters::CounterChanges;
use super::lineage::{self, Ended};
use super::rows::{
    self, COMPLETED, DELETING, MOST_JOBS, PROCESS_COLUMNS, bounded, count, id_of, key, key_of,
    process_no, process_of, shown, small,
};
use super::writer::{Fault, Sync};

/// Where the jobs of several processes stand.
const SUMS: &str =
    "total(total), total(pending), total(in_progress), total(at_provider), total(completed),
  total(failed), total(cancelled_jobs), total(consumed)";

/// What [`SUMS`] has read. Sums that do not fit an integer are no error.
fn sums(row: &Row<'_>) -> rusqlite::Result<JobCounts> {
    let sum = |at: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, f64>(at)? as u64) };
    Ok(JobCounts {
        total: sum(0)?,
        pending: sum(1)?,
        in_progress: sum(2)?,
        at_provider: sum(3)?,
        completed: sum(4)?,
        failed: sum(5)?,
        cancelled: sum(6)?,
        consumed: sum(7)?,
    })
}

/// Where the jobs stand that a job has others carry out; `None` where there are none.
fn children(conn: &Connection, job: i64) -> Result<Option<JobCounts>, Fault> {
    let mut read = conn.prepare_cached(formatcp!(
        "SELECT {SUMS} FROM processes WHERE parent = ?1 AND chore <> {DELETING}"
    ))?;
    let jobs = read.query_row([job], sums)?;
    Ok((jobs.total > 0).then_some(jobs))
}

impl SqliteStore {
    pub(super) fn read_process(&self, id: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(&format!(
                "SELECT {PROCESS_COLUMNS} FROM processes WHERE id = ?1 AND chore <> {DELETING}"
            ))?;
            Ok(read
                .query_row([&id.0.as_bytes()[..]], rows::process)
                .optional()?)
        })
    }

    pub(super) fn read_id(&self) -> Result<String, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached("SELECT value FROM meta WHERE key = 'id'")?;
            Ok(read.query_row([], |row| row.get(0))?)
        })
    }

    pub(super) fn read_processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(&format!(
                "SELECT {PROCESS_COLUMNS} FROM processes WHERE chore <> {DELETING} ORDER BY no"
            ))?;
            let all = read.query_map([], rows::process)?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn read_changed(&self, since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(&format!(
                "SELECT {PROCESS_COLUMNS} FROM processes WHERE changed_at >= ?1 AND chore <> {DELETING} ORDER BY no"
            ))?;
            let changed = read.query_map([since.0], rows::process)?;
            Ok(changed.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn read_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(formatcp!(
                "SELECT id FROM processes WHERE chore <> {DELETING}"
            ))?;
            let mut found = read.query([])?;
            let mut ids = HashSet::new();
            while let Some(row) = found.next()? {
                ids.insert(id_of(&row.get::<_, Vec<u8>>(0)?)?);
            }
            Ok(ids)
        })
    }

    pub(super) fn read_newest(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(&format!(
                "SELECT {PROCESS_COLUMNS}, no FROM processes WHERE no < ?1 AND chore <> {DELETING}
                 ORDER BY no DESC LIMIT ?2"
            ))?;
            let before = before.map_or(i64::MAX, bounded);
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let newest = read.query_map(params![before, limit], |row| {
                Ok((count(row.get("no")?), rows::process(row)?))
            })?;
            Ok(newest.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn read_totals(&self) -> Result<QueueTotals, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached(formatcp!(
                "SELECT {SUMS}, count(*),
                   total(sealed < total OR pending + in_progress + at_provider > 0)
                 FROM processes WHERE chore <> {DELETING}"
            ))?;
            let totals = read.query_row([], |row| {
                Ok(QueueTotals {
                    jobs: sums(row)?,
                    processes: count(row.get(8)?),
                    open: row.get::<_, f64>(9)? as u64,
                })
            });
            Ok(totals?)
        })
    }

    pub(super) fn read_lanes(&self, process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        self.read(|conn| {
            let Some(no) = process_no(conn, process)? else {
                return Ok(Vec::new());
            };
            let mut read = conn.prepare_cached(
                "SELECT DISTINCT lane FROM
                   (SELECT lane FROM jobs WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT 1000)",
            )?;
            let lanes = read.query_map([key(no, 0), key(no, MOST_JOBS - 1)], |row| row.get(0))?;
            let lanes: Vec<i64> = lanes.collect::<Result<_, _>>()?;
            lanes.into_iter().map(|no| self.lane(conn, no)).collect()
        })
    }

    pub(super) fn read_job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        let id = key_of(job);
        self.read(|conn| {
            let mut read = conn.prepare_cached(formatcp!(
                "SELECT j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes,
                   j.visible_at, b.item_id, r.error, r.body,
                   CASE WHEN j.has_history THEN (SELECT body FROM histories WHERE job = j.id) END, j.claim
                 FROM jobs j JOIN processes p ON p.no = j.id >> 32
                   JOIN payloads b ON b.job = j.id LEFT JOIN results r ON r.job = j.id
                 WHERE j.id = ?1 AND p.chore <> {DELETING}"
            ))?;
            let state = read.query_row([id], |row| Ok(self.state(conn, row, id)));
            let state = state.optional()?.transpose()?;
            // The rest of the id has to fit too: it may be one of another database.
            Ok(state.filter(|state| state.job_id == job))
        })
    }

    fn state(&self, conn: &Connection, row: &Row<'_>, id: i64) -> Result<JobState, Fault> {
        let lane = self.lane(conn, row.get(2)?)?;
        let written: i64 = row.get(3)?;
        let status = shown(written);
        let history: Option<String> = row.get(11)?;
        let history = history.as_deref();
        let created_at = Timestamp(row.get(0)?);
        Ok(JobState {
            job_id: self.job_id(id, created_at),
            process_id: id_of(&row.get::<_, Vec<u8>>(1)?)?,
            kind: lane.kind.clone(),
            item_id: row.get(8)?,
            status,
            priority: small(row.get(4)?),
            step: lane.step,
            attempts: u32::try_from(row.get::<_, i64>(5)?).unwrap_or(u32::MAX),
            crashes: small(row.get(6)?),
            created_at,
            due_at: match written {
                rows::WAITING | rows::PENDING | rows::HELD => Some(Timestamp(row.get(7)?)),
                _ => None,
            },
            result: json(row.get(10)?)?,
            error: rows::error(written, row.get::<_, Option<String>>(9)?.as_deref()),
            errors: history.map_or_else(Vec::new, AttemptError::in_history),
            time: history.and_then(|text| ItemTime::in_history(text, created_at)),
            receipt: if status.is_final() {
                Some(JobReceipt {
                    job: id,
                    claim: row.get(12)?,
                })
            } else {
                None
            },
            children: if status.is_final() {
                None
            } else {
                children(conn, id)?
            },
        })
    }

    pub(super) fn read_outcomes(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.read(|conn| {
            let Some(no) = process_no(conn, process)? else {
                return Ok(Vec::new());
            };
            let mut read = conn.prepare_cached(PEEK)?;
            let before = key(no, 0) - 1;
            let start = after.map_or(before, |job| key_of(job).max(before));
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let mut found = read.query(params![start, key(no, MOST_JOBS - 1), limit])?;
            let (mut all, mut size) = (Vec::new(), 0);
            while let Some(row) = found.next()? {
                let delivery = self.delivery(conn, row, process)?;
                let result = delivery
                    .result
                    .result
                    .as_ref()
                    .map_or(0, |text| text.get().len());
                let error = row
                    .get_ref(8)?
                    .as_str_or_null()
                    .map_or(0, |text| text.map_or(0, str::len));
                size += result + error;
                if size > bytes && !all.is_empty() {
                    break;
                }
                all.push(delivery);
            }
            Ok(all)
        })
    }

    fn delivery(
        &self,
        conn: &Connection,
        row: &Row<'_>,
        process_id: ProcessId,
    ) -> Result<DeliveredResult, Fault> {
        let id = row.get(0)?;
        let lane: Arc<JobLane> = self.lane(conn, row.get(4)?)?;
        let status: i64 = row.get(2)?;
        Ok(DeliveredResult {
            receipt: JobReceipt {
                job: id,
                claim: row.get(1)?,
            },
            result: JobResult {
                job_id: self.job_id(id, Timestamp(row.get(3)?)),
                process_id,
                item_id: row.get(6)?,
                request_hash: row.get(7)?,
                kind: lane.kind.clone(),
                status: shown(status),
                result: json(row.get(9)?)?,
                error: rows::error(status, row.get_ref(8)?.as_str_or_null().ok().flatten()),
                attempts: u32::try_from(row.get::<_, i64>(5)?).unwrap_or(u32::MAX),
            },
        })
    }

    pub(super) fn delete_outcomes(
        &self,
        receipts: &[JobReceipt],
        now: Timestamp,
    ) -> Result<u64, Error> {
        if receipts.is_empty() {
            return Ok(0);
        }
        self.write(Sync::AsSet, |conn| {
            let mut jobs = conn.prepare_cached(
                formatcp!("DELETE FROM jobs WHERE id = ?1 AND claim = ?2 AND status >= {COMPLETED} RETURNING has_history"),
            )?;
            let mut payloads = conn.prepare_cached("DELETE FROM payloads WHERE job = ?1")?;
            let mut results = conn.prepare_cached("DELETE FROM results WHERE job = ?1")?;
            let mut histories = conn.prepare_cached("DELETE FROM histories WHERE job = ?1")?;
            let mut changes = CounterChanges::default();
            let mut gone = Vec::with_capacity(receipts.len());
            let families = lineage::any(conn)?;
            for receipt in receipts {
                if families {
                    lineage::are_hosts(conn, process_of(receipt.job))?;
                }
                let deleted = jobs.query_row([receipt.job, receipt.claim], |row| row.get(0));
                let Some(has_history) = deleted.optional()? else { continue };
                payloads.execute([receipt.job])?;
                results.execute([receipt.job])?;
                if has_history {
                    histories.execute([receipt.job])?;
                }
                changes.consumed(receipt.job);
                gone.push(receipt.job);
            }
            changes.write(conn, now)?;
            if families {
                for job in &gone {
                    lineage::job_ended(conn, *job, Ended::ForGood, now)?;
                }
            }
            changes.drop_empty(conn)?;
            Ok(gone.len() as u64)
        })
    }
}

pub(super) const PEEK: &str = formatcp!(
    "SELECT j.id, j.claim, j.status, j.created_at, j.lane, j.calls, \
     p.item_id, p.request_hash, r.error, r.body \
     FROM jobs j INDEXED BY jobs_with_outcome CROSS JOIN payloads p ON p.job = j.id \
     LEFT JOIN results r ON r.job = j.id \
     WHERE j.id > ?1 AND j.id <= ?2 AND j.status >= {COMPLETED} ORDER BY j.id LIMIT ?3"
);

fn json(text: Option<String>) -> Result<Option<Box<RawValue>>, Fault> {
    let json = text.map(RawValue::from_string).transpose();
    json.map_err(|_| Fault::Odd("a result that is not JSON"))
}

impl ResultStore for SqliteStore {
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.read_outcomes(process, after, most, bytes)
    }

    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error> {
        self.delete_outcomes(receipts, now)
    }

    fn lock_results(&self, process: ProcessId, who: &str) -> Result<Box<dyn ConsumerLock>, Error> {
        self.lock_outcomes(process, who)
    }

    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.cancel_process(process, now)
    }

    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        self.cancel_waiting(jobs, now)
    }

    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.retry_process(process, now)
    }

    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.delete_process(process, now)
    }
}
