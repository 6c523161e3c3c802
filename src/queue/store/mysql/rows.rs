//! How rows are read: lanes and processes by their numbers, and the time of processes.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::queue::store::JobLane;

pub(super) use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, CANCELLING, COMPLETED, DELETING, FAILED, HELD, IN_PROGRESS, MOST_JOBS,
    MOST_PROCESSES, NO_CHORE, PENDING, PROCESS_COLUMNS, RELEASING, RETRYING, WAITING, bounded,
    count, error, job_id, key, key_of, process, process_of, shown, small,
};

use super::MysqlStore;
use super::writer::{Fault, Tx, by};

/// A process id as it is stored.
pub(super) fn stored(id: ProcessId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

pub(super) fn id_of(bytes: &[u8]) -> Result<ProcessId, Fault> {
    let uuid =
        Uuid::from_slice(bytes).map_err(|_| Fault::Odd("a process id of the wrong length"))?;
    Ok(ProcessId(uuid))
}

/// The number of a process that is not being deleted.
pub(super) fn process_no(tx: &mut Tx<'_>, id: ProcessId) -> Result<Option<i64>, Fault> {
    tx.one(
        &format!("SELECT no FROM #processes WHERE id = ? AND chore <> {DELETING}"),
        by![stored(id)],
    )
}

/// What tells a lane apart from all others, whatever its texts hold.
pub(super) fn hash(lane: &JobLane) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(lane.kind.len().to_le_bytes());
    hash.update(&lane.kind);
    hash.update([lane.step, u8::from(lane.name.is_some())]);
    hash.update(lane.name.as_deref().unwrap_or_default());
    hash.finalize().to_vec()
}

impl MysqlStore {
    /// The number of a lane, which begins to exist when first asked for: in a transaction of its own, so that nobody
    /// waits for a lane while others hold jobs.
    pub(super) fn lane_no(&self, lane: &JobLane) -> Result<i64, Error> {
        if let Some(no) = self.lane_numbers.lock().get(lane) {
            return Ok(*no);
        }
        let find = "SELECT no FROM #lanes WHERE hash = ?";
        let hash = hash(lane);
        let no = self.database.aside(|tx| {
            if let Some(no) = tx.one(find, by![hash.clone()])? {
                return Ok(no);
            }
            tx.run(
                "INSERT IGNORE INTO #lanes (hash, kind, name, step) VALUES (?, ?, ?, ?)",
                by![hash.clone(), &lane.kind, lane.name.as_deref(), lane.step],
            )?;
            let no: Option<i64> = tx.one(find, by![hash.clone()])?;
            no.ok_or(Fault::Overtaken)
        })?;
        let mut known = self.lane_numbers.lock();
        if known.len() >= 10_000 {
            known.clear();
        }
        known.insert(lane.clone(), no);
        Ok(no)
    }

    /// The number of the same lane at another step.
    pub(super) fn at_step(&self, tx: &mut Tx<'_>, no: i64, step: u8) -> Result<i64, Fault> {
        let lane = self.lane(tx, no)?;
        if lane.step == step {
            return Ok(no);
        }
        let other = JobLane {
            step,
            ..JobLane::clone(&lane)
        };
        Ok(self.lane_no(&other)?)
    }

    /// A lane by its number. Numbers are never used twice, so what was read once stays true.
    pub(super) fn lane(&self, tx: &mut Tx<'_>, no: i64) -> Result<Arc<JobLane>, Fault> {
        if let Some(lane) = self.lanes.lock().get(&no) {
            return Ok(lane.clone());
        }
        let found = tx.first("SELECT kind, name, step FROM #lanes WHERE no = ?", by![no])?;
        let mut row = found.ok_or(Fault::Odd("a job of an unknown lane"))?;
        let lane = Arc::new(JobLane {
            kind: row.at(0)?,
            name: row.at(1)?,
            step: small(row.at(2)?),
        });
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
