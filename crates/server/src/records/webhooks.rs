//! Webhooks: what each reports the end of, to which address, and how far its delivery has come.

use std::fmt;
use std::str::FromStr;
use std::sync::Once;

use batchwright::{Error, ErrorKind, JobId, ProcessId};

use super::database::{Row, Statements, by};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS webhooks (
        process TEXT PRIMARY KEY, -- or a job or a batch, see `Subject`
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

/// Whether a webhook that cannot be read was reported.
static WARNED: Once = Once::new();

const COLUMNS: &str = "process, url, secret, message, body, state, attempts, next_at, error";

/// What a webhook reports the end of. As text, a process is its id; a job and a batch of `/v1` have a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Process(ProcessId),
    Job(JobId),
    Batch(String),
    /// A deleted process whose id another one has now: its message is still sent.
    Former(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id) => id.fmt(f),
            Self::Job(id) => write!(f, "job_{id}"),
            Self::Batch(id) => f.write_str(id),
            Self::Former(message) => write!(f, "former_{message}"),
        }
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let odd = |_| Error::new(ErrorKind::Malformed, "a webhook is damaged").with_storage();
        if let Some(message) = text.strip_prefix("former_") {
            return Ok(Self::Former(message.to_owned()));
        }
        match text.strip_prefix("job_") {
            Some(id) => id.parse().map(Self::Job).map_err(odd),
            None if text.starts_with("batch_") => Ok(Self::Batch(text.to_owned())),
            None => text.parse().map(Self::Process).map_err(odd),
        }
    }
}

/// A webhook whose message is due now or later.
pub(crate) struct DueWebhook {
    pub subject: Subject,
    pub url: String,
    pub next_at: i64,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
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
        self.into()
    }
}

/// A webhook. It has no `Debug`, which would show its secret.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub subject: Subject,
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
            subject: row.text(0)?.parse()?,
            url: row.text(1)?,
            secret: row.optional_bytes(2)?.unwrap_or_default(),
            message: row.text(3)?,
            body: row.optional_text(4)?,
            state: row.text(5)?.parse().unwrap_or(WebhookState::GivenUp),
            attempts: u32::try_from(row.int(6)?).unwrap_or(u32::MAX),
            next_at: row.int(7)?,
            error: row.optional_text(8)?,
        })
    }

    /// Records it, in place of an earlier one of its subject.
    pub fn put(&self, database: &mut dyn Statements) -> Result<(), Error> {
        self.write("REPLACE", database)
    }

    /// Records it, unless its subject has one.
    pub fn add(&self, database: &mut dyn Statements) -> Result<(), Error> {
        self.write("INSERT OR IGNORE", database)
    }

    fn write(&self, verb: &str, database: &mut dyn Statements) -> Result<(), Error> {
        let sql = format!("{verb} INTO webhooks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let by = by![
            self.subject.to_string(),
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
        let sql = "UPDATE webhooks SET body = ?, state = ?, attempts = ?, next_at = ?, error = ?
                   WHERE process = ? AND message = ? AND state IN ('waiting', 'due')";
        let by = by![
            self.body.as_deref(),
            self.state.as_str(),
            i64::from(self.attempts),
            self.next_at,
            self.error.as_deref(),
            self.subject.to_string(),
            &*self.message,
        ];
        database.run(sql, by).map(drop)
    }

    /// Frees its subject for another webhook. If its message was not delivered, it is still sent, with this body.
    pub fn set_aside(&self, body: &str, database: &mut dyn Statements) -> Result<(), Error> {
        let former = Subject::Former(self.message.clone()).to_string();
        let (subject, message) = (self.subject.to_string(), &*self.message);
        let sql = "UPDATE webhooks SET process = ?, body = ?, state = 'due'
                   WHERE process = ? AND message = ? AND state IN ('waiting', 'due')";
        let is_open = database.run(sql, by![former, body, subject.clone(), message])? > 0;
        if !is_open {
            let sql = "DELETE FROM webhooks WHERE process = ? AND message = ?";
            database.run(sql, by![subject, message])?;
        }
        Ok(())
    }

    /// Has its message sent again, from the first attempt. False if there is no webhook, or no message yet.
    pub fn send_again(database: &mut dyn Statements, subject: &Subject) -> Result<bool, Error> {
        let sql = "UPDATE webhooks SET state = 'due', attempts = 0, next_at = 0, error = NULL
                   WHERE process = ? AND state <> 'waiting'";
        Ok(database.run(sql, by![subject.to_string()])? > 0)
    }

    pub fn get(database: &mut dyn Statements, subject: &Subject) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE process = ?");
        let found = database.first(&sql, by![subject.to_string()])?;
        found.map(Self::of).transpose()
    }

    /// False when there was none.
    pub fn delete(database: &mut dyn Statements, subject: &Subject) -> Result<bool, Error> {
        let sql = "DELETE FROM webhooks WHERE process = ?";
        Ok(database.run(sql, by![subject.to_string()])? > 0)
    }

    /// Removes those that ended before this time, in seconds since 1970.
    pub fn forget_ended(database: &mut dyn Statements, before: i64) -> Result<(), Error> {
        let sql = "DELETE FROM webhooks WHERE state NOT IN ('waiting', 'due') AND next_at < ?";
        database.run(sql, by![before]).map(drop)
    }

    /// Up to `most` webhooks whose subjects had not ended, after this one, and the last subject if there may be more.
    pub fn waiting(
        database: &mut dyn Statements,
        after: &str,
        most: i64,
    ) -> Result<(Vec<Self>, Option<String>), Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM webhooks WHERE state = 'waiting' AND process > ? ORDER BY process LIMIT ?"
        );
        let mut rows = database.rows(&sql, by![after, most])?;
        let is_full = i64::try_from(rows.len()) == Ok(most);
        let last = rows.last_mut().filter(|_| is_full);
        let last = last.map(|row| row.clone().text(0)).transpose()?;
        Ok((readable(rows, Self::of), last))
    }

    /// The webhooks whose messages are due, the next one first.
    pub fn due(database: &mut dyn Statements) -> Result<Vec<DueWebhook>, Error> {
        let sql =
            "SELECT process, url, next_at FROM webhooks WHERE state = 'due' ORDER BY next_at";
        let due = |mut row: Row| {
            Ok(DueWebhook {
                subject: row.text(0)?.parse()?,
                url: row.text(1)?,
                next_at: row.int(2)?,
            })
        };
        Ok(readable(database.rows(sql, &[])?, due))
    }
}

