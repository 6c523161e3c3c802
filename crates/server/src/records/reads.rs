//! Which failures clients have read. One that is put back ends anew, and whoever deletes what it has read is not to
//! delete that end, too.

use batchwright::queue::JobReceipt;
use batchwright::{Error, JobId, ProcessId};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Records, failed};

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS read_failures (
  process BLOB NOT NULL,
  job INTEGER NOT NULL,      -- its key in the queue
  id BLOB NOT NULL,
  claim INTEGER NOT NULL,    -- the end that was read
  PRIMARY KEY (process, job)
) WITHOUT ROWID;
";

/// Those of the ends that are not noted as they are. Most have been read before, or are no failures.
fn unknown<'e>(
    database: &Connection,
    process: [u8; 16],
    ends: &'e [ReadEnd],
) -> rusqlite::Result<Vec<&'e ReadEnd>> {
    let mut claim = database
        .prepare_cached("SELECT claim FROM read_failures WHERE process = ?1 AND job = ?2")?;
    let mut news = Vec::new();
    for end in ends {
        let noted: Option<i64> = claim
            .query_row(params![&process[..], end.receipt.job], |row| row.get(0))
            .optional()?;
        if noted != end.failed.then_some(end.receipt.claim) {
            news.push(end);
        }
    }
    Ok(news)
}

/// An end of a job, as it goes to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadEnd {
    pub id: JobId,
    pub receipt: JobReceipt,
    /// It can be put back.
    pub failed: bool,
}

impl Records {
    /// Notes ends that a client is about to read.
    ///
    /// # Errors
    /// When `server.db` cannot be written.
    pub fn note_read(&self, process: ProcessId, ends: &[ReadEnd]) -> Result<(), Error> {
        let process = process.bytes();
        let note = |database: &mut Connection| -> rusqlite::Result<()> {
            let news = unknown(database, process, ends)?;
            if news.is_empty() {
                return Ok(());
            }
            let change = database.transaction()?;
            for ReadEnd {
                id,
                receipt,
                failed,
            } in news
            {
                match failed {
                    true => change
                        .prepare_cached(
                            "INSERT OR REPLACE INTO read_failures VALUES (?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![
                            &process[..],
                            receipt.job,
                            &id.bytes()[..],
                            receipt.claim
                        ])?,
                    false => change
                        .prepare_cached(
                            "DELETE FROM read_failures WHERE process = ?1 AND job = ?2",
                        )?
                        .execute(params![&process[..], receipt.job])?,
                };
            }
            change.commit()
        };
        note(&mut self.lock()).map_err(|error| failed("server.db", &error))
    }

    /// The failures that were read up to the job of this key.
    ///
    /// # Errors
    /// When `server.db` cannot be read.
    pub fn read_failures(
        &self,
        process: ProcessId,
        through: i64,
    ) -> Result<Vec<(JobId, JobReceipt)>, Error> {
        let look = |database: &Connection| -> rusqlite::Result<Vec<_>> {
            let mut rows = database.prepare_cached(
                "SELECT id, job, claim FROM read_failures WHERE process = ?1 AND job <= ?2 ORDER BY job",
            )?;
            let rows = rows.query_map(params![&process.bytes()[..], through], |row| {
                let (job, claim) = (row.get(1)?, row.get(2)?);
                Ok((JobId::from_bytes(row.get(0)?), JobReceipt { job, claim }))
            })?;
            rows.collect()
        };
        look(&self.lock()).map_err(|error| failed("server.db", &error))
    }

    /// Forgets them, up to the job of this key.
    ///
    /// # Errors
    /// When `server.db` cannot be written.
    pub fn forget_read(&self, process: ProcessId, through: i64) -> Result<(), Error> {
        self.execute(
            "DELETE FROM read_failures WHERE process = ?1 AND job <= ?2",
            params![&process.bytes()[..], through],
        )
    }

    /// Forgets those of processes that are no more.
    ///
    /// # Errors
    /// When `server.db` cannot be used, or `is_there` fails.
    pub fn forget_read_of_others(
        &self,
        is_there: impl Fn(ProcessId) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let all = |database: &Connection| -> rusqlite::Result<Vec<[u8; 16]>> {
            let mut rows = database.prepare("SELECT DISTINCT process FROM read_failures")?;
            let rows = rows.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let all = all(&self.lock()).map_err(|error| failed("server.db", &error))?;
        for process in all.into_iter().map(ProcessId::from_bytes) {
            if !is_there(process)? {
                self.forget_read(process, i64::MAX)?;
            }
        }
        Ok(())
    }
}
