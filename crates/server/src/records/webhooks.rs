//! Who is to be told of the end of which process, and how far that has come.

use batchwright::{Error, ProcessId};

use super::database::{Row, Statements, by};

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
    fn of(mut row: Row) -> Result<Self, Error> {
        Ok(Self {
            process: row.text(0)?.parse()?,
            url: row.text(1)?,
            secret: row.optional_bytes(2)?.unwrap_or_default(),
            message: row.text(3)?,
            body: row.optional_text(4)?,
            state: WebhookState::parse(&row.text(5)?),
            attempts: u32::try_from(row.int(6)?).unwrap_or(u32::MAX),
            next_at: row.int(7)?,
            error: row.optional_text(8)?,
        })
    }

    /// Writes it down, in place of the one that the process had.
    pub fn put(&self, database: &mut dyn Statements) -> Result<(), Error> {
        let sql = format!("REPLACE INTO #webhooks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let by = by![
            self.process.to_string(),
            &*self.url,
            &self.secret[..],
            &*self.message,
            self.body.as_deref(),
            self.state.as_str(),
            i64::from(self.attempts),
            self.next_at,
            self.error.as_deref(),
        ];
        database.run(&sql, by).map(drop)
    }

    /// Writes down how far it has come, unless another one has taken its place, or another server has brought it to
    /// its end.
    pub fn update(&self, database: &mut dyn Statements) -> Result<(), Error> {
        let sql = "UPDATE #webhooks SET body = ?, state = ?, attempts = ?, next_at = ?, error = ?
                   WHERE process = ? AND message = ? AND state IN ('waiting', 'due')";
        let by = by![
            self.body.as_deref(),
            self.state.as_str(),
            i64::from(self.attempts),
            self.next_at,
            self.error.as_deref(),
            self.process.to_string(),
            &*self.message,
        ];
        database.run(sql, by).map(drop)
    }

    pub fn get(database: &mut dyn Statements, process: ProcessId) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM #webhooks WHERE process = ?");
        let found = database.first(&sql, by![process.to_string()])?;
        found.map(Self::of).transpose()
    }

    /// False when there was none.
    pub fn delete(database: &mut dyn Statements, process: ProcessId) -> Result<bool, Error> {
        let sql = "DELETE FROM #webhooks WHERE process = ?";
        Ok(database.run(sql, by![process.to_string()])? > 0)
    }

    /// Removes those that ended before this time, in seconds since 1970.
    pub fn forget_ended(database: &mut dyn Statements, before: i64) -> Result<(), Error> {
        let sql = "DELETE FROM #webhooks WHERE state NOT IN ('waiting', 'due') AND next_at < ?";
        database.run(sql, by![before]).map(drop)
    }

    /// Those that something is still to be done for.
    pub fn open(database: &mut dyn Statements) -> Result<Vec<Self>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM #webhooks WHERE state IN ('waiting', 'due') ORDER BY next_at"
        );
        let rows = database.rows(&sql, &[])?;
        rows.into_iter().map(Self::of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::testing::in_each_place;

    fn webhook(state: WebhookState, next_at: i64) -> Webhook {
        Webhook {
            process: ProcessId::new(),
            url: String::new(),
            secret: vec![0, 255],
            message: "msg_1".to_owned(),
            body: None,
            state,
            attempts: 0,
            next_at,
            error: None,
        }
    }

    #[test]
    fn what_was_delivered_stays_so() {
        in_each_place(|open| {
            let records = open();
            let database = &mut records.single();
            let mut webhook = webhook(WebhookState::Due, 0);
            webhook.put(database).unwrap();
            let mut late = webhook.clone();
            webhook.state = WebhookState::Delivered;
            webhook.update(database).unwrap();
            late.error = Some("it was answered with 500".to_owned());
            late.update(database).unwrap();
            let known = Webhook::get(database, webhook.process).unwrap().unwrap();
            assert_eq!((known.state, known.error), (WebhookState::Delivered, None));
            assert_eq!(known.secret, [0, 255]);
        });
    }

    #[test]
    fn what_has_come_to_its_end_goes_when_it_is_old() {
        use WebhookState::{Delivered, Due, GivenUp, Waiting};
        in_each_place(|open| {
            let records = open();
            let database = &mut records.single();
            let all = [
                (Waiting, 0),
                (Due, 9),
                (Delivered, 9),
                (GivenUp, 9),
                (Delivered, 10),
            ];
            let all = all.map(|(state, at)| {
                let webhook = webhook(state, at);
                webhook.put(database).unwrap();
                webhook.process
            });
            assert_eq!(Webhook::open(database).unwrap().len(), 2);
            Webhook::forget_ended(database, 10).unwrap();
            let there = all.map(|process| Webhook::get(database, process).unwrap().is_some());
            assert_eq!(there, [true, true, false, false, true]);
            assert!(Webhook::delete(database, all[0]).unwrap());
            assert!(!Webhook::delete(database, all[0]).unwrap());
        });
    }
}
