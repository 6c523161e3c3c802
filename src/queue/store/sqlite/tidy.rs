//! Maintenance: keeps the file small.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use crate::base::{Error, Timestamp};
use crate::queue::store::sql::statements::Fault;

use super::Sqlite;
use super::writer::{Saved, be_patient};

/// Up to this number of free pages the file is not shrunk.
const FEW_PAGES: i64 = 1_000;

/// Number of pages freed at once.
const SHRINK_BY: i64 = 400;

/// A log of this size is copied into the database.
const WORTH_COPYING: u64 = 2 << 20;
/// The size from which the write-ahead log is truncated, which needs a moment without readers.
const LONG_LOG: u64 = 64 << 20;

impl Sqlite {
    /// Gives free pages back to the disk, and truncates the log. Returns true if more is left.
    pub(in crate::queue::store) fn tidy(&self, now: Timestamp) -> Result<bool, Error> {
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
        self.cut_log_back(now)?;
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

    /// Truncates the write-ahead log, at most once per minute, and does not wait for readers.
    fn cut_log_back(&self, now: Timestamp) -> Result<(), Error> {
        let last = Timestamp(self.cut_back.load(Ordering::Relaxed));
        if self.log_size() <= LONG_LOG || now.since(last) < Duration::from_secs(60) {
            return Ok(());
        }
        self.cut_back.store(now.0, Ordering::Relaxed);
        let mut writer = self.writer.lock();
        let cut = truncate_log(&mut writer.conn);
        cut.map_err(|fault| fault.in_file(&self.path))
    }
}

fn truncate_log(conn: &mut Connection) -> Result<(), Fault> {
    be_patient(conn, false)?;
    let cut = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    be_patient(conn, true)?;
    Ok(cut?)
}
