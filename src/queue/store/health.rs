//! Health checks: findings, and those of the tables that both databases have.

use std::cmp::Ordering;

use Severity::{Bad, Good, Note};

use super::rows::{AT_PROVIDER, COMPLETED, DELETING, HELD, IN_PROGRESS};
use super::statements::{Fault, Queries as _, Sql, by};
use crate::base::ProcessId;

/// One finding of a health check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthFinding {
    /// The checked property, in one or two words.
    pub what: String,
    /// How bad it is.
    pub verdict: Severity,
    /// The observation, for people.
    pub seen: String,
    /// The recommended action.
    pub advice: Option<String>,
}

impl HealthFinding {
    /// A finding with a recommended action.
    pub fn new(what: &str, verdict: Severity, seen: String, advice: Option<&str>) -> Self {
        Self {
            what: what.to_owned(),
            verdict,
            seen,
            advice: advice.map(str::to_owned),
        }
    }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No problem.
    Good,
    /// Information.
    Note,
    /// A problem that costs time or disk space.
    Warning,
    /// The queue cannot be used, or its contents cannot be trusted.
    Bad,
}

/// Whether tables have the schema version of this program. `what` names the tables.
pub(super) fn schema(found: i64, known: i64, what: &str) -> HealthFinding {
    let seen = format!("version {found}");
    match found.cmp(&known) {
        Ordering::Equal => return HealthFinding::new("schema", Good, seen, None),
        Ordering::Less => {
            let advice = format!("work, serve or submit brings the {what} to {known}");
            return HealthFinding::new("schema", Note, seen, Some(&advice));
        }
        Ordering::Greater => {}
    }
    let advice = format!(
        "a newer batchwright has upgraded the {what}: update this one, and restart workers"
    );
    HealthFinding::new("schema", Bad, seen, Some(&advice))
}

/// Counts all jobs by state, and compares that with the counters of their processes. Held jobs count as pending. The
/// counters of jobs that are being deleted do not decrease.
pub(super) fn counters(tx: &mut dyn Sql) -> Result<Vec<HealthFinding>, Fault> {
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
    for id in tx.many::<Option<ProcessId>>(&recount, by![])? {
        let seen = match id {
            Some(id) => format!("those of process {id} differ from its jobs"),
            None => "jobs without a process".to_owned(),
        };
        let advice = "this is a bug in batchwright: please report it. Results can still be fetched: \
                      batchwright results ID";
        found.push(HealthFinding::new("counters", Bad, seen, Some(advice)));
    }
    if found.is_empty() {
        let seen = "those of all processes agree with their jobs".to_owned();
        found.push(HealthFinding::new("counters", Good, seen, None));
    }
    Ok(found)
}
