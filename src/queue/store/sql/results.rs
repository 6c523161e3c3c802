//! Looking at processes, jobs and outcomes, and deleting outcomes that were saved elsewhere.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use const_format::formatcp;
use rusqlite::types::Value;
use serde_json::value::RawValue;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::engine::item_time::ItemTime;
use crate::queue::job::{AttemptError, JobCounts, JobResult, JobState, ProcessState, QueueTotals};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{
    self, COMPLETED, DELETING, MOST_JOBS, PROCESS_COLUMNS, bounded, count, key, key_of, process_of,
    shown, small,
};
use crate::queue::store::{ConsumerLock, DeliveredResult, JobLane, JobReceipt, ResultStore};

use super::lineage::{self, Ended};
use super::standing::lock;
use super::statements::{Dialect, Fault, Queries as _, Row, Statements, by, id_of, limit, stored};
use super::{Again, SqlStore, chores, items};

/// Where the jobs of several processes stand. Sums that do not fit an integer are no error.
const SUMS: &str = "IFNULL(SUM(total + 0e0), 0), IFNULL(SUM(pending + 0e0), 0), \
     IFNULL(SUM(in_progress + 0e0), 0), IFNULL(SUM(at_provider + 0e0), 0), IFNULL(SUM(completed + 0e0), 0), \
     IFNULL(SUM(failed + 0e0), 0), IFNULL(SUM(cancelled_jobs + 0e0), 0), IFNULL(SUM(consumed + 0e0), 0)";

/// What [`SUMS`] has read.
fn sums(row: &mut Row) -> Result<JobCounts, Fault> {
    let mut sum = |at: usize| -> Result<u64, Fault> { Ok(row.at::<f64>(at)? as u64) };
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

impl<S: SqlStore> ResultStore for S {
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        read_outcomes(self, process, after, most, bytes)
    }

    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error> {
        delete_outcomes(self, receipts, now)
    }

    fn lock_results(&self, process: ProcessId, who: &str) -> Result<Box<dyn ConsumerLock>, Error> {
        self.lock_outcomes(process, who)
    }

    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        chores::cancel_process(self, process, now)
    }

    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        items::cancel_waiting(self, jobs, now)
    }

    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        chores::retry_process(self, process, now)
    }

    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        chores::delete_process(self, process, now)
    }
}

/// Outcomes that are read at a time.
#[cfg(feature = "mysql")]
const READ_AT_ONCE: usize = 256;

fn select_processes(
    store: &impl SqlStore,
    which: &str,
    by: Vec<Value>,
) -> Result<Vec<ProcessState>, Error> {
    let sql = format!("SELECT {PROCESS_COLUMNS} FROM #processes WHERE chore <> {DELETING} {which}");
    store.read(|tx| {
        let rows = tx.rows(&sql, by.clone())?;
        rows.into_iter()
            .map(|mut row| rows::process(&mut row))
            .collect()
    })
}

pub(super) fn read_process(
    store: &impl SqlStore,
    id: ProcessId,
) -> Result<Option<ProcessState>, Error> {
    Ok(select_processes(store, "AND id = ?", by![stored(id)])?.pop())
}

pub(super) fn read_processes(store: &impl SqlStore) -> Result<Vec<ProcessState>, Error> {
    select_processes(store, "ORDER BY no", Vec::new())
}

pub(super) fn read_changed(
    store: &impl SqlStore,
    since: Timestamp,
) -> Result<Vec<ProcessState>, Error> {
    select_processes(store, "AND changed_at >= ? ORDER BY no", by![since.0])
}

pub(super) fn read_ids(store: &impl SqlStore) -> Result<HashSet<ProcessId>, Error> {
    store.read(|tx| {
        let sql = format!("SELECT id FROM #processes WHERE chore <> {DELETING}");
        let ids: Vec<Vec<u8>> = tx.column(&sql, Vec::new())?;
        ids.iter().map(|id| id_of(id)).collect()
    })
}

