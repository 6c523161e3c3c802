//! Other tables in the same database: data of HTTP servers, over the same connections and with the same rules for
//! retries.

use std::sync::Arc;

use rusqlite::types::Value;

use crate::base::{Error, ErrorKind, ProcessId};
use crate::queue::store::SqlValue;
use crate::queue::store::sql::statements::Statements as _;

use super::MysqlStore;
use super::writer::{Again, Fault, Tx};

/// Tables of a queue's database, for a server of the queue. **Unstable**: it may change in any release.
///
/// `#name` in a statement is replaced by the name of a table, which has the table of jobs as its prefix. If a lost
/// connection leaves the outcome of a statement or transaction in doubt, it is executed again, so both must be
/// idempotent.
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
    /// The tables of a store, for one server. The server counts as alive until this is dropped, or the store cannot
    /// reach the database for the duration of a [lease](super::MysqlOptions::lease).
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

    /// The name of this server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the server with this name has ended. It may return, so its later writes must be rejected.
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

    /// The rows that a statement finds, in its own transaction.
    ///
    /// # Errors
    /// When the database cannot be reached, or rejects the statement.
    pub fn rows(&self, sql: &str, by: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, Error> {
        self.store.read(|tx| rows(tx, sql, by.to_vec()))
    }

    /// Executes a statement in its own transaction. Returns the number of rows that it found, changed or not.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn run(&self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        self.store.read(|tx| tx.run(sql, bound(by.to_vec())))
    }

    /// Executes `work` in one transaction, and repeats it after a conflict with other transactions.
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
                Fault::Refused(Error::new(
                    ErrorKind::Cancelled,
                    "rolled back by the caller",
                ))
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

/// A transaction of [`MysqlTables`]. A failed statement ends it, even if the caller ignores the error.
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
    /// When the statement fails.
    pub fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, Error> {
        let found = rows(self.tx, sql, by.to_vec());
        self.noted(found)
    }

    /// Executes a statement. Returns the number of rows that it found, changed or not.
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
