//! Data of the server itself, in `server.db` in its folder: uploaded files, batches. Data that the queue has is
//! not stored twice.

pub(crate) mod batches;
pub(crate) mod database;
pub(crate) mod files;
#[cfg(test)]
mod tests;
pub(crate) mod webhooks;

use std::path::Path;
use std::sync::Arc;

use batchwright::Error;
use batchwright::queue::Durability;

use crate::background::Wake;

use database::{connect, failed};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};
use rusqlite::{Connection, Transaction, TransactionBehavior};

/// The tables, defined where their records are. Released ones never change; new ones are appended.
const TABLES: &[&str] = &[files::TABLE, batches::TABLE, webhooks::TABLE];

/// An open database of records.
pub(crate) struct Records {
    /// Reentrant, so that a function that is called while it is locked can read records, too.
    database: ReentrantMutex<Connection>,
    /// Wakes the thread that sends messages, if the server has a webhook.
    pub webhook: Option<Arc<Wake>>,
}

impl Records {
    /// Opens the file, which is created if it does not exist.
    ///
    /// # Errors
    /// When it cannot be used; the message names its path and a remedy.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        Ok(Self {
            database: ReentrantMutex::new(connect(path, durability, TABLES)?),
            webhook: None,
        })
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> ReentrantMutexGuard<'_, Connection> {
        self.database.lock()
    }

    /// Executes all of `work` or nothing of it.
    ///
    /// # Errors
    /// That of `work`, or of the database.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let database = self.single();
        let failed = |error: rusqlite::Error| E::from(failed(&database, &error));
        let transaction = Transaction::new_unchecked(&database, TransactionBehavior::Immediate)
            .map_err(failed)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }
}
