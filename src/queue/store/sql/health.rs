//! Health checks of the tables that all stores have.

use crate::queue::store::rows::{AT_PROVIDER, COMPLETED, DELETING, HELD, IN_PROGRESS};
use crate::queue::store::{HealthFinding, Severity};

use super::statements::{Fault, Queries as _, Statements, id_of};

/// Whether tables have the schema version of this program. `what` names the tables.
pub(crate) fn schema(found: i64, known: i64, what: &str) -> HealthFinding {
    let seen = format!("version {found}");
    if found == known {
        return HealthFinding::new("schema", Severity::Good, seen, None);
    }
    let advice = format!(
        "a newer batchwright has upgraded the {what}: update this one, and restart workers"
    );
    HealthFinding::new("schema", Severity::Bad, seen, Some(&advice))
}

/// Checks the jobs, processes and batches.
pub(crate) fn look(tx: &mut dyn Statements) -> Result<Vec<HealthFinding>, Fault> {
    let mut found = counters(tx)?;
    found.extend(without_owner(tx)?);
    Ok(found)
}

/// Counts all jobs by state, and compares that with the counters of their processes. Held jobs count as pending. The
/// counters of jobs that are being deleted do not decrease.
fn counters(tx: &mut dyn Statements) -> Result<Vec<HealthFinding>, Fault> {
    let counted = format!(
        "SELECT id DIV 4294967296 AS no, COUNT(*) AS stored, CAST(SUM(status <= {HELD}) AS SIGNED) AS pending,
           CAST(SUM(status = {IN_PROGRESS}) AS SIGNED) AS in_progress,
           CAST(SUM(status = {AT_PROVIDER}) AS SIGNED) AS at_provider,
           CAST(SUM(status >= {COMPLETED}) AS SIGNED) AS ended
         FROM #jobs FORCE INDEX (by_status) GROUP BY id DIV 4294967296"
    );
    let recount = format!(
        "WITH counted AS ({counted})
         SELECT p.id FROM #processes p LEFT JOIN counted c ON c.no = p.no
         WHERE p.chore <> {DELETING} AND (
           IFNULL(c.stored, 0) <> p.total - p.consumed OR IFNULL(c.pending, 0) <> p.pending
           OR IFNULL(c.in_progress, 0) <> p.in_progress OR IFNULL(c.at_provider, 0) <> p.at_provider
           OR IFNULL(c.ended, 0) <> p.completed + p.failed + p.cancelled_jobs - p.consumed
           OR p.total <> p.pending + p.in_progress + p.at_provider + p.completed + p.failed + p.cancelled_jobs)
         UNION ALL SELECT NULL FROM counted WHERE no NOT IN (SELECT no FROM #processes)"
    );
    let mut found = Vec::new();
    for id in tx.column::<Option<Vec<u8>>>(&recount, Vec::new())? {
        let seen = match id {
            Some(id) => format!("those of process {} differ from its jobs", id_of(&id)?),
            None => "jobs without a process".to_owned(),
        };
        let advice = "this is a bug in batchwright: please report it. Results can still be fetched: \
                      batchwright results ID";
        found.push(HealthFinding::new(
            "counters",
            Severity::Bad,
            seen,
            Some(advice),
        ));
    }
    if found.is_empty() {
        let seen = "those of all processes agree with their jobs".to_owned();
        found.push(HealthFinding::new("counters", Severity::Good, seen, None));
    }
    Ok(found)
}

/// Jobs and batches that no worker would take over, and jobs that no batch would return.
fn without_owner(tx: &mut dyn Statements) -> Result<Vec<HealthFinding>, Fault> {
    const OF_NO_WORKER: &str = "worker IS NOT NULL AND worker NOT IN (SELECT no FROM #workers)";
    let astray = format!(
        "FROM #jobs WHERE (batch IS NULL AND status = {AT_PROVIDER}
             OR batch IS NOT NULL AND (status <> {AT_PROVIDER} OR batch NOT IN (SELECT no FROM #batches)))
           AND id DIV 4294967296 NOT IN (SELECT no FROM #processes WHERE chore = {DELETING})"
    );
    let all = [
        (
            format!("FROM #jobs WHERE {OF_NO_WORKER}"),
            "jobs belong to workers that are not registered",
        ),
        (
            format!("FROM #batches WHERE {OF_NO_WORKER}"),
            "batches belong to workers that are not registered",
        ),
        (
            astray,
            "jobs are at a provider in a batch that does not exist",
        ),
    ];
    let mut found = Vec::new();
    for (rows, what) in all {
        let count: i64 = tx
            .one(&format!("SELECT COUNT(*) {rows}"), Vec::new())?
            .unwrap_or(0);
        if count > 0 {
            let advice = "this is a bug in batchwright: please report it. To delete their processes: batchwright cancel \
                          ID --delete";
            let seen = format!("{count} {what}");
            found.push(HealthFinding::new(
                "claims",
                Severity::Bad,
                seen,
                Some(advice),
            ));
        }
    }
    Ok(found)
}
