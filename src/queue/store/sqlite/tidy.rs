//! Maintenance: keeps the file small.

use std::fs;

use rusqlite::Connection;

use crate::base::Error;
use crate::queue::store::sql::health;
use crate::queue::store::sql::statements::{Fault, Queries as _, Statements};
use crate::queue::store::{HealthFinding, Severity};

use super::Sqlite;
use super::open::SCHEMA_VERSION;
use super::writer::Saved;

/// Up to this number of free pages the file is not shrunk.
const FEW_PAGES: i64 = 1_000;

/// Number of pages freed at once.
const SHRINK_BY: i64 = 400;

/// A log of this size is copied into the database.
const WORTH_COPYING: u64 = 2 << 20;

impl Sqlite {
    /// Gives free pages back to the disk. Returns true if more is left.
    pub(in crate::queue::store) fn tidy(&self) -> Result<bool, Error> {
        if self.spare_pages()? {
            self.write(Saved::Lazily, |conn| {
                // Each row frees one page.
                let mut shrink =
                    conn.prepare(&format!("PRAGMA incremental_vacuum({SHRINK_BY})"))?;
                let mut rows = shrink.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            })?;
            return self.spare_pages();
        }
        Ok(false)
    }

    /// Whether enough of the file is free to shrink it.
    fn spare_pages(&self) -> Result<bool, Error> {
        self.read(|conn| {
            let ask = |sql: &str| -> Result<i64, Fault> {
                Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
            };
            let free = ask("PRAGMA freelist_count")?;
            Ok(free > FEW_PAGES && free > ask("PRAGMA page_count")? / 4)
        })
    }

    fn log_size(&self) -> u64 {
        fs::metadata(self.beside("-wal")).map_or(0, |meta| meta.len())
    }

    /// Copies the write-ahead log into the database concurrently with writes, so that no transaction has to wait for
    /// it. The log restarts only after all of it was copied, which does not happen during constant writes; but the rest
    /// is short by then.
    pub(in crate::queue::store) fn copy_log(&self) -> Result<(), Error> {
        if self.log_size() < WORTH_COPYING {
            return Ok(());
        }
        let Some(copier) = self.copier.try_lock() else {
            return Ok(());
        };
        let copy = |conn: &Connection| -> Result<(i64, i64), Fault> {
            let mut copy = conn.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
            Ok(copy.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?)
        };
        let copied = copy(&copier).and_then(|(pages, copied)| {
            if copied < pages {
                copy(&self.writer.lock().conn)
            } else {
                Ok((pages, copied))
            }
        });
        copied.map(drop).map_err(|fault| fault.in_file(&self.path))
    }
}

// Checks the health of the file.

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
