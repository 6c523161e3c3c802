//! Reading and writing rows of processes.

use const_format::formatcp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;
use crate::queue::store::rows;
use crate::queue::store::sql::statements::{Fault, Row};

pub(super) use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, CANCELLING, COMPLETED, DELETING, FAILED, HELD, IN_PROGRESS, NO_CHORE,
    PENDING, PROCESS_COLUMNS, RELEASING, WAITING, bounded, count, job_budget, process_of, small,
};

/// The process in a row of [`PROCESS_COLUMNS`].
pub(super) fn process(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<ProcessState, Fault>> {
    let cells = (0..row.as_ref().column_count()).map(|at| row.get(at));
    let cells = cells.collect::<Result<Vec<Value>, _>>()?;
    Ok(rows::process(&mut Row::new(cells)))
}

/// Adds a report to a process's time.
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
    let mut time = process?.time;
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