/// Skips rows that cannot be read: a newer server of the same database may have written subjects that this one does not
/// know, and all other messages are still to be sent.
fn readable<T>(rows: Vec<Row>, read: impl Fn(Row) -> Result<T, Error>) -> Vec<T> {
    let read = |row| match read(row) {
        Ok(webhook) => Some(webhook),
        Err(error) => {
            // Once: the rows are read twice a second.
            WARNED.call_once(|| log::warn!("a webhook is not sent: {error}"));
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::testing::in_each_place;

    fn webhook(state: WebhookState, next_at: i64) -> Webhook {
        Webhook {
            subject: Subject::Process(ProcessId::new()),
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
            let known = Webhook::get(database, &webhook.subject).unwrap().unwrap();
            assert_eq!((known.state, known.error), (WebhookState::Delivered, None));
            assert_eq!(known.secret, [0, 255]);
        });
    }

    #[test]
    fn a_webhook_of_an_unknown_subject_stops_no_other() {
        in_each_place(|open| {
            let records = open();
            let database = &mut records.single();
            for state in [WebhookState::Waiting, WebhookState::Due] {
                let mut one = webhook(state, 0);
                one.put(database).unwrap();
                // As a newer server may write it; after all ids.
                one.subject = Subject::Batch(format!("unknown_{}", state.as_str()));
                one.put(database).unwrap();
            }
            assert_eq!(Webhook::due(database).unwrap().len(), 1);
            let (found, last) = Webhook::waiting(database, "", 2).unwrap();
            assert_eq!((found.len(), last.as_deref()), (1, Some("unknown_waiting")));
            let (found, last) = Webhook::waiting(database, "unknown_waiting", 2).unwrap();
            assert!(found.is_empty() && last.is_none());
        });
    }

    #[test]
    fn a_subject_is_read_as_it_was_written() {
        let batch = crate::records::files::new_id("batch_");
        for subject in [
            Subject::Process(ProcessId::new()),
            Subject::Job(JobId::from_bytes(ProcessId::new().bytes())),
            Subject::Batch(batch),
            Subject::Former(crate::records::files::new_id("msg_")),
        ] {
            let text = subject.to_string();
            assert!(text.len() <= 64, "the column of database servers: {text}");
            assert_eq!(text.parse::<Subject>().unwrap(), subject);
        }
        assert!("batch".parse::<Subject>().is_err());
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
                webhook.subject
            });
            assert_eq!(Webhook::waiting(database, "", 9).unwrap().0.len(), 1);
            assert_eq!(Webhook::due(database).unwrap().len(), 1);
            Webhook::forget_ended(database, 10).unwrap();
            let there = all
                .each_ref()
                .map(|subject| Webhook::get(database, subject).unwrap().is_some());
            assert_eq!(there, [true, true, false, false, true]);
            assert!(!Webhook::send_again(database, &all[0]).unwrap());
            assert!(Webhook::send_again(database, &all[4]).unwrap());
            assert_eq!(Webhook::due(database).unwrap().len(), 2);
            assert!(Webhook::delete(database, &all[0]).unwrap());
            assert!(!Webhook::delete(database, &all[0]).unwrap());
        });
    }
}
