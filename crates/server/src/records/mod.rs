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

use database::{Database, Statements};

/// The tables, defined where their records are. Released ones never change; new ones are appended.
const TABLES: &[&str] = &[files::TABLE, batches::TABLE, webhooks::TABLE];

/// An open database of records.
pub(crate) struct Records {
    database: Database,
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
            database: Database::open(path, durability, TABLES)?,
            webhook: None,
        })
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> Statements<'_> {
        Statements::Single(&self.database)
    }

    /// Executes all of `work` or nothing of it.
    ///
    /// # Errors
    /// That of `work`, or of the database.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Statements<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.database.transaction(work)
    }
}
