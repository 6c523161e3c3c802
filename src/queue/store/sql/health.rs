//! Health checks: problems, and the commands that solve them.

use crate::base::Timestamp;
use crate::queue::store::rows::{AT_PROVIDER, COMPLETED, DELETING, HELD, IN_PROGRESS, NO_CHORE};
use crate::queue::store::{HealthFinding, Severity, health};

use super::charges;
use super::statements::{Fault, Queries as _, Statements, id_of};

/// A registered worker.
pub(crate) struct ListedWorker<'w> {
    pub pid: i64,
    pub host: &'w str,
    pub is_dead: bool,
}

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

/// Checks the jobs, processes and batches. Also returns the commands that resume open jobs.
pub(crate) fn look(
    tx: &mut dyn Statements,
    now: Timestamp,
) -> Result<(Vec<HealthFinding>, String), Fault> {
    let resume_commands = resume_commands(tx)?;
    let mut found = counters(tx)?;
    found.extend(ledger(tx)?);
    found.extend(orphans(tx)?);
    found.extend(batches(tx, &resume_commands)?);
    found.extend(unsealed(tx, now)?);
    found.extend(halfway(tx, &resume_commands)?);
    Ok((found, resume_commands))
}

/// Which workers are alive. `of_dead` describes a dead worker in this store.
pub(crate) fn workers<'w>(
    listed: impl IntoIterator<Item = ListedWorker<'w>>,
    of_dead: &str,
    resume_commands: &str,
) -> Vec<HealthFinding> {
    let finding =
        |verdict, seen, advice: Option<&str>| HealthFinding::new("worker", verdict, seen, advice);
    let (dead, alive): (Vec<_>, Vec<_>) = listed.into_iter().partition(|worker| worker.is_dead);
    let mut findings = Vec::new();
    for ListedWorker { pid, host, .. } in &alive {
        let seen = format!("process {pid} on {host} works");
        findings.push(finding(Severity::Good, seen, None));
    }
    for ListedWorker { pid, host, .. } in &dead {
        let seen = format!("process {pid} on {host} {of_dead}; its jobs wait");
        let advice =
            format!("the next worker returns them to the queue within 1 second: {resume_commands}");
        findings.push(finding(Severity::Warning, seen, Some(&advice)));
    }
    if findings.is_empty() {
        let advice = format!("to run the waiting jobs: {resume_commands}");
        findings.push(finding(Severity::Note, "none".to_owned(), Some(&advice)));
    }
    findings
}

fn number(tx: &mut dyn Statements, sql: &str) -> Result<i64, Fault> {
    Ok(tx.one(sql, Vec::new())?.unwrap_or(0))
}

/// Commands that resume open jobs.
fn resume_commands(tx: &mut dyn Statements) -> Result<String, Fault> {
    let sql = format!(
        "SELECT info FROM #processes WHERE chore <> {DELETING} AND pending + in_progress + at_provider > 0"
    );
    Ok(health::resume_commands(
        tx.column::<Option<String>>(&sql, Vec::new())?,
    ))
}

/// Recounts all jobs. Held jobs count as pending. Counters of jobs that are being deleted do not decrease.
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
    let differ = tx.column::<Option<Vec<u8>>>(&recount, Vec::new())?;
    let differ = differ
        .into_iter()
        .map(|id| id.map(|id| id_of(&id)).transpose());
    Ok(health::counters(differ.collect::<Result<Vec<_>, _>>()?))
}

fn ledger(tx: &mut dyn Statements) -> Result<Vec<HealthFinding>, Fault> {
    let differ = tx.rows(charges::UNBALANCED, Vec::new())?;
    let differ = differ.into_iter().map(|mut row| {
        let id = id_of(&row.at::<Vec<u8>>(0)?)?;
        Ok((id, row.at::<i64>(1)? != 0))
    });
    Ok(health::ledger(differ.collect::<Result<Vec<_>, Fault>>()?))
}

fn orphans(tx: &mut dyn Statements) -> Result<Option<HealthFinding>, Fault> {
    let jobs = number(
        tx,
        "SELECT COUNT(*) FROM #jobs WHERE worker IS NOT NULL AND worker NOT IN (SELECT no FROM #workers)",
    )?;
    Ok(health::orphans(jobs))
}

/// Batches that no worker would poll again, and jobs that no batch would return.
fn batches(tx: &mut dyn Statements, resume_commands: &str) -> Result<Vec<HealthFinding>, Fault> {
    let orphaned = number(
        tx,
        "SELECT COUNT(*) FROM #batches WHERE worker IS NOT NULL AND worker NOT IN (SELECT no FROM #workers)",
    )?;
    let astray = format!(
        "SELECT COUNT(*) FROM #jobs
         WHERE (batch IS NULL AND status = {AT_PROVIDER}
             OR batch IS NOT NULL AND (status <> {AT_PROVIDER} OR batch NOT IN (SELECT no FROM #batches)))
           AND id DIV 4294967296 NOT IN (SELECT no FROM #processes WHERE chore = {DELETING})"
    );
    let astray = number(tx, &astray)?;
    let free = number(tx, "SELECT COUNT(*) FROM #batches WHERE worker IS NULL")?;
    Ok(health::batches(orphaned, astray, free, resume_commands))
}

fn unsealed(tx: &mut dyn Statements, now: Timestamp) -> Result<Vec<HealthFinding>, Fault> {
    let sql = format!(
        "SELECT id, total - sealed, changed_at, info FROM #processes WHERE sealed < total AND chore <> {DELETING}"
    );
    let rows = tx.rows(&sql, Vec::new())?;
    let found = rows.into_iter().map(|mut row| {
        let id = id_of(&row.at::<Vec<u8>>(0)?)?;
        let age = now.since(Timestamp(row.at(2)?));
        Ok(health::unsealed(id, row.at(1)?, age, row.at(3)?))
    });
    found.collect()
}

fn halfway(tx: &mut dyn Statements, resume_commands: &str) -> Result<Option<HealthFinding>, Fault> {
    let sql = format!("SELECT COUNT(*) FROM #processes WHERE chore <> {NO_CHORE}");
    let processes = number(tx, &sql)?;
    Ok(health::halfway(processes, resume_commands))
}
