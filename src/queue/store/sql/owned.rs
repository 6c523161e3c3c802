//! A batch and its owner.

use crate::base::{Error, ErrorKind};
use crate::queue::store::rows::DELETING;
use crate::queue::store::{BatchNo, WorkerId};

use super::statements::{Fault, Queries as _, Statements, by};

/// What a batch's row shows to its owner.
pub(super) struct Owned {
    pub no: BatchNo,
    pub process: i64,
    pub lane: i64,
    /// Whether its process was cancelled; `None` if it no longer exists.
    pub cancelled: Option<bool>,
}

/// A batch of this worker, locked until the transaction ends.
pub(super) fn owned(
    tx: &mut dyn Statements,
    worker: WorkerId,
    batch: BatchNo,
) -> Result<Owned, Fault> {
    let found = tx.first(
        "SELECT process, lane FROM #batches WHERE no = ? AND worker = ? FOR UPDATE",
        by![batch.0, worker.0],
    )?;
    let Some(mut row) = found else {
        let why = format!(
            "batch {} is not this worker's: it was closed, or others took the worker for dead",
            batch.0
        );
        return Err(Error::new(ErrorKind::Invalid, why).with_claim_lost().into());
    };
    let process: i64 = row.at(0)?;
    let cancelled: Option<i64> = tx.one(
        &format!("SELECT cancelled FROM #processes WHERE no = ? AND chore <> {DELETING}"),
        by![process],
    )?;
    Ok(Owned {
        no: batch,
        process,
        lane: row.at(1)?,
        cancelled: cancelled.map(|at| at != 0),
    })
}
