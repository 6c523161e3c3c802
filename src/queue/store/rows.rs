//! Parts that all database stores share: states as numbers, keys within ids, reading rows.

use uuid::Uuid;

use crate::base::{Error, JobId, ProcessId, Timestamp, Usd};
use crate::queue::info::ProcessBudget;
use crate::queue::job::{JobCounts, JobReceipt, JobStatus, ProcessState, Spent};

use super::statements::{Fault, FromRow, Queries as _, Row, Sql, by, columns, stored};

pub(super) const PENDING: i64 = 0;
/// Cannot be claimed until its process is sealed; shown as pending.
pub(super) const HELD: i64 = 1;
pub(super) const IN_PROGRESS: i64 = 2;
pub(super) const AT_PROVIDER: i64 = 3;
pub(super) const COMPLETED: i64 = 4;
pub(super) const FAILED: i64 = 5;
pub(super) const CANCELLED: i64 = 6;

/// No chore changes all jobs of a process; the constants below are the chores, which run in short transactions.
pub(super) const NO_CHORE: i64 = 0;
pub(super) const RELEASING: i64 = 1;
pub(super) const CANCELLING: i64 = 2;
pub(super) const DELETING: i64 = 3;

/// Maximum number of jobs of a process, and of processes of a database.
pub(super) const MOST_JOBS: i64 = 1 << 32;
pub(super) const MOST_PROCESSES: i64 = 1 << 30;

/// The limit of sums, so that three of them can be added.
pub(super) const MOST: i64 = i64::MAX / 4;

pub(super) fn shown(status: i64) -> JobStatus {
    match status {
        COMPLETED => JobStatus::Completed,
        FAILED => JobStatus::Failed,
        CANCELLED => JobStatus::Cancelled,
        IN_PROGRESS | AT_PROVIDER => JobStatus::InProgress,
        _ => JobStatus::Pending,
    }
}

/// The key of a job: its process and its index there.
pub(super) fn key(process: i64, seq: i64) -> i64 {
    process << 32 | seq
}

/// The process that a job belongs to.
pub(super) fn process_of(job: i64) -> i64 {
    job >> 32
}

/// A UUID (version 7) that contains the creation time of the job, the database's salt and the job's key, so it needs
/// neither a column nor an index.
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

/// A number as databases store it, limited to half of the largest one, so that two of them can be added.
pub(super) fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

pub(super) const PROCESS_COLUMNS: &str = "id, sealed, cancelled, total, pending, in_progress, at_provider, \
     completed, failed, cancelled_jobs, consumed, input_tokens, output_tokens, cost_picos, unpriced, \
     created_at, changed_at, info, budget_limit, budget_used, budget_held, budget_needed, closed";

impl FromRow for ProcessState {
    fn from_row(row: &mut Row) -> Result<Self, Fault> {
        let (process_id, sealed, cancelled): (_, u64, _) = row.read()?;
        let counts: JobCounts = row.read()?;
        let spent = row.read()?;
        let (created_at, changed_at, info): (_, _, Option<String>) = row.read()?;
        Ok(Self {
            process_id,
            sealed: sealed == counts.total,
            cancelled,
            counts,
            spent,
            created_at,
            changed_at,
            // An unreadable description must not hide the process.
            info: info
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            budget: row.read()?,
        })
    }
}

columns!(JobCounts: total, pending, in_progress, at_provider, completed, failed, cancelled, consumed);

impl FromRow for Spent {
    fn from_row(row: &mut Row) -> Result<Self, Fault> {
        let (input_tokens, output_tokens, cost, unpriced) = row.read()?;
        Ok(Self {
            input_tokens,
            output_tokens,
            cost_usd: known_cost(cost, unpriced),
            unpriced,
        })
    }
}

columns!(JobReceipt: job, claim);

/// The cost of some calls, unless it is known of no call.
pub(super) fn known_cost(cost: Usd, unpriced: u64) -> Option<Usd> {
    (unpriced == 0 || cost > Usd::ZERO).then_some(cost)
}

/// The last five of [`PROCESS_COLUMNS`].
impl FromRow for Option<ProcessBudget> {
    fn from_row(row: &mut Row) -> Result<Self, Fault> {
        let (limit, used, held): (Option<_>, Usd, Usd) = row.read()?;
        let (needed, closed): (_, Option<bool>) = row.read()?;
        Ok(limit.map(|limit| ProcessBudget {
            limit,
            used: Usd::from_picos(used.picos().saturating_add(held.picos())),
            held,
            needed: closed.map(|_| needed),
        }))
    }
}

/// The stored error of an outcome; for a cancelled job, the cancellation.
pub(super) fn error(status: i64, written: Option<String>) -> Option<Error> {
    match status {
        CANCELLED => Some(Error::cancelled()),
        _ => serde_json::from_str(&written?).ok(),
    }
}

/// The number of a process that is not being deleted.
pub(super) fn process_no(tx: &mut dyn Sql, id: ProcessId) -> Result<Option<i64>, Fault> {
    tx.one(
        &format!("SELECT no FROM #processes WHERE id = ? AND chore <> {DELETING}"),
        by![stored(id)],
    )
}

/// The keys of the jobs of a process after a job, which need not exist: greater than the first, and up to the second.
pub(super) fn keys_after(process: i64, job: Option<i64>) -> (i64, i64) {
    let before = key(process, 0) - 1;
    let start = job.map_or(before, |job| job.max(before));
    (start, key(process, MOST_JOBS - 1))
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
