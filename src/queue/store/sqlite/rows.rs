//! How rows are read: states as numbers, keys within ids, lanes, processes.

use std::sync::Arc;
use std::time::Duration;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::engine::time_split::TimeSplit;
use crate::queue::job::{JobCounts, JobStatus, ProcessState, Spent};
use crate::queue::process_time::ProcessTime;
use crate::queue::store::JobLane;

use super::SqliteStore;
use super::writer::Fault;

/// Not to be claimed before what it waits for has come about; shown as pending.
pub(super) const WAITING: i64 = -1;
pub(super) const PENDING: i64 = 0;
/// Not to be claimed before its process is sealed; shown as pending.
pub(super) const HELD: i64 = 1;
pub(super) const IN_PROGRESS: i64 = 2;
pub(super) const AT_PROVIDER: i64 = 3;
pub(super) const COMPLETED: i64 = 4;
pub(super) const FAILED: i64 = 5;
pub(super) const CANCELLED: i64 = 6;

/// Nothing is being done to all jobs of a process; below, what is, in one short transaction after the other.
pub(super) const NO_CHORE: i64 = 0;
pub(super) const RELEASING: i64 = 1;
pub(super) const CANCELLING: i64 = 2;
pub(super) const RETRYING: i64 = 3;
pub(super) const DELETING: i64 = 4;

/// Jobs that a process may have had, and processes that a database may have had.
pub(super) const MOST_JOBS: i64 = 1 << 32;
pub(super) const MOST_PROCESSES: i64 = 1 << 30;

pub(super) fn shown(status: i64) -> JobStatus {
    match status {
        COMPLETED => JobStatus::Completed,
        FAILED => JobStatus::Failed,
        CANCELLED => JobStatus::Cancelled,
        IN_PROGRESS | AT_PROVIDER => JobStatus::InProgress,
        _ => JobStatus::Pending,
    }
}

/// The key of a job: its process and its place in it.
pub(super) fn key(process: i64, seq: i64) -> i64 {
    process << 32 | seq
}

/// The process that a job belongs to.
pub(super) fn process_of(job: i64) -> i64 {
    job >> 32
}

/// A UUID (version 7) that holds when the job was created, the database's salt and the job's key: it
/// needs neither a column nor an index.
pub(super) fn job_id(key: i64, created_at: Timestamp, salt: u16) -> JobId {
    let head = stamp(created_at) << 16 | 0x7000 | u64::from(salt & 0xfff);
    JobId(Uuid::from_u64_pair(head, 1 << 63 | key.cast_unsigned()))
}

/// The key within an id.
pub(super) fn key_of(id: JobId) -> i64 {
    (id.0.as_u64_pair().1 & ((1 << 62) - 1)).cast_signed()
}

fn stamp(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0) & ((1 << 48) - 1)
}

/// Number as SQLite keeps it; absurd ones end at the largest that two of can be added.
pub(super) fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn small(number: i64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

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

pub(super) const PROCESS_COLUMNS: &str = "id, sealed, cancelled, total, pending, in_progress, at_provider, \
     completed, failed, cancelled_jobs, consumed, input_tokens, output_tokens, cost_usd, unpriced, \
     created_at, changed_at, info, ifnull(time_since, created_at), ifnull(time_until, created_at), \
     time_limited_by, queued_ms, quota_ms, cooldown_ms, backoff_ms, provider_ms, disk_ms, source_ms";

/// The first of the columns that [`process_time`] reads, in [`PROCESS_COLUMNS`].
const TIME_COLUMNS: usize = 18;

pub(super) fn process(row: &Row<'_>) -> rusqlite::Result<ProcessState> {
    let bytes: Vec<u8> = row.get(0)?;
    let number = |at: usize| -> rusqlite::Result<u64> { Ok(count(row.get(at)?)) };
    let total = number(3)?;
    let unpriced: i64 = row.get(14)?;
    let info: Option<String> = row.get(17)?;
    Ok(ProcessState {
        process_id: ProcessId(Uuid::from_slice(&bytes).unwrap_or_default()),
        sealed: number(1)? == total,
        cancelled: row.get(2)?,
        counts: JobCounts {
            total,
            pending: number(4)?,
            in_progress: number(5)?,
            at_provider: number(6)?,
            completed: number(7)?,
            failed: number(8)?,
            cancelled: number(9)?,
            consumed: number(10)?,
        },
        spent: Spent {
            input_tokens: number(11)?,
            output_tokens: number(12)?,
            cost_usd: if unpriced == 0 {
                Some(row.get(13)?)
            } else {
                None
            },
        },
        created_at: Timestamp(row.get(15)?),
        changed_at: Timestamp(row.get(16)?),
        // What cannot be read is not worth losing sight of the process for.
        info: info
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
        time: process_time(row, TIME_COLUMNS)?,
    })
}

/// Where the time of a process went, from ten columns.
fn process_time(row: &Row<'_>, first: usize) -> rusqlite::Result<ProcessTime> {
    let mut time = ProcessTime::new(Timestamp(row.get(first)?));
    time.until = Timestamp(row.get(first + 1)?);
    let limited_by: Option<String> = row.get(first + 2)?;
    let split = &mut time.split;
    let parts = [
        &mut split.queued,
        &mut split.quota,
        &mut split.cooldown,
        &mut split.backoff,
        &mut split.provider,
        &mut split.disk,
        &mut split.source,
    ];
    for (at, part) in parts.into_iter().enumerate() {
        *part = Duration::from_millis(count(row.get(first + 3 + at)?));
    }
    let known = split.named().map(|(name, _)| name);
    let limited_by = known
        .into_iter()
        .find(|name| Some(*name) == limited_by.as_deref());
    time.limited_by = limited_by.unwrap_or(time.limited_by);
    Ok(time)
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
    let found = read.query_row([no], |row| process_time(row, TIME_COLUMNS));
    let Some(mut time) = found.optional()? else {
        return Ok(());
    };
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

/// An outcome's error: what was written, and for a cancelled job that it was.
pub(super) fn error(status: i64, written: Option<&str>) -> Option<Error> {
    match (status, written) {
        (CANCELLED, _) => Some(Error::cancelled()),
        (_, written) => serde_json::from_str(written?).ok(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_the_key_and_sorts_by_time() {
        let keys = [0, 1, key(1, 0), key(MOST_PROCESSES - 1, MOST_JOBS - 1)];
        for key in keys {
            let id = job_id(key, Timestamp(1_763_000_000_000), 0xabc);
            assert_eq!(key_of(id), key);
            assert_eq!(id.0.get_version_num(), 7);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
        }
        assert!(job_id(9, Timestamp(1), 0) < job_id(1, Timestamp(2), 0));
        assert_ne!(job_id(1, Timestamp(1), 0), job_id(1, Timestamp(1), 1));
    }
}
