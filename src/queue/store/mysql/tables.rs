//! Other tables in the same database: what servers keep beside the jobs, over the same connections and with the same
//! rules of what is tried again.

use std::sync::Arc;

use rusqlite::types::Value;

use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::queue::store::SqlValue;
use crate::queue::store::sql::statements::Statements as _;

use super::MysqlStore;
use super::writer::{Again, Fault, Tx};

/// Tables of a queue's database, for a server of the queue. **Unstable**: it may change in any release.
///
/// `#name` in a statement stands for a table, whose name begins as that of the table of jobs. A statement that a lost
/// connection leaves in doubt is carried out again, and so is a transaction: both have to bear that.
#[derive(derive_more::Debug)]
#[debug("MysqlTables {{ location: {:?}, .. }}", store.database.location)]
pub struct MysqlTables {
    store: Arc<MysqlStore>,
    name: String,
}

/// Values for statements.
fn bound(values: Vec<SqlValue>) -> Vec<Value> {
    values.into_iter().map(Value::from).collect()
}

fn read(value: Value) -> Result<SqlValue, Fault> {
    match value {
        Value::Null => Ok(SqlValue::Null),
        Value::Integer(number) => Ok(SqlValue::Int(number)),
        Value::Text(text) => Ok(SqlValue::Text(text)),
        Value::Blob(bytes) => Ok(SqlValue::Bytes(bytes)),
        Value::Real(_) => Err(Fault::Odd("a column of another type")),
    }
}

fn rows(tx: &mut Tx<'_>, sql: &str, by: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, Fault> {
    let rows = tx.rows(sql, bound(by))?;
    let cells = rows.into_iter().map(|row| {
        let cells = row.values().into_iter().map(read);
        cells.collect()
    });
    cells.collect()
}

impl MysqlTables {
    /// The tables of a store, for one server, which counts as alive until this is dropped or the store cannot reach the
    /// database for the time of a [lease](super::MysqlOptions::lease).
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn of(store: &Arc<MysqlStore>) -> Result<Self, Error> {
        let name = ProcessId::new().to_string();
        store.heartbeat.add_owner(&name)?;
        Ok(Self {
            store: store.clone(),
            name,
        })
    }

    /// What this server is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the server of this name has ended. It may come back: what it writes then has to be refused.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn is_dead(&self, name: &str) -> Result<bool, Error> {
        if name == self.name {
            Ok(false)
        } else {
            self.store.heartbeat.is_owner_dead(name)
        }
    }

    /// The rows that a statement finds, committed by itself.
    ///
    /// # Errors
    /// When the database cannot be reached, or refuses it.
    pub fn rows(&self, sql: &str, by: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, Error> {
        self.store.read(|tx| rows(tx, sql, by.to_vec()))
    }

    /// Carries out a statement, committed by itself. Returns how many rows it found, changed or not.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn run(&self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        self.store.read(|tx| tx.run(sql, bound(by.to_vec())))
    }

    /// Carries out all of `work` or nothing of it; again from the beginning if others were in its way.
    ///
    /// # Errors
    /// That of `work`, or as [`rows`](Self::rows).
    pub fn transaction<T, E: From<Error>>(
        &self,
        mut work: impl FnMut(&mut TablesTransaction<'_, '_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut refused = None;
        let done = self.store.write(Again::Harmless, |tx| {
            let mut transaction = TablesTransaction { tx, fault: None };
            let done = work(&mut transaction);
            if let Some(fault) = transaction.fault {
                return Err(fault);
            }
            done.map_err(|error| {
                refused = Some(error);
                Fault::Refused(Error::new(ErrorKind::Cancelled, "refused by its caller"))
            })
        });
        match (done, refused) {
            (Ok(done), _) => Ok(done),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(error.into()),
        }
    }
}

impl Drop for MysqlTables {
    fn drop(&mut self) {
        self.store.heartbeat.remove_owner(&self.name);
    }
}

/// What a transaction of [`MysqlTables`] does. A statement that fails ends it, whatever becomes of the error.
#[derive(derive_more::Debug)]
#[debug("TablesTransaction")]
pub struct TablesTransaction<'t, 'c> {
    tx: &'t mut Tx<'c>,
    fault: Option<Fault>,
}

impl TablesTransaction<'_, '_> {
    /// The rows that a statement finds.
    ///
    /// # Errors
    /// When it fails.
    pub fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, Error> {
        let found = rows(self.tx, sql, by.to_vec());
        self.noted(found)
    }

    /// Carries out a statement. Returns how many rows it found, changed or not.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&mut self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        let changed = self.tx.run(sql, bound(by.to_vec()));
        self.noted(changed)
    }

    fn noted<T>(&mut self, done: Result<T, Fault>) -> Result<T, Error> {
        done.map_err(|fault| {
            self.fault = Some(fault);
            Error::new(ErrorKind::Transient, "a statement failed").with_storage()
        })
    }
}
