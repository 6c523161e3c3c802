//! Objects that are stored for a limited time: responses, uploads and the parts of uploads of the OpenAI-compatible API.

use batchwright::{Error, ErrorKind, ProcessId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::{Row, Statements, by};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        parent TEXT,         -- the upload of a part
        process TEXT,        -- the process of the queue that makes it, until it is complete
        expires_at INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS objects_by_size ON objects (kind, number, bytes);
    CREATE INDEX IF NOT EXISTS objects_by_expiry ON objects (expires_at);
    CREATE INDEX IF NOT EXISTS objects_by_parent ON objects (parent) WHERE parent IS NOT NULL;
    CREATE INDEX IF NOT EXISTS objects_by_process ON objects (process) WHERE process IS NOT NULL;";

const COLUMNS: &str = "id, kind, parent, process, expires_at, record";

/// The type of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ObjectKind {
    Response,
    Upload,
    Part,
}

impl ObjectKind {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A stored object.
#[derive(Debug, Clone)]
pub(crate) struct ObjectRecord {
    pub id: String,
    pub kind: ObjectKind,
    /// The upload of a part.
    pub parent: Option<String>,
    /// The process of the queue that makes it, until it is complete.
    pub process: Option<ProcessId>,
    /// In seconds since 1970.
    pub expires_at: u64,
    /// What is stored, as JSON.
    pub record: String,
}

impl ObjectRecord {
    /// An object that stores nothing yet.
    pub fn new(kind: ObjectKind, id: String, expires_at: u64) -> Self {
        Self {
            id,
            kind,
            parent: None,
            process: None,
            expires_at,
            record: String::new(),
        }
    }

    /// Sets what is stored.
    pub fn set(&mut self, value: &impl Serialize) {
        self.record = serde_json::to_string(value).expect("what is stored has a form in JSON");
    }

    /// What is stored.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(&self.record).map_err(|error| {
            let why = format!("{} is damaged: {error}", self.id);
            Error::new(ErrorKind::Malformed, why).with_storage()
        })
    }

    fn of(mut row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.text(0)?,
            kind: row.text(1)?.parse().unwrap_or(ObjectKind::Response),
            parent: row.optional_text(2)?,
            process: row.optional_text(3)?.map(|id| id.parse()).transpose()?,
            expires_at: u64::try_from(row.int(4)?).unwrap_or_default(),
            record: row.text(5)?,
        })
    }

    pub fn insert(&self, database: &mut dyn Statements) -> Result<(), Error> {
        let sql = format!("REPLACE INTO objects ({COLUMNS}, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)");
        let by = by![
            &*self.id,
            self.kind.as_str(),
            self.parent.as_deref(),
            self.process.map(|process| process.to_string()),
            self.expires_at as i64,
            &*self.record,
            self.record.len() as i64
        ];
        database.run(&sql, by).map(drop)
    }

    /// Writes what is stored, and the process. Does nothing if the object was deleted.
    pub fn update(&self, database: &mut dyn Statements) -> Result<(), Error> {
        let sql = "UPDATE objects SET process = ?, record = ?, bytes = ? WHERE id = ?";
        let by = by![
            self.process.map(|process| process.to_string()),
            &*self.record,
            self.record.len() as i64,
            &*self.id
        ];
        database.run(sql, by).map(drop)
    }

    pub fn get(
        database: &mut dyn Statements,
        kind: ObjectKind,
        id: &str,
    ) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM objects WHERE id = ? AND kind = ?");
        let row = database.first(&sql, by![id, kind.as_str()])?;
        row.map(Self::of).transpose()
    }

    pub fn delete(database: &mut dyn Statements, id: &str) -> Result<(), Error> {
        let sql = "DELETE FROM objects WHERE id = ?";
        database.run(sql, by![id]).map(drop)
    }

    /// The parts of an upload, oldest first.
    pub fn parts(database: &mut dyn Statements, parent: &str) -> Result<Vec<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM objects WHERE parent = ? ORDER BY number");
        let rows = database.rows(&sql, by![parent])?;
        rows.into_iter().map(Self::of).collect()
    }

    /// Those that a process still makes: their ids and the processes.
    pub fn in_progress(database: &mut dyn Statements) -> Result<Vec<(String, ProcessId)>, Error> {
        let sql = "SELECT id, process FROM objects WHERE process IS NOT NULL";
        let rows = database.rows(sql, &[])?.into_iter();
        let read = |mut row: Row| Ok((row.text(0)?, row.text(1)?.parse()?));
        rows.map(read).collect()
    }

    /// Some expired objects, without what is stored.
    pub fn expired(database: &mut dyn Statements, now: u64) -> Result<Vec<Self>, Error> {
        let sql = "SELECT id, kind, parent, process, expires_at, '' FROM objects
                   WHERE expires_at <= ? LIMIT 1000";
        let rows = database.rows(sql, by![now as i64])?;
        rows.into_iter().map(Self::of).collect()
    }

    /// Deletes the oldest complete objects of a kind until the others are at most this large together.
    pub fn shrink(database: &mut dyn Statements, kind: ObjectKind, most: u64) -> Result<(), Error> {
        let sum = "SELECT SUM(bytes) FROM objects WHERE kind = ?";
        let sum = database.first(sum, by![kind.as_str()])?;
        let sum = sum.map(|mut row| row.optional_int(0)).transpose()?;
        let mut excess = sum.flatten().unwrap_or(0) - i64::try_from(most).unwrap_or(i64::MAX);
        if excess <= 0 {
            return Ok(());
        }
        let oldest = "SELECT id, bytes FROM objects WHERE kind = ? AND process IS NULL
                      ORDER BY number LIMIT 1000";
        for mut row in database.rows(oldest, by![kind.as_str()])? {
            if excess <= 0 {
                break;
            }
            Self::delete(database, &row.text(0)?)?;
            excess -= row.int(1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use batchwright::queue::Durability;

    use super::*;
    use crate::records::Records;

    fn response(n: u64, process: Option<ProcessId>) -> ObjectRecord {
        ObjectRecord {
            id: format!("resp_{n}"),
            kind: ObjectKind::Response,
            parent: None,
            process,
            expires_at: 100 * n,
            record: format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(100)),
        }
    }

    #[test]
    fn the_oldest_complete_responses_are_deleted_for_want_of_room() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
        let records = open();
        let mut database = records.single();
        for n in 1..=4 {
            let process = (n == 1).then(ProcessId::new);
            response(n, process).insert(&mut database).unwrap();
        }
        let most = 2 * response(1, None).record.len() as u64;
        ObjectRecord::shrink(&mut database, ObjectKind::Response, most).unwrap();
        let mut is_there = |n| {
            let id = format!("resp_{n}");
            let found = ObjectRecord::get(&mut database, ObjectKind::Response, &id);
            found.unwrap().is_some()
        };
        assert_eq!([1, 2, 3, 4].map(&mut is_there), [true, false, false, true]);
        let in_progress = ObjectRecord::in_progress(&mut database).unwrap();
        assert_eq!((in_progress.len(), &*in_progress[0].0), (1, "resp_1"));
        let expired = ObjectRecord::expired(&mut database, 399).unwrap();
        assert_eq!(expired.len(), 1);
        assert!(expired[0].process.is_some());
        let mut one = response(4, None);
        one.set(&7);
        one.update(&mut database).unwrap();
        let one = ObjectRecord::get(&mut database, ObjectKind::Response, "resp_4");
        assert_eq!(one.unwrap().unwrap().read::<u8>().unwrap(), 7);
    }
}
