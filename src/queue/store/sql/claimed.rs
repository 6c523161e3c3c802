//! Jobs with all data that their handlers need.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::base::{ProcessId, Timestamp};
use crate::queue::store::rows::small;
use crate::queue::store::{ClaimedJob, JobBudget, JobLane, JobReceipt};

use super::statements::{Fault, Row, Statements};
use crate::queue::store::Store;

/// The process of a job, the budget that limits it, and its lane.
pub(crate) type Of = (ProcessId, Option<JobBudget>, Arc<JobLane>);

/// Jobs with all data that their handlers need, and the receipts of their last claims, in the order of the ids. Jobs
/// that no longer exist are left out.
pub(crate) fn claimed(
    store: &Store,
    tx: &mut dyn Statements,
    ids: &[i64],
    of: impl FnMut(i64) -> Option<Of>,
) -> Result<Vec<ClaimedJob>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx.rows_in(WHOLE, ids)?;
    let mut found = read_claimed(store, tx, rows, of)?;
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// The jobs that a query of [`WHOLE`] has found and `of` accepts, by their ids.
pub(crate) fn read_claimed(
    store: &Store,
    tx: &mut dyn Statements,
    rows: Vec<Row>,
    mut of: impl FnMut(i64) -> Option<Of>,
) -> Result<HashMap<i64, ClaimedJob>, Fault> {
    let mut found: HashMap<i64, ClaimedJob> = HashMap::new();
    let mut with_history = Vec::new();
    for mut row in rows {
        let id: i64 = row.at(0)?;
        let Some((process_id, budget, lane)) = of(id) else {
            continue;
        };
        if row.at::<i64>(11)? != 0 {
            with_history.push(id);
        }
        let payload = RawValue::from_string(row.at(14)?);
        let job = ClaimedJob {
            receipt: JobReceipt {
                job: id,
                claim: row.at(1)?,
            },
            job_id: store.job_id(id, Timestamp(row.at(2)?)),
            process_id,
            budget,
            lane,
            item_id: row.at(12)?,
            request_hash: row.at(13)?,
            payload: payload.map_err(|_| Fault::Odd("a payload that is not JSON"))?,
            priority: small(row.at(3)?),
            max_retries: row.at::<Option<i64>>(4)?.map(small),
            attempt: small(row.at(8)?),
            calls: u32::try_from(row.at::<i64>(9)?).unwrap_or(u32::MAX),
            crashes: small(row.at(5)?),
            lost: row.at::<i64>(6)? != 0,
            in_doubt: row.at::<i64>(10)? != 0,
            due_at: Timestamp(row.at(7)?),
            history: None,
        };
        found.insert(id, job);
    }
    if !with_history.is_empty() {
        let sql = "SELECT job, body FROM #histories WHERE job IN :list";
        for mut row in tx.rows_in(sql, &with_history)? {
            if let Some(job) = found.get_mut(&row.at(0)?) {
                job.history = row.at(1)?;
            }
        }
    }
    Ok(found)
}

/// The query for jobs with their payloads.
pub(crate) const WHOLE: &str =
    "SELECT j.id, j.claim, j.created_at, j.priority, j.max_retries, j.crashes, j.lost, j.visible_at,
       j.attempt, j.calls, j.in_doubt, j.has_history, p.item_id, p.request_hash, p.body
     FROM #jobs j CROSS JOIN #payloads p ON p.job = j.id WHERE j.id IN :list";
