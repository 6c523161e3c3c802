//! Checks the health of the file and of its jobs.

use std::fs;

use rusqlite::Connection;

use crate::base::{Error, Timestamp};
use crate::queue::store::sql::health::{self, ListedWorker};
use crate::queue::store::sql::statements::Fault;
use crate::queue::store::{HealthFinding, Severity};

use super::SqliteStore;
use super::open::SCHEMA_VERSION;
use super::workers::Pulse;

impl SqliteStore {
    pub(super) fn look_at_health(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error> {
        self.still_there()?;
        let listed = self.listed()?;
        let (mut findings, resume_commands) = self.read(|conn| {
            // All queries see the same snapshot.
            let moment = conn.unchecked_transaction()?;
            let version = moment.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let mut found = vec![
                integrity(&moment)?,
                health::schema(version, SCHEMA_VERSION, "file"),
            ];
            let (others, resume_commands) = health::look(&mut &*moment, now)?;
            found.extend(others);
            found.push(self.room(&moment)?);
            Ok((found, resume_commands))
        })?;
        let workers = listed.iter().map(|worker| ListedWorker {
            pid: worker.pid,
            host: &worker.host,
            is_dead: matches!(self.pulse(worker), Pulse::Dead(_)),
        });
        findings.extend(health::workers(workers, "has died", &resume_commands));
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
