//! Checks the health of the file.

use crate::queue::store::sql::health;
use crate::queue::store::sql::statements::{Fault, Queries as _, Statements};
use crate::queue::store::{HealthFinding, Severity};

use super::Sqlite;
use super::open::SCHEMA_VERSION;

impl Sqlite {
    pub(in crate::queue::store) fn look_at_health(
        &self,
        tx: &mut dyn Statements,
    ) -> Result<Vec<HealthFinding>, Fault> {
        self.still_there()?;
        let version = tx.one("PRAGMA user_version", Vec::new())?.unwrap_or(0);
        Ok(vec![
            integrity(tx)?,
            health::schema(version, SCHEMA_VERSION, "file"),
        ])
    }
}

fn integrity(tx: &mut dyn Statements) -> Result<HealthFinding, Fault> {
    let said: Vec<String> = tx.column("PRAGMA quick_check(5)", Vec::new())?;
    let said = said.join("; ");
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
