//! Data of the server itself, in `server.db` next to the queue or in the queue's database: idempotency keys, uploaded
//! files. Data that the queue has is not stored twice.

pub(crate) mod batches;
pub(crate) mod database;
pub(crate) mod files;
mod idempotency;
pub(crate) mod objects;
pub(crate) mod owner;
mod reads;
pub(crate) mod settled;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod webhooks;

use std::collections::HashSet;
use std::path::Path;

use batchwright::progress::Timestamp;
use batchwright::queue::Durability;
#[cfg(feature = "mysql")]
use batchwright::unstable::MysqlTables;
use batchwright::{Error, JobQueue};
use parking_lot::{Condvar, Mutex};

use database::{Database, Single, Statements, by};
pub(crate) use idempotency::{Asked, Claim, Hash, HeldKey, Makes, busy, hash};
pub(crate) use reads::ReadEnd;

/// The tables, defined where their records are. Released ones never change; new ones are appended.
const TABLES: &[&str] = &[
    idempotency::TABLE,
    files::TABLE,
    batches::TABLE,
    webhooks::TABLE,
    reads::TABLE,
    objects::TABLE,
];

/// An open database of records.
pub(crate) struct Records {
    database: Database,
    keys: Keys,
}

/// The idempotency keys whose requests threads of this server perform.
#[derive(Default)]
struct Keys {
    held: Mutex<HashSet<Hash>>,
    released: Condvar,
    /// When old ones were last forgotten.
    looked: Mutex<Timestamp>,
}

impl Records {
    /// Opens the file, which is created if it does not exist. If it cannot be used, every use fails, see
    /// [`check`](Self::check).
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        Database::open(path, durability, TABLES).map(Self::on)
    }

    /// Checks that they can be used.
    ///
    /// # Errors
    /// When `server.db` is damaged, newer than this program, or cannot be written; the message names its path and a remedy.
    pub fn check(&self) -> Result<(), Error> {
        match &self.database {
            Database::Unusable(_, error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Those in the database of a queue, which servers on other machines share.
    #[cfg(feature = "mysql")]
    pub fn shared(tables: MysqlTables) -> Self {
        Self::on(Database::Server(tables))
    }

    fn on(database: Database) -> Self {
        Self {
            database,
            keys: Keys::default(),
        }
    }

    /// The name of this server among those that share the records.
    pub fn name(&self) -> &str {
        self.database.name()
    }

    /// Whether another one of them has ended.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_dead(&self, name: &str) -> Result<bool, Error> {
        self.database.is_dead(name)
    }

    /// True where servers on other machines share them.
    pub fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> Single<'_> {
        self.database.single()
    }

    /// Executes all of `work` or nothing of it. It may be repeated from the beginning.
    ///
    /// # Errors
    /// That of `work`, or of the database.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnMut(&mut dyn Statements) -> Result<T, E>,
    ) -> Result<T, E> {
        self.database.transaction(work)
    }

    /// Whether this server, and no other that shares the records, has this role. Check it before each action.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn has_role(&self, role: &'static str) -> Result<bool, Error> {
        self.database.has_role(role)
    }

    /// The queue for jobs that this server adds in a role: it rejects them if the server has lost the role.
    pub fn queue_of_role(&self, queue: &JobQueue, role: &'static str) -> JobQueue {
        let guard = self.database.guard(
            "UPDATE #roles SET owner = owner WHERE name = ? AND owner = ?",
            by![role, self.name()],
        );
        match guard {
            Some(guard) => queue.guarded(guard),
            None => queue.clone(),
        }
    }

    /// Another server may do it from now on.
    pub fn leave_role(&self, role: &'static str) {
        self.database.leave_role(role);
    }
}
