//! The store of jobs in MySQL or MariaDB, for workers on any number of machines.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. Claims, settlements and
//! chores therefore cannot deadlock with each other. Only parent and child processes can; then the server detects the
//! deadlock and one transaction is repeated ([`writer`]). Long operations are decided in one short transaction and
//! applied in many ([`chores`]).

mod clock;
mod inspect;
mod lanes;
mod lease;
mod news;
mod open;
mod pool;
mod workers;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::base::{Clock, Error, Timestamp};
use crate::queue::job::Job;

use super::group_commit::{Insert, Inserted};
use super::sql::statements::{Fault, Statements};
use super::sql::{Again, SharedState, SqlStore, chores};
use super::{HealthFinding, JobLane, StoreDatabase, Wakes, WorkSignal, WorkerId};
use clock::{Offset, ServerClock};
use lease::Heartbeat;
use news::News;
use pool::Pool;
use writer::too_large;

pub use open::MysqlOptions;

/// The server, and the names of the tables.
struct Database {
    pool: Pool,
    /// The name of the table of jobs, which is the prefix of the other names.
    tables: String,
    /// The address without a credential.
    location: String,
    /// The difference between the clocks of server and machine.
    offset: Offset,
    /// Set only in a simulation.
    #[cfg(test)]
    wire: Option<Arc<wire::Wire>>,
}

/// The jobs in a database of MySQL 8 or MariaDB 10.6 and newer. Clones are cheap; one store per OS process is enough.
///
/// A worker counts as alive as long as its lease, by the clock of the database; a thread of the store renews it. When a
/// lease expires, others take over the worker's jobs and batches. Ends that the worker records afterwards do not count,
/// except successes of jobs that have not ended.
#[derive(derive_more::Debug)]
#[debug("MysqlStore {{ location: {:?}, .. }}", database.location)]
pub struct MysqlStore {
    database: Arc<Database>,
    id: String,
    shared: SharedState,
    folder: PathBuf,
    heartbeat: Heartbeat,
    lane_numbers: Mutex<HashMap<JobLane, i64>>,
    wakes: Arc<Wakes>,
    news: News,
    /// Whether maintenance first waits for other workers to renew their leases; false in a simulation of time.
    #[cfg(test)]
    awaits_others: bool,
}

impl Database {
    /// Leases could not be renewed in time.
    fn unsteady(&self) {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.unsteady();
        }
        self.pool.unsteady();
    }

    /// Time since the last lost connection or late renewal.
    fn steady_for(&self) -> std::time::Duration {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.steady_for();
        }
        self.pool.steady_for()
    }
}

impl MysqlStore {
    /// Opens the database, and creates the tables if they do not exist.
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the address or password is rejected, the server is too old,
    /// or the tables have a newer version; [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the server cannot
    /// be reached. Messages never contain the password.
    pub fn open(options: MysqlOptions) -> Result<Self, Error> {
        open::open(options)
    }

    /// Connects the workers on all machines through Redis or Valkey; all of them must use it. An OS process that makes
    /// jobs claimable then wakes them at once; otherwise they notice it within a second. Default: no Redis.
    #[cfg(feature = "redis")]
    pub fn with_redis(mut self, hub: &crate::hub::RedisHub) -> Self {
        self.news = News::through(hub.clone(), &self.id, self.wakes.clone());
        self
    }

    /// Rejects a job that is too large for the server.
    fn check_fits(&self, job: &Job) -> Result<(), Error> {
        let (bytes, most) = (job.payload.get().len(), self.database.most_value());
        if bytes <= most {
            return Ok(());
        }
        let name = job.item_id.as_deref().map(|id| format!("the job {id:?}"));
        Err(too_large(name.as_deref().unwrap_or("a job"), bytes, most))
    }

    /// Notifies workers of this and other OS processes that jobs have become claimable.
    fn wake(&self) {
        self.wakes.call();
        self.news.tell();
    }
}

#[cfg(test)]
impl MysqlStore {
    /// Renews the leases. In a simulation no thread does that.
    pub(crate) fn renew_leases(&self) -> Result<(), Error> {
        self.heartbeat.renew()
    }

    /// Forgets its workers as after a power failure: their leases do not end early.
    pub(crate) fn die(&self) {
        self.heartbeat.forget();
    }
}

impl SqlStore for MysqlStore {
    fn read<T>(
        &self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.read(|tx| work(tx))
    }

    fn read_moment<T>(
        &self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.database.read_moment(|tx| work(tx))
    }

    fn write<T>(
        &self,
        again: Again,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.write(again, |tx| work(tx))
    }

    fn write_insert(
        &self,
        insert: Insert,
        mut add: impl FnMut(&mut dyn Statements, &Insert) -> Result<Inserted, Fault>,
    ) -> Inserted {
        let lock = || ();
        // Before other inserts share its transaction.
        for job in &insert.jobs {
            self.check_fits(job)?;
        }
        self.shared.inserts.run(insert, lock, |(), inserts| {
            let done = self.write(Again::Doubtful, |tx| {
                inserts.iter().map(|insert| add(tx, insert)).collect()
            });
            done.unwrap_or_else(|error: Error| inserts.iter().map(|_| Err(error.clone())).collect())
        })
    }

    fn wake_workers(&self) {
        self.wake();
    }

    fn shared(&self) -> &SharedState {
        &self.shared
    }

    fn lane_no(&self, _tx: &mut dyn Statements, lane: &JobLane) -> Result<i64, Fault> {
        Ok(self.number_of_lane(lane)?)
    }

    fn make_lane(&self, lane: &JobLane) -> Result<(), Error> {
        self.number_of_lane(lane).map(drop)
    }

    fn enlist_again(&self, tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
        self.enlist(tx, worker)
    }
}

impl StoreDatabase for MysqlStore {
    fn location(&self) -> String {
        self.database.location.clone()
    }

    fn id(&self) -> Result<String, Error> {
        Ok(self.id.clone())
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn version(&self) -> Result<u64, Error> {
        self.read_version()
    }

    fn clock(&self) -> Option<Arc<dyn Clock>> {
        Some(Arc::new(ServerClock(self.database.clone())))
    }

    fn on_work(&self, wake: Weak<WorkSignal>) {
        self.wakes.add(wake);
        self.news.listen();
    }

    fn check(&self) -> Result<Vec<HealthFinding>, Error> {
        self.look_at_health()
    }

    fn maintain(&self, now: Timestamp) -> Result<bool, Error> {
        Ok(chores::resume(self, now)? || self.await_silent(now)?)
    }
}
