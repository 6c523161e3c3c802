//! Checks the health of the file and of its jobs.

use rusqlite::Connection;

use crate::base::Error;
use crate::queue::store::sql::health;
use crate::queue::store::sql::statements::Fault;
use crate::queue::store::{HealthFinding, Severity};

use super::SqliteStore;
use super::open::SCHEMA_VERSION;

impl SqliteStore {
    pub(super) fn look_at_health(&self) -> Result<Vec<HealthFinding>, Error> {
        self.still_there()?;
        self.read(|conn| {
            // All queries see the same snapshot.
            let moment = conn.unchecked_transaction()?;
            let version = moment.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let mut found = vec![
                integrity(&moment)?,
                health::schema(version, SCHEMA_VERSION, "file"),
            ];
            found.extend(health::look(&mut &*moment)?);
            Ok(found)
        })
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
