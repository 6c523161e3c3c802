//! Messages of the webhook: the end of what each tells, and how far its delivery has come.

use batchwright::Error;
use rusqlite::{Connection, Row};

use super::Records;
use super::database::{by, first, rows, run};
use super::files::new_id;

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS webhooks (
        message TEXT PRIMARY KEY,
        subject TEXT NOT NULL,    -- the process, or the batch of /v1
        body TEXT,                -- NULL until that has ended
        attempts INTEGER NOT NULL,
        next_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS waiting_webhooks ON webhooks (subject) WHERE body IS NULL;
    CREATE INDEX IF NOT EXISTS due_webhooks ON webhooks (next_at) WHERE body IS NOT NULL;";

/// A message that waits for the end of its subject, or for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Webhook {
    /// The same for each attempt.
    pub message: String,
    pub subject: String,
    /// The same for each attempt; empty until the subject has ended.
    pub body: String,
    pub attempts: u32,
}

impl Webhook {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            message: row.get(0)?,
            subject: row.get(1)?,
            body: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            attempts: row.get(3)?,
        })
    }

    /// Up to `most` messages that wait for the ends of their subjects, after this subject.
    pub fn waiting(database: &Connection, after: &str, most: usize) -> Result<Vec<Self>, Error> {
        let sql = "SELECT message, subject, body, attempts FROM webhooks
                   WHERE body IS NULL AND subject > ? ORDER BY subject LIMIT ?";
        rows(database, sql, by![after, most as i64], Self::of)
    }

    /// Up to `most` messages whose next attempt is due by this time, in seconds since 1970. A time after `latest` was
    /// planned while the clock was ahead.
    pub fn due(
        database: &Connection,
        now: i64,
        latest: i64,
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        let sql = "SELECT message, subject, body, attempts FROM webhooks
                   WHERE body IS NOT NULL AND (next_at <= ? OR next_at > ?)
                   ORDER BY next_at LIMIT ?";
        rows(database, sql, by![now, latest, most as i64], Self::of)
    }

    /// Whether there is any message.
    pub fn any(database: &Connection) -> Result<bool, Error> {
        let found = first(database, "SELECT 1 FROM webhooks LIMIT 1", &[], |_| Ok(()))?;
        Ok(found.is_some())
    }

    /// Writes down its body, its attempts and when the next one is due.
    pub fn update(&self, database: &Connection, next_at: i64) -> Result<(), Error> {
        let sql = "UPDATE webhooks SET body = ?, attempts = ?, next_at = ? WHERE message = ?";
        let by = by![self.body, self.attempts, next_at, self.message];
        run(database, sql, by).map(drop)
    }

    pub fn delete(&self, database: &Connection) -> Result<(), Error> {
        let sql = "DELETE FROM webhooks WHERE message = ?";
        run(database, sql, by![self.message]).map(drop)
    }
}

impl Records {
    /// Has the end of a process or a batch told, if the server has a webhook.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn tell_end(&self, database: &Connection, subject: &str) -> Result<(), Error> {
        if self.webhook.is_none() {
            return Ok(());
        }
        let sql = "INSERT INTO webhooks (message, subject, attempts, next_at)
                   SELECT ?, ?, 0, 0 WHERE NOT EXISTS
                       (SELECT 1 FROM webhooks WHERE subject = ? AND body IS NULL)";
        let by = by![new_id("msg_"), subject, subject];
        run(database, sql, by).map(drop)
    }

    /// Wakes the thread that sends the messages, if there is one.
    pub fn wake_sender(&self) {
        if let Some(wake) = &self.webhook {
            wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use batchwright::queue::Durability;

    use super::*;
    use crate::background::Wake;

    #[test]
    fn an_end_is_told_once_and_a_second_one_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.db");
        let mut records = Records::open(&path, Durability::Normal).unwrap();
        let add = |records: &Records| records.tell_end(&records.single(), "a").unwrap();
        add(&records);
        assert!(!Webhook::any(&records.single()).unwrap(), "no webhook");
        records.webhook = Some(Wake::new());
        add(&records);
        add(&records);
        let database = &records.single();
        let waiting = Webhook::waiting(database, "", 9).unwrap();
        assert_eq!(waiting.len(), 1);
        assert!(Webhook::waiting(database, "a", 9).unwrap().is_empty());
        let mut first = waiting.into_iter().next().unwrap();
        first.body = "{}".to_owned();
        first.attempts = 1;
        first.update(database, 10).unwrap();
        assert!(Webhook::waiting(database, "", 9).unwrap().is_empty());
        assert!(Webhook::due(database, 9, 100, 9).unwrap().is_empty());
        assert_eq!(Webhook::due(database, 10, 100, 9).unwrap(), [first.clone()]);
        assert_eq!(Webhook::due(database, 1, 9, 9).unwrap(), [first.clone()]);
        // Jobs were added to the process, or its id is used again.
        add(&records);
        assert_eq!(Webhook::waiting(database, "", 9).unwrap().len(), 1);
        first.delete(database).unwrap();
        assert!(Webhook::due(database, 10, 100, 9).unwrap().is_empty());
        assert!(Webhook::any(database).unwrap());
    }
}