pub(super) fn read_newest(
    store: &impl SqlStore,
    before: Option<u64>,
    most: usize,
) -> Result<Vec<(u64, ProcessState)>, Error> {
    let before = before.map_or(i64::MAX, bounded);
    let sql = format!(
        "SELECT no, {PROCESS_COLUMNS} FROM #processes WHERE no < ? AND chore <> {DELETING}
         ORDER BY no DESC LIMIT ?"
    );
    store.read(|tx| {
        let rows = tx.rows(&sql, by![before, limit(most)])?;
        let newest = rows.into_iter().map(|mut row| {
            let no = row.at(0)?;
            Ok((count(no), rows::process(&mut row.behind(1))?))
        });
        newest.collect()
    })
}

pub(super) fn read_totals(store: &impl SqlStore) -> Result<QueueTotals, Error> {
    store.read(|tx| {
        let sql = format!(
            "SELECT {SUMS}, COUNT(*),
               IFNULL(SUM(sealed < total OR pending + in_progress + at_provider > 0), 0)
             FROM #processes WHERE chore <> {DELETING}"
        );
        let Some(mut row) = tx.first(&sql, Vec::new())? else {
            return Ok(QueueTotals::default());
        };
        Ok(QueueTotals {
            jobs: sums(&mut row)?,
            processes: count(row.at(8)?),
            open: count(row.at(9)?),
        })
    })
}

