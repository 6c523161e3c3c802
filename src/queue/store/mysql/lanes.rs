//! The numbers of lanes.

use sha2::{Digest, Sha256};

use crate::base::Error;
use crate::queue::store::JobLane;
use crate::queue::store::sql::MOST_LANES;

use super::Mysql;
use super::writer::{Fault, Queries as _, Statements as _, by};

/// A hash that identifies a lane, whatever its texts contain.
pub(super) fn hash(lane: &JobLane) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(lane.kind.len().to_le_bytes());
    hash.update(&lane.kind);
    hash.update([lane.step, u8::from(lane.name.is_some())]);
    hash.update(lane.name.as_deref().unwrap_or_default());
    hash.finalize().to_vec()
}

impl Mysql {
    /// The number of a lane, which is created if it does not exist: in a separate transaction, so that no one waits for
    /// a lane while jobs are locked.
    pub(in crate::queue::store) fn lane_no(&self, lane: &JobLane) -> Result<i64, Error> {
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
                by![
                    hash.clone(),
                    lane.kind.clone(),
                    lane.name.clone(),
                    lane.step
                ],
            )?;
            let no: Option<i64> = tx.one(find, by![hash.clone()])?;
            no.ok_or(Fault::Overtaken)
        })?;
        let mut known = self.lane_numbers.lock();
        if known.len() >= MOST_LANES {
            known.clear();
        }
        known.insert(lane.clone(), no);
        Ok(no)
    }
}
