//! Who is to be told of the end of which process, and how far that has come.

use batchwright::{Error, ProcessId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::failed;

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS webhooks (
        process TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        secret BLOB NOT NULL,
        message TEXT NOT NULL,
        body TEXT,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        next_at INTEGER NOT NULL,
        error TEXT
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS open_webhooks ON webhooks (state) WHERE state IN ('waiting', 'due');";

const COLUMNS: &str = "process, url, secret, message, body, state, attempts, next_at, error";

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebhookState {
    /// The process has not ended.
    Waiting,
    /// It is to be told, or told again.
    Due,
    Delivered,
    /// Nobody took it, however often it was tried.
    GivenUp,
}

impl WebhookState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Due => "due",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }

    fn parse(text: &str) -> Self {
        let all = [Self::Waiting, Self::Due, Self::Delivered];
        let known = all.into_iter().find(|state| state.as_str() == text);
        known.unwrap_or(Self::GivenUp)
    }
}

/// A webhook of a process. `Debug` would show its secret, so there is none.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub process: ProcessId,
    pub url: String,
    /// What its messages are signed with.
    pub secret: Vec<u8>,
    /// The id of the message, the same for each try.
    pub message: String,
    /// What is told, once that is known: the same for each try.
    pub body: Option<String>,
    pub state: WebhookState,
    pub attempts: u32,
    /// When it is tried next, in seconds since 1970; of one that has come to its end, when that was.
    pub next_at: i64,
    /// Why the last try failed.
    pub error: Option<String>,
}

impl Webhook {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let process: String = row.get(0)?;
        let process = process.parse().map_err(|error: Error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
        })?;
        Ok(Self {
            process,
            url: row.get(1)?,
            secret: row.get(2)?,
            message: row.get(3)?,
            body: row.get(4)?,
            state: WebhookState::parse(&row.get::<_, String>(5)?),
            attempts: row.get(6)?,
            next_at: row.get(7)?,
            error: row.get(8)?,
        })
    }

    /// Writes it down, in place of the one that the process had.
    pub fn put(&self, database: &Connection) -> Result<(), Error> {
        let sql = format!(
            "INSERT OR REPLACE INTO webhooks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let put = database.execute(
            &sql,
            params![
                self.process.to_string(),
                self.url,
                self.secret,
                self.message,
                self.body,
                self.state.as_str(),
                self.attempts,
                self.next_at,
                self.error,
            ],
        );
        put.map(drop).map_err(|error| failed("webhooks", &error))
    }

    /// Writes down how far it has come, unless another one has taken its place, or another server has brought it to
    /// its end.
    pub fn update(&self, database: &Connection) -> Result<(), Error> {
        let sql = "UPDATE webhooks SET body = ?, state = ?, attempts = ?, next_at = ?, error = ?
                   WHERE process = ? AND message = ? AND state IN ('waiting', 'due')";
        let updated = database.execute(
            sql,
            params![
                self.body,
                self.state.as_str(),
                self.attempts,
                self.next_at,
                self.error,
                self.process.to_string(),
                self.message,
            ],
        );
        updated
            .map(drop)
            .map_err(|error| failed("webhooks", &error))
    }

    pub fn get(database: &Connection, process: ProcessId) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE process = ?");
        database
            .query_row(&sql, [process.to_string()], Self::of)
            .optional()
            .map_err(|error| failed("webhooks", &error))
    }

    /// False when there was none.
    pub fn delete(database: &Connection, process: ProcessId) -> Result<bool, Error> {
        let deleted = database.execute(
            "DELETE FROM webhooks WHERE process = ?",
            [process.to_string()],
        );
        deleted
            .map(|deleted| deleted > 0)
            .map_err(|error| failed("webhooks", &error))
    }

    /// Removes those that ended before this time, in seconds since 1970.
    pub fn forget_ended(database: &Connection, before: i64) -> Result<(), Error> {
        let forgotten = database.execute(
            "DELETE FROM webhooks WHERE state NOT IN ('waiting', 'due') AND next_at < ?",
            [before],
        );
        forgotten
            .map(drop)
            .map_err(|error| failed("webhooks", &error))
    }

    /// Those that something is still to be done for.
    pub fn open(database: &Connection) -> Result<Vec<Self>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM webhooks WHERE state IN ('waiting', 'due') ORDER BY next_at"
        );
        let listed = || -> rusqlite::Result<Vec<Self>> {
            let mut statement = database.prepare(&sql)?;
            statement.query_map([], Self::of)?.collect()
        };
        listed().map_err(|error| failed("webhooks", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_stays_so() {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(TABLE).unwrap();
        let mut webhook = Webhook {
            process: ProcessId::new(),
            url: String::new(),
            secret: Vec::new(),
            message: "msg_1".to_owned(),
            body: None,
            state: WebhookState::Due,
            attempts: 0,
            next_at: 0,
            error: None,
        };
        webhook.put(&database).unwrap();
        let mut late = webhook.clone();
        webhook.state = WebhookState::Delivered;
        webhook.update(&database).unwrap();
        late.error = Some("it was answered with 500".to_owned());
        late.update(&database).unwrap();
        let known = Webhook::get(&database, webhook.process).unwrap().unwrap();
        assert_eq!((known.state, known.error), (WebhookState::Delivered, None));
    }

    #[test]
    fn what_has_come_to_its_end_goes_when_it_is_old() {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(TABLE).unwrap();
        use WebhookState::{Delivered, Due, GivenUp, Waiting};
        let put = |state, next_at| {
            let webhook = Webhook {
                process: ProcessId::new(),
                url: String::new(),
                secret: Vec::new(),
                message: String::new(),
                body: None,
                state,
                attempts: 0,
                next_at,
                error: None,
            };
            webhook.put(&database).unwrap();
            webhook.process
        };
        let all = [
            (Waiting, 0),
            (Due, 9),
            (Delivered, 9),
            (GivenUp, 9),
            (Delivered, 10),
        ];
        let all = all.map(|(state, at)| put(state, at));
        Webhook::forget_ended(&database, 10).unwrap();
        let there = all.map(|process| Webhook::get(&database, process).unwrap().is_some());
        assert_eq!(there, [true, true, false, false, true]);
    }
}
