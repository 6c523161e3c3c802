//! How rows are read: states as numbers, keys within ids, lanes, processes.

use std::sync::Arc;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::base::clock::Timestamp;
use crate::base::id::{JobId, ProcessId};
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;
use crate::queue::store::{JobLane, rows};

use super::SqliteStore;
use super::writer::Fault;

pub(super) use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, CANCELLING, COMPLETED, Columns, DELETING, FAILED, HELD, IN_PROGRESS,
    MOST_JOBS, MOST_PROCESSES, NO_CHORE, PENDING, PROCESS_COLUMNS, RELEASING, RETRYING, WAITING,
    bounded, count, error, job_id, key, key_of, process_of, shown, small,
};

pub(super) fn id_of(bytes: &[u8]) -> Result<ProcessId, Fault> {
    let uuid =
        Uuid::from_slice(bytes).map_err(|_| Fault::Odd("a process id of the wrong length"))?;
    Ok(ProcessId(uuid))
}

/// The number of a process that is not being deleted.
pub(super) fn process_no(conn: &Connection, id: ProcessId) -> Result<Option<i64>, Fault> {
    let mut find = conn.prepare_cached(formatcp!(
        "SELECT no FROM processes WHERE id = ?1 AND chore <> {DELETING}"
    ))?;
    Ok(find
        .query_row([&id.0.as_bytes()[..]], |row| row.get(0))
        .optional()?)
}

/// A row of SQLite.
struct Cells<'a, 'b>(&'a Row<'b>);

impl Columns for Cells<'_, '_> {
    type Fault = rusqlite::Error;

    fn int(&mut self, at: usize) -> rusqlite::Result<i64> {
        self.0.get(at)
    }

    fn real(&mut self, at: usize) -> rusqlite::Result<f64> {
        self.0.get(at)
    }

    fn text(&mut self, at: usize) -> rusqlite::Result<Option<String>> {
        self.0.get(at)
    }

    fn bytes(&mut self, at: usize) -> rusqlite::Result<Vec<u8>> {
        self.0.get(at)
    }
}

pub(super) fn process(row: &Row<'_>) -> rusqlite::Result<ProcessState> {
    rows::process(&mut Cells(row))
}

/// Adds what is told of a process's time.
pub(super) fn tell_time(
    conn: &Connection,
    no: i64,
    worked: &TimeSplit,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut read = conn.prepare_cached(formatcp!(
        "SELECT {PROCESS_COLUMNS} FROM processes WHERE no = ?1"
    ))?;
    let Some(process) = read.query_row([no], process).optional()? else {
        return Ok(());
    };
    let mut time = process.time;
    time.tell(worked, now);
    let millis = time
        .split
        .named()
        .map(|(_, part)| bounded(part.as_millis() as u64));
    let [queued, quota, cooldown, backoff, provider, disk, source] = millis;
    let mut write = conn.prepare_cached(
        "UPDATE processes SET time_since = ?2, time_until = ?3, time_limited_by = ?4, queued_ms = ?5,
           quota_ms = ?6, cooldown_ms = ?7, backoff_ms = ?8, provider_ms = ?9, disk_ms = ?10, source_ms = ?11
         WHERE no = ?1",
    )?;
    let (since, until) = (time.since.0, time.until.0);
    write.execute(params![
        no,
        since,
        until,
        time.limited_by,
        queued,
        quota,
        cooldown,
        backoff,
        provider,
        disk,
        source
    ])?;
    Ok(())
}

/// The number of a lane, which begins to exist when first asked for.
pub(super) fn lane_no(
    conn: &Connection,
    kind: &str,
    name: Option<&str>,
    step: u8,
) -> Result<i64, Fault> {
    let mut find = conn.prepare_cached(
        "SELECT no FROM lanes WHERE kind = ?1 AND ifnull(name, x'') = ifnull(?2, x'') AND step = ?3",
    )?;
    let lane = params![kind, name, step];
    if let Some(no) = find.query_row(lane, |row| row.get(0)).optional()? {
        return Ok(no);
    }
    conn.prepare_cached("INSERT INTO lanes (kind, name, step) VALUES (?1, ?2, ?3)")?
        .execute(lane)?;
    Ok(conn.last_insert_rowid())
}

impl SqliteStore {
    /// A lane by its number. Numbers are never used twice, so what was read once stays true.
    pub(super) fn lane(&self, conn: &Connection, no: i64) -> Result<Arc<JobLane>, Fault> {
        if let Some(lane) = self.lanes.lock().get(&no) {
            return Ok(lane.clone());
        }
        let mut find = conn.prepare_cached("SELECT kind, name, step FROM lanes WHERE no = ?1")?;
        let lane = Arc::new(find.query_row([no], |row| {
            Ok(JobLane {
                kind: row.get(0)?,
                name: row.get(1)?,
                step: small(row.get(2)?),
            })
        })?);
        let mut lanes = self.lanes.lock();
        if lanes.len() >= 10_000 {
            lanes.clear();
        }
        lanes.insert(no, lane.clone());
        Ok(lane)
    }

    pub(super) fn job_id(&self, key: i64, created_at: Timestamp) -> JobId {
        job_id(key, created_at, self.salt)
    }
}
