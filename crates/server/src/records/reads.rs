//! Records which failures clients have read. If such a job is requeued, it has another end, and a client that deletes
//! what it has read must not delete that end.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use batchwright::queue::JobReceipt;
use batchwright::{Error, JobId, ProcessId};

use super::Records;
use super::database::{Row, Statements, by};

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS read_failures (
  process BLOB NOT NULL,
  job INTEGER NOT NULL,      -- its key in the queue
  id BLOB NOT NULL,
  claim INTEGER NOT NULL,    -- the end that was read
  PRIMARY KEY (process, job)
) WITHOUT ROWID;
";

/// An end of a job that is sent to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadEnd {
    pub id: JobId,
    pub receipt: JobReceipt,
    /// Whether the job can be requeued.
    pub failed: bool,
}

impl Records {
    /// Notes ends that a client is about to read.
    ///
    /// # Errors
    /// When `server.db` cannot be written.
    pub fn note_read(&self, process: ProcessId, ends: &[ReadEnd]) -> Result<(), Error> {
        let process = process.bytes();
        let keys = || ends.iter().map(|end| end.receipt.job);
        let (Some(first), Some(last)) = (keys().min(), keys().max()) else {
            return Ok(());
        };
        // Most have been read before, or are no failures.
        let noted = self.single().rows(
            "SELECT job, claim FROM read_failures WHERE process = ? AND job BETWEEN ? AND ?",
            by![&process[..], first, last],
        )?;
        let noted: HashMap<i64, i64> = noted
            .into_iter()
            .map(|mut row| Ok((row.int(0)?, row.int(1)?)))
            .collect::<Result<_, Error>>()?;
        let is_news = |end: &&ReadEnd| {
            let known = noted.get(&end.receipt.job).copied();
            known != end.failed.then_some(end.receipt.claim)
        };
        let news: Vec<&ReadEnd> = ends.iter().filter(is_news).collect();
        if news.is_empty() {
            return Ok(());
        }
        self.transaction(|database| {
            for ReadEnd {
                id,
                receipt,
                failed,
            } in &news
            {
                match failed {
                    true => database.run(
                        "REPLACE INTO read_failures (process, job, id, claim) VALUES (?, ?, ?, ?)",
                        by![&process[..], receipt.job, &id.bytes()[..], receipt.claim],
                    )?,
                    false => database.run(
                        "DELETE FROM read_failures WHERE process = ? AND job = ?",
                        by![&process[..], receipt.job],
                    )?,
                };
            }
            Ok(())
        })
    }

    /// The failures that were read, of jobs with these keys.
    ///
    /// # Errors
    /// When `server.db` cannot be read.
    pub fn read_failures(
        &self,
        process: ProcessId,
        keys: RangeInclusive<i64>,
    ) -> Result<Vec<(JobId, JobReceipt)>, Error> {
        let rows = self.single().rows(
            "SELECT id, job, claim FROM read_failures WHERE process = ? AND job BETWEEN ? AND ? ORDER BY job",
            by![&process.bytes()[..], *keys.start(), *keys.end()],
        )?;
        let read = |mut row: Row| {
            let (job, claim) = (row.int(1)?, row.int(2)?);
            Ok((JobId::from_bytes(row.bytes(0)?), JobReceipt { job, claim }))
        };
        rows.into_iter().map(read).collect()
    }

    /// Forgets them, up to the job of this key.
    ///
    /// # Errors
    /// When `server.db` cannot be written.
    pub fn forget_read(&self, process: ProcessId, through: i64) -> Result<(), Error> {
        let forget = "DELETE FROM read_failures WHERE process = ? AND job <= ?";
        self.single()
            .run(forget, by![&process.bytes()[..], through])
            .map(drop)
    }

    /// Forgets those of processes that are no more.
    ///
    /// # Errors
    /// When `server.db` cannot be used, or `is_there` fails.
    pub fn forget_read_of_others(
        &self,
        is_there: impl Fn(ProcessId) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let all = self
            .single()
            .rows("SELECT DISTINCT process FROM read_failures", &[])?;
        for mut row in all {
            let process = ProcessId::from_bytes(row.bytes(0)?);
            if !is_there(process)? {
                self.forget_read(process, i64::MAX)?;
            }
        }
        Ok(())
    }
}
