//! Reading outcomes of jobs, and deleting those that were saved elsewhere.

use std::collections::{BTreeSet, HashSet};

use const_format::formatcp;

use super::chores::delete_rows;
use super::counters::CounterChanges;
use super::lineage::{delete_below, lock};
use super::rows::{self, COMPLETED, key_of, keys_after, process_no, process_of, shown};
use super::statements::{Fault, Queries as _, Row, Sql, all, by, limit, read_all};
use super::{ConsumerLock, Db, JobReceipt, Mode, Store};
use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::job::JobResult;

/// An outcome that was read, with the receipt that acknowledges it once it is saved.
#[derive(Debug)]
pub struct DeliveredResult {
    /// The receipt.
    pub receipt: JobReceipt,
    /// The outcome.
    pub result: JobResult,
}

impl Store {
    /// Up to `most` outcomes of a process in the order of its jobs, after the job `after`, which need not exist any
    /// more, with about `bytes` bytes at most; at least one if there is any.
    pub fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.run(Mode::Moment, |tx| {
            let Some(no) = process_no(tx, process)? else {
                return Ok(Vec::new());
            };
            let keys = keys_after(no, after.map(key_of));
            let rows = outcomes(tx, keys, most, bytes)?.into_iter();
            rows.map(|row| delivery(self, tx, row, process)).collect()
        })
    }

    /// Deletes these outcomes, except of jobs that were requeued since. A sealed process is removed with its last
    /// outcome. Returns the number of deleted outcomes.
    pub fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error> {
        if receipts.is_empty() {
            return Ok(0);
        }
        let known: HashSet<&JobReceipt> = receipts.iter().collect();
        let jobs: BTreeSet<i64> = receipts.iter().map(|receipt| receipt.job).collect();
        let jobs: Vec<i64> = jobs.into_iter().collect();
        // All of them in one transaction, because the caller has saved all of them or none.
        self.write(|tx| {
            // A parent job collects those of its children.
            let numbers: BTreeSet<i64> = jobs.iter().map(|job| process_of(*job)).collect();
            let numbers: Vec<i64> = numbers.into_iter().collect();
            let child =
                "SELECT id FROM #processes WHERE no IN :list AND parent IS NOT NULL LIMIT 1";
            if let Some(id) = tx.one::<ProcessId>(child, by![all(&numbers)])? {
                let why = format!("a job waits for the results of process {id} and collects them");
                return Err(Error::new(ErrorKind::Invalid, why).into());
            }
            let sql = formatcp!(
                "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN :list AND status >= {COMPLETED} ORDER BY id FOR UPDATE"
            );
            let ended: Vec<JobReceipt> = tx.many(sql, by![all(&jobs)])?;
            let gone = ended.iter().filter(|end| known.contains(end));
            let gone: Vec<i64> = gone.map(|end| end.job).collect();
            if gone.is_empty() {
                return Ok(0);
            }
            lock(tx, gone.iter().map(|job| process_of(*job)))?;
            delete_below(tx, &gone)?;
            delete_rows(tx, &gone)?;
            let mut changes = CounterChanges::default();
            for job in &gone {
                changes.consumed(*job);
            }
            changes.write(tx, now)?;
            let empty =
                "DELETE FROM #processes WHERE no IN :list AND consumed = total AND sealed = total";
            tx.run(empty, by![all(&numbers)])?;
            Ok(gone.len() as u64)
        })
    }

    /// Makes the caller the only consumer of the outcomes of a process on this machine, until the returned value is
    /// dropped or the caller's OS process ends. Fails if another program has the lock. `None` in a store that machines
    /// share.
    pub(crate) fn lock_results(&self, process: ProcessId) -> Result<Option<ConsumerLock>, Error> {
        match &self.db {
            Db::Sqlite(db) => db.lock_results(process).map(Some),
            #[cfg(feature = "mysql")]
            Db::Mysql(_) => Ok(None),
        }
    }
}

/// Keys of ended jobs, and bytes of their outcomes, in SQLite.
pub(crate) const ENDED: &str = formatcp!(
    "SELECT j.id, IFNULL(OCTET_LENGTH(r.error), 0) + IFNULL(OCTET_LENGTH(r.body), 0)
     FROM jobs j INDEXED BY jobs_with_outcome LEFT JOIN results r ON r.job = j.id
     WHERE j.id > ? AND j.id <= ? AND j.status >= {COMPLETED} ORDER BY j.id LIMIT ?"
);

/// The same on a server, whose index has one range of keys for each status.
fn ended_on_server(start: i64, end: i64, few: usize) -> String {
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

/// Reads keys and sizes first, because unwanted results would be read completely.
fn outcomes(
    tx: &mut dyn Sql,
    (start, end): (i64, i64),
    most: usize,
    bytes: usize,
) -> Result<Vec<Row>, Fault> {
    let ended = if tx.is_server() {
        tx.rows(&ended_on_server(start, end, most), by![])?
    } else {
        tx.rows(ENDED, by![start, end, limit(most)])?
    };
    let ids = within(read_all(ended)?, bytes);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let read = "SELECT j.id, j.claim, j.created_at, j.lane, j.status, p.item_id, p.request_hash, r.body, r.error, j.calls
         FROM #jobs j CROSS JOIN #payloads p ON p.job = j.id LEFT JOIN #results r ON r.job = j.id
         WHERE j.id IN :list ORDER BY j.id";
    tx.rows(read, by![all(&ids)])
}

/// The first of these keys whose sizes have about this sum; at least one.
pub(super) fn within(found: Vec<(i64, usize)>, bytes: usize) -> Vec<i64> {
    let mut sum = 0_usize;
    let fits = |(at, (_, size)): &(usize, (i64, usize))| {
        sum = sum.saturating_add(*size);
        *at == 0 || sum <= bytes
    };
    let found = found.into_iter().enumerate().take_while(fits);
    found.map(|(_, (id, _))| id).collect()
}

fn delivery(
    store: &Store,
    tx: &mut dyn Sql,
    mut row: Row,
    process_id: ProcessId,
) -> Result<DeliveredResult, Fault> {
    let receipt: JobReceipt = row.read()?;
    let job_id = store.job_id(receipt.job, row.read()?);
    let lane = store.lane(tx, row.read()?)?;
    let status = row.read()?;
    Ok(DeliveredResult {
        receipt,
        result: JobResult {
            job_id,
            process_id,
            item_id: row.read()?,
            request_hash: row.read()?,
            kind: lane.kind.clone(),
            status: shown(status),
            result: row.read()?,
            error: rows::error(status, row.read()?),
            attempts: row.read()?,
        },
    })
}