pub(super) fn read_lanes(
    store: &impl SqlStore,
    process: ProcessId,
) -> Result<Vec<Arc<JobLane>>, Error> {
    store.read(|tx| {
        let Some(no) = tx.process_no(process)? else {
            return Ok(Vec::new());
        };
        let lanes: Vec<i64> = tx.column(
            "SELECT DISTINCT lane FROM
               (SELECT lane FROM #jobs WHERE id >= ? AND id <= ? ORDER BY id LIMIT 1000) AS first",
            by![key(no, 0), key(no, MOST_JOBS - 1)],
        )?;
        lanes.into_iter().map(|no| store.lane(tx, no)).collect()
    })
}

pub(super) fn read_job(store: &impl SqlStore, job: JobId) -> Result<Option<JobState>, Error> {
    let id = key_of(job);
    let sql = format!(
        "SELECT children.*, j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes,
           j.visible_at, b.item_id, r.error, r.body, h.body, j.claim
         FROM (SELECT {SUMS} FROM #processes WHERE parent = ? AND chore <> {DELETING}) children
           CROSS JOIN #jobs j CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
           CROSS JOIN #payloads b ON b.job = j.id LEFT JOIN #results r ON r.job = j.id
           LEFT JOIN #histories h ON h.job = j.id AND j.has_history <> 0
         WHERE j.id = ? AND p.chore <> {DELETING}"
    );
    // One statement reads a consistent state. Clients poll states often, and a transaction would add four
    // statements.
    store.read(|tx| {
        let Some(mut row) = tx.first(&sql, by![id, id])? else {
            return Ok(None);
        };
        let state = job_state(store, tx, &mut row, id)?;
        // The rest of the id has to fit too: it may be one of another database.
        Ok((state.job_id == job).then_some(state))
    })
}

fn job_state(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    row: &mut Row,
    id: i64,
) -> Result<JobState, Fault> {
    // The sums of its child jobs come first.
    let children = sums(row)?;
    let lane = store.lane(tx, row.at(10)?)?;
    let written: i64 = row.at(11)?;
    let status = shown(written);
    let history: Option<String> = row.at(19)?;
    let history = history.as_deref();
    let created_at = Timestamp(row.at(8)?);
    let claim = row.at(20)?;
    Ok(JobState {
        job_id: store.job_id(id, created_at),
        process_id: id_of(&row.at::<Vec<u8>>(9)?)?,
        kind: lane.kind.clone(),
        item_id: row.at(16)?,
        status,
        priority: small(row.at(12)?),
        step: lane.step,
        attempts: u32::try_from(row.at::<i64>(13)?).unwrap_or(u32::MAX),
        crashes: small(row.at(14)?),
        created_at,
        due_at: match written {
            rows::WAITING | rows::PENDING | rows::HELD => Some(Timestamp(row.at(15)?)),
            _ => None,
        },
        result: json(row.at(18)?)?,
        error: rows::error(written, row.at::<Option<String>>(17)?.as_deref()),
        errors: history.map_or_else(Vec::new, AttemptError::in_history),
        time: history.and_then(|text| ItemTime::in_history(text, created_at)),
        receipt: status.is_final().then_some(JobReceipt { job: id, claim }),
        children: (!status.is_final() && children.total > 0).then_some(children),
    })
}

/// What [`delivery`] reads.
const OUTCOME: &str = "j.id, j.claim, j.status, j.created_at, j.lane, j.calls, \
     p.item_id, p.request_hash, r.error, r.body";

/// Outcomes in SQLite, of which those that are not wanted are not read.
pub(crate) const PEEK: &str = formatcp!(
    "SELECT {OUTCOME}
     FROM jobs j INDEXED BY jobs_with_outcome CROSS JOIN payloads p ON p.job = j.id
       LEFT JOIN results r ON r.job = j.id
     WHERE j.id > ? AND j.id <= ? AND j.status >= {COMPLETED} ORDER BY j.id LIMIT ?"
);

/// Keys of jobs that have ended, and bytes of their outcomes. The index has one range of keys for each status.
#[cfg(feature = "mysql")]
fn ended_in_mysql(start: i64, end: i64, few: usize) -> String {
    let of = |status: i64| {
        format!(
            "(SELECT id FROM #jobs FORCE INDEX (by_status)
              WHERE status = {status} AND id > {start} AND id <= {end} ORDER BY id LIMIT {few})"
        )
    };
    let parts = [COMPLETED, rows::FAILED, rows::CANCELLED];
    let parts = parts.map(of).join(" UNION ALL ");
    format!(
        "SELECT o.id, IFNULL(OCTET_LENGTH(r.error), 0) + IFNULL(OCTET_LENGTH(r.body), 0)
         FROM ({parts} ORDER BY id LIMIT {few}) AS o LEFT JOIN #results r ON r.job = o.id ORDER BY o.id"
    )
}

fn read_outcomes(
    store: &impl SqlStore,
    process: ProcessId,
    after: Option<JobId>,
    most: usize,
    bytes: usize,
) -> Result<Vec<DeliveredResult>, Error> {
    store.read_moment(|tx| {
        let Some(no) = tx.process_no(process)? else {
            return Ok(Vec::new());
        };
        let before = key(no, 0) - 1;
        let start = after.map_or(before, |job| key_of(job).max(before));
        let end = key(no, MOST_JOBS - 1);
        let rows = match tx.dialect() {
            Dialect::Sqlite => outcomes_in_sqlite(tx, start, end, most, bytes)?,
            #[cfg(feature = "mysql")]
            Dialect::Mysql => outcomes_in_mysql(tx, start, end, most, bytes)?,
        };
        rows.into_iter()
            .map(|row| delivery(store, tx, row, process))
            .collect()
    })
}

fn outcomes_in_sqlite(
    tx: &mut dyn Statements,
    start: i64,
    end: i64,
    most: usize,
    bytes: usize,
) -> Result<Vec<Row>, Fault> {
    let (mut rows, mut size) = (Vec::new(), 0);
    tx.each(PEEK, by![start, end, limit(most)], &mut |row| {
        size += row.bytes(8) + row.bytes(9);
        let is_wanted = size <= bytes || rows.is_empty();
        if is_wanted {
            rows.push(row);
        }
        Ok(is_wanted)
    })?;
    Ok(rows)
}

/// Reads keys and sizes first: the server sends a whole result, and what is not wanted is not sent.
#[cfg(feature = "mysql")]
fn outcomes_in_mysql(
    tx: &mut dyn Statements,
    mut start: i64,
    end: i64,
    most: usize,
    bytes: usize,
) -> Result<Vec<Row>, Fault> {
    let (mut all, mut size) = (Vec::new(), 0);
    loop {
        let few = READ_AT_ONCE.min(most - all.len());
        let found = tx.rows_once(&ended_in_mysql(start, end, few))?;
        let is_last = found.len() < few;
        let (mut ids, mut is_full) = (Vec::new(), false);
        for mut row in found {
            size += usize::try_from(row.at::<i64>(1)?).unwrap_or(usize::MAX);
            if size > bytes && !(all.is_empty() && ids.is_empty()) {
                is_full = true;
                break;
            }
            ids.push(row.at::<i64>(0)?);
        }
        if let Some(last) = ids.last() {
            start = *last;
            let read = formatcp!(
                "SELECT {OUTCOME}
                 FROM #jobs j JOIN #payloads p ON p.job = j.id LEFT JOIN #results r ON r.job = j.id
                 WHERE j.id IN :list ORDER BY j.id"
            );
            all.extend(tx.rows_in(read, &ids)?);
        }
        if is_last || is_full || all.len() >= most {
            return Ok(all);
        }
    }
}

fn delivery(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    mut row: Row,
    process_id: ProcessId,
) -> Result<DeliveredResult, Fault> {
    let id = row.at(0)?;
    let lane: Arc<JobLane> = store.lane(tx, row.at(4)?)?;
    let status: i64 = row.at(2)?;
    Ok(DeliveredResult {
        receipt: JobReceipt {
            job: id,
            claim: row.at(1)?,
        },
        result: JobResult {
            job_id: store.job_id(id, Timestamp(row.at(3)?)),
            process_id,
            item_id: row.at(6)?,
            request_hash: row.at(7)?,
            kind: lane.kind.clone(),
            status: shown(status),
            result: json(row.at(9)?)?,
            error: rows::error(status, row.at::<Option<String>>(8)?.as_deref()),
            attempts: u32::try_from(row.at::<i64>(5)?).unwrap_or(u32::MAX),
        },
    })
}

fn delete_outcomes(
    store: &impl SqlStore,
    receipts: &[JobReceipt],
    now: Timestamp,
) -> Result<u64, Error> {
    if receipts.is_empty() {
        return Ok(0);
    }
    // A job may be among them under several claims.
    let claims: HashSet<(i64, i64)> = receipts
        .iter()
        .map(|receipt| (receipt.job, receipt.claim))
        .collect();
    let jobs: BTreeSet<i64> = claims.iter().map(|(job, _)| *job).collect();
    let jobs: Vec<i64> = jobs.into_iter().collect();
    let mut deleted = 0;
    // All of them in one transaction: who asks has saved all of them, or none.
    store.write(Again::Harmless, |tx| {
        deleted = 0;
        let families = lineage::any(tx)?;
        if families {
            lineage::are_hosts(tx, jobs.iter().map(|job| process_of(*job)))?;
        }
        let sql = formatcp!(
            "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN :list AND status >= {COMPLETED} ORDER BY id FOR UPDATE"
        );
        let mut gone = Vec::new();
        for mut row in tx.rows_in(sql, &jobs)? {
            let (id, claim): (i64, i64) = (row.at(0)?, row.at(1)?);
            if claims.contains(&(id, claim)) {
                gone.push(id);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let mut heirs = Vec::new();
        if families {
            for job in &gone {
                heirs.push(lineage::heirs(tx, *job, Ended::ForGood)?);
            }
        }
        let below = heirs
            .iter()
            .flat_map(|heirs| heirs.families.iter().flatten());
        let wanted: Vec<i64> = gone
            .iter()
            .map(|job| process_of(*job))
            .chain(below.copied())
            .collect();
        lock(tx, wanted)?;
        for rows in [
            "#payloads WHERE job IN :list",
            "#results WHERE job IN :list",
            "#histories WHERE job IN :list",
            "#jobs WHERE id IN :list",
        ] {
            tx.run_in(&format!("DELETE FROM {rows}"), &gone)?;
        }
        let mut changes = CounterChanges::default();
        for job in &gone {
            changes.consumed(*job);
        }
        tx.count(&changes, now)?;
        for heirs in &heirs {
            lineage::job_ended(tx, heirs, now)?;
        }
        let empty =
            "DELETE FROM #processes WHERE no IN :list AND consumed = total AND sealed = total";
        let numbers: Vec<i64> = changes.0.keys().copied().collect();
        tx.run_in(empty, &numbers)?;
        deleted = gone.len() as u64;
        Ok(())
    })?;
    Ok(deleted)
}

fn json(text: Option<String>) -> Result<Option<Box<RawValue>>, Fault> {
    let json = text.map(RawValue::from_string).transpose();
    json.map_err(|_| Fault::Odd("a result that is not JSON"))
}
