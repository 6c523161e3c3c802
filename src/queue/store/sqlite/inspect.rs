//! Looking at a store's health: what is wrong, and which command helps.

use std::fs;

use const_format::formatcp;
use rusqlite::Connection;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::ProcessId;
use crate::queue::store::{HealthFinding, Severity, health};

use super::SqliteStore;
use super::due;
use super::open::SCHEMA_VERSION;
use super::rows::{AT_PROVIDER, COMPLETED, DELETING, HELD, IN_PROGRESS, NO_CHORE, id_of};
use super::workers::Pulse;
use super::writer::Fault;

impl SqliteStore {
    pub(super) fn look_at_health(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error> {
        self.still_there()?;
        let (mut dead, mut alive) = (Vec::new(), Vec::new());
        for worker in self.listed()? {
            match self.pulse(&worker) {
                Pulse::Alive => alive.push(worker),
                Pulse::Dead(_) => dead.push(worker),
            }
        }
        let (mut findings, by_whom) = self.read(|conn| {
            // All of one moment.
            let moment = conn.unchecked_transaction()?;
            let mut found = vec![integrity(&moment)?, schema(&moment)?];
            found.extend(counters(&moment)?);
            found.extend(orphans(&moment)?);
            found.extend(batches(&moment)?);
            found.extend(unsealed(&moment, now)?);
            found.extend(halfway(&moment)?);
            found.extend(far_ahead(&moment, now)?);
            found.push(self.room(&moment)?);
            Ok((found, by_whom(&moment)?))
        })?;
        for worker in &alive {
            let seen = format!("process {} on {} works", worker.pid, worker.host);
            findings.push(HealthFinding::new("worker", Severity::Good, seen, None));
        }
        for worker in &dead {
            let seen = format!(
                "process {} on {} has died; its jobs wait",
                worker.pid, worker.host
            );
            let advice =
                format!("the next worker returns them to the queue within 1 second: {by_whom}");
            findings.push(HealthFinding::new(
                "worker",
                Severity::Warning,
                seen,
                Some(&advice),
            ));
        }
        if alive.is_empty() && dead.is_empty() {
            let advice = format!("jobs that wait are carried out by: {by_whom}");
            findings.push(HealthFinding::new(
                "worker",
                Severity::Note,
                "none".to_owned(),
                Some(&advice),
            ));
        }
        Ok(findings)
    }

    fn room(&self, conn: &Connection) -> Result<HealthFinding, Fault> {
        let ask = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let (pages, free) = (ask("PRAGMA page_count")?, ask("PRAGMA freelist_count")?);
        let size = |path| fs::metadata(path).map_or(0, |meta| meta.len());
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let seen = format!(
            "{:.1} MB, {} % of it free, and a log of {:.1} MB",
            megabytes(size(self.path.clone())),
            free * 100 / pages.max(1),
            megabytes(size(self.beside("-wal")))
        );
        Ok(HealthFinding::new("room", Severity::Good, seen, None))
    }
}

fn integrity(conn: &Connection) -> Result<HealthFinding, Fault> {
    let mut check = conn.prepare("PRAGMA quick_check(5)")?;
    let rows = check.query_map([], |row| row.get::<_, String>(0))?;
    let said = rows.collect::<Result<Vec<_>, _>>()?.join("; ");
    if said == "ok" {
        return Ok(HealthFinding::new("integrity", Severity::Good, said, None));
    }
    let advice = "stop all workers, copy the file with its -wal and -shm beside it, then rescue what \
                  can be read: sqlite3 FILE .recover | sqlite3 rescued.db";
    Ok(HealthFinding::new(
        "integrity",
        Severity::Bad,
        said,
        Some(advice),
    ))
}

fn schema(conn: &Connection) -> Result<HealthFinding, Fault> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let seen = format!("version {version}");
    if version == SCHEMA_VERSION {
        return Ok(HealthFinding::new("schema", Severity::Good, seen, None));
    }
    let advice =
        "a newer batchwright has brought the file forward: update this one, and restart workers";
    Ok(HealthFinding::new(
        "schema",
        Severity::Bad,
        seen,
        Some(advice),
    ))
}

/// Counts all jobs again. Held ones count as pending. What is being deleted is not counted down.
const RECOUNT: &str = formatcp!("WITH counted AS (
    SELECT id >> 32 AS no, count(*) AS stored, sum(status <= {HELD}) AS pending,
      sum(status = {IN_PROGRESS}) AS in_progress, sum(status = {AT_PROVIDER}) AS at_provider, sum(status >= {COMPLETED}) AS ended
    FROM jobs GROUP BY id >> 32
  )
  SELECT p.id FROM processes p LEFT JOIN counted c ON c.no = p.no
  WHERE p.chore <> {DELETING} AND (
    ifnull(c.stored, 0) <> p.total - p.consumed OR ifnull(c.pending, 0) <> p.pending
    OR ifnull(c.in_progress, 0) <> p.in_progress OR ifnull(c.at_provider, 0) <> p.at_provider
    OR ifnull(c.ended, 0) <> p.completed + p.failed + p.cancelled_jobs - p.consumed
    OR p.total <> p.pending + p.in_progress + p.at_provider + p.completed + p.failed + p.cancelled_jobs)
  UNION ALL SELECT NULL FROM counted WHERE no NOT IN (SELECT no FROM processes)");

fn counters(conn: &Connection) -> Result<Vec<HealthFinding>, Fault> {
    let mut recount = conn.prepare(RECOUNT)?;
    let mut rows = recount.query([])?;
    let mut differ = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get::<_, Option<Vec<u8>>>(0)?;
        differ.push(id.map(|id| id_of(&id)).transpose()?);
    }
    Ok(health::counters(differ))
}

/// What to type for jobs to go on.
fn by_whom(conn: &Connection) -> Result<String, Fault> {
    let mut read = conn.prepare(
        formatcp!("SELECT info FROM processes WHERE chore <> {DELETING} AND pending + in_progress + at_provider > 0"),
    )?;
    let infos = read.query_map([], |row| row.get::<_, Option<String>>(0))?;
    Ok(health::by_whom(infos.collect::<Result<Vec<_>, _>>()?))
}

fn orphans(conn: &Connection) -> Result<Option<HealthFinding>, Fault> {
    let sql = "SELECT count(*) FROM jobs WHERE worker IS NOT NULL
               AND worker NOT IN (SELECT no FROM workers)";
    let jobs: i64 = conn.query_row(sql, [], |row| row.get(0))?;
    Ok(health::orphans(jobs))
}

/// Batches that would never be asked about again, and jobs that no batch brings back.
fn batches(conn: &Connection) -> Result<Vec<HealthFinding>, Fault> {
    let ask = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    let orphaned = ask("SELECT count(*) FROM batches
         WHERE worker IS NOT NULL AND worker NOT IN (SELECT no FROM workers)")?;
    let astray = ask(formatcp!("SELECT count(*) FROM jobs
         WHERE iif(batch IS NULL, status = {AT_PROVIDER}, status <> {AT_PROVIDER} OR batch NOT IN (SELECT no FROM batches))
           AND id >> 32 NOT IN (SELECT no FROM processes WHERE chore = {DELETING})"))?;
    let free = ask("SELECT count(*) FROM batches WHERE worker IS NULL")?;
    Ok(health::batches(orphaned, astray, free, &by_whom(conn)?))
}

fn unsealed(conn: &Connection, now: Timestamp) -> Result<Vec<HealthFinding>, Fault> {
    let mut read = conn.prepare(
        formatcp!("SELECT id, total - sealed, changed_at, info FROM processes WHERE sealed < total AND chore <> {DELETING}"),
    )?;
    let rows = read.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (id, held, changed, info): (Vec<u8>, i64, i64, Option<String>) = row?;
        let id: ProcessId = id_of(&id)?;
        let age = now.since(Timestamp(changed));
        found.push(health::unsealed(id, held, age, info));
    }
    Ok(found)
}

fn halfway(conn: &Connection) -> Result<Option<HealthFinding>, Fault> {
    let sql = formatcp!("SELECT count(*) FROM processes WHERE chore <> {NO_CHORE}");
    let processes: i64 = conn.query_row(sql, [], |row| row.get(0))?;
    Ok(health::halfway(processes, &by_whom(conn)?))
}

fn far_ahead(conn: &Connection, now: Timestamp) -> Result<Option<HealthFinding>, Fault> {
    let (jobs, last) = due::far_ahead(conn, due::LONGEST, now)?;
    Ok(health::far_ahead(jobs, last.since(now), &by_whom(conn)?))
}
