//! The store of jobs, in an SQLite file or on a server of MySQL or MariaDB.
//!
//! A store knows states and times, not the meaning of a job. Each method is one transaction or a few short ones. Once
//! it returns `Ok`, its change survives a crash of the OS process. The statements are written once, in
//! MySQL's SQL, and `#jobs` is replaced by the name of the table of jobs. A file of SQLite [translates](sqlite) the few
//! words in which SQLite differs. What differs more is in the folders of the two databases.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. SQLite locks the whole
//! database instead.

mod batches;
mod budgets;
mod chores;
mod claim;
mod claims;
mod counters;
mod find;
mod health;
mod insert;
mod lineage;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod results;
mod rows;
mod servers;
mod settle;
pub(crate) mod sqlite;
mod statements;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::base::{Clock, Error, JobId, ProcessId, Timestamp};

pub use super::job::JobReceipt;
pub use claims::JobSummary;
pub(crate) use claims::Workers;
pub(crate) use claims::{BatchFill, BatchNo, StoredBatch, WaitingJobs};
pub use claims::{
    ClaimOutcome, ClaimReply, ClaimRequest, ClaimedJob, JobBudget, JobLane, Settlement, WorkerId,
};
pub use health::{HealthFinding, Severity};
use insert::GroupCommit;
pub(crate) use insert::Part;
#[cfg(feature = "mysql")]
use mysql::{Mysql, MysqlOptions};
pub use results::DeliveredResult;
use rows::job_id;
pub use servers::{Apart, ServerStep};
pub(crate) use sqlite::ConsumerLock;
use sqlite::{Sqlite, SqliteOptions};
use statements::{Fault, Queries as _, Sql, by, list};
use workers::Registry;

/// A job fails after this number of worker crashes.
pub const MAX_CRASHES: u8 = 5;

/// After this number of crashes, a job runs only while its worker runs no other job.
pub const SUSPECT_CRASHES: u8 = 2;

/// Called, from any thread, when jobs may have become claimable. Must return immediately.
pub(crate) type WorkSignal = dyn Fn() + Send + Sync;

/// A database of jobs, used by a [`JobQueue`](crate::JobQueue) and its [`Worker`](crate::Worker)s; see
/// [`JobQueue::on`](crate::JobQueue::on). Opening is slow: one store per OS process is enough.
///
/// All methods can be called from several threads, and from several OS processes on one database. Once a method returns
/// `Ok`, its change survives a crash of the OS process. Times are arguments: a store reads no clock.
///
/// # Errors
///
/// [`ErrorKind::Transient`](crate::ErrorKind::Transient) for temporary problems such as a full disk or a lock: workers
/// retry. [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for problems that a person must solve, and for invalid
/// requests: a worker that is not registered, a process that accepts no more jobs. If a batch does not belong to the
/// worker (any more), the error is marked by `Mark::ClaimLost`, and the worker
/// forgets the batch. A failed call has changed nothing, or has stored a decision that
/// `maintain` completes; it can be repeated.
///
/// # What a store keeps
///
/// **A process** is created with its first jobs, has a number in the store, and is removed when it is sealed and its
/// last outcome was deleted. It is sealed, or has jobs that cannot be claimed yet.
///
/// **A job** has a key, `number of the process << 32 | index in the process`, with the index counted from 0 and never
/// reused ([`JobReceipt::job`]), and the number of its last claim. That number increases with every claim, with every
/// requeue by `retry_failed`, and when a success overrules a claim. A job is
///
/// - *waiting*: with a due time, a lane and a priority; shown as [`JobStatus::Pending`](crate::queue::JobStatus);
/// - *running*: a worker has claimed it; or *in a batch*. Both are shown as `InProgress`, and are counted separately in
///   [`JobCounts`](crate::queue::JobCounts);
/// - *ended*: completed, failed or cancelled, until its outcome is deleted.
///
/// **A process may have a parent**, a job of another process that waits for its jobs: the job that
/// `ProcessInfo::parent` names when the first jobs are added. Jobs can be added only while the parent is open and its
/// process is not cancelled; otherwise this fails with an error marked by `Mark::ClaimLost`. A filter
/// by a process that has no parent includes the descendants. Cancelling or deleting a process does the same to its
/// descendants, except that unsealed descendants are deleted. Requeueing a process also requeues the descendants whose
/// parent had failed or was cancelled. When the parent is completed, or its outcome is deleted, its child processes are
/// deleted. What they use also counts for the process of their oldest ancestor. Hosts cannot acknowledge outcomes of child
/// jobs.
///
/// **A success** counts as long as its job has not ended, even if another worker has claimed the job since, because it
/// was billed. **Any other end** counts only if its claim is the job's last one. Jobs of a cancelled process do not
/// return to the queue; they are cancelled instead.
///
/// **A worker** belongs to this OS process until it is unregistered or the OS process ends. On one machine, other
/// workers notice that immediately. On a server it counts as alive as long as its lease, by the clock of the database; a
/// thread of the store renews it.
///
/// **A budget** of a process counts what it and its descendants have spent, what calls of unknown outcome may have cost,
/// and the most that their open batches can cost. If that, together with the worst case of a call that was refused,
/// exceeds the limit, the process is closed: no claim returns its jobs. It opens by itself when the sum falls, or with a
/// higher limit.
#[derive(derive_more::Debug)]
#[debug("Store({location:?})")]
pub struct Store {
    db: Db,
    id: String,
    location: String,
    folder: PathBuf,
    /// A part of every job id, to recognize ids of other databases.
    salt: u16,
    /// Lanes by number. Numbers are never reused, so cached lanes stay valid.
    lanes: Mutex<HashMap<i64, Arc<JobLane>>>,
    inserts: GroupCommit,
    /// Number of jobs per transaction of a chore.
    chunk: i64,
    workers: Arc<Registry>,
    /// Set once its tables were found to have a newer version.
    newer: OnceLock<Error>,
    wakes: Wakes,
    /// Wakes the workers of other OS processes.
    #[cfg(feature = "redis")]
    hub: Option<crate::queue::hub::RedisHub>,
    #[cfg(test)]
    pub(crate) faults: tests::Faults,
}

/// Maximum number of cached lanes, because hosts may create any number of them.
const MOST_LANES: usize = 10_000;

/// How statements are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Queries, which see what was committed before each of them.
    Read,
    /// Statements that are committed one by one, while a transaction of the same thread may be open: a server always has a
    /// connection for them.
    Aside,
    /// Queries that all see the same snapshot.
    Moment,
    /// One transaction. It is repeated if its outcome is unknown, because fences make that harmless.
    Write,
    /// The same, and losing it in a power failure costs nothing.
    WriteLazily,
    /// One transaction that a repetition would apply twice.
    WriteOnce,
    /// One transaction that a power failure does not undo.
    WriteSynced,
}

/// The two databases.
enum Db {
    Sqlite(Box<Sqlite>),
    #[cfg(feature = "mysql")]
    Mysql(Mysql),
}

impl Store {
    /// Opens the SQLite file at `path`, which is created with its folder if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the folder cannot be written, is on a network file system,
    /// or if the file is not a queue, is damaged or was written by a newer version; the message says what to do.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, Error> {
        Self::in_file(sqlite::open(path.as_ref(), options)?)
    }

    /// A database in memory, which exists as long as this store: for tests. No other program can open it. Only inputs
    /// and results of batches need a folder, which is below the system's temporary folder until the store is dropped.
    ///
    /// # Errors
    /// When the linked SQLite was built without in-memory databases.
    pub fn in_memory(options: SqliteOptions) -> Result<Self, Error> {
        Self::in_file(sqlite::open_in_memory(options)?)
    }

    fn in_file(db: Sqlite) -> Result<Self, Error> {
        let location = db.place.path.to_string_lossy().into_owned();
        let folder = db.beside(".batches");
        let db = Db::Sqlite(Box::new(db));
        Self::new(db, location, |_| folder, Arc::default())
    }

    /// Opens a database on a server of MySQL 8 or MariaDB 10.6 and newer, for workers on any number of machines, and
    /// creates the tables if they do not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the address or password is rejected, the server is too old,
    /// or the tables have a newer version; [`ErrorKind::Transient`](crate::ErrorKind::Transient) if the server cannot
    /// be reached. Messages never contain the password.
    #[cfg(feature = "mysql")]
    pub fn on_server(options: MysqlOptions) -> Result<Self, Error> {
        let workers = Arc::default();
        let db = mysql::open(&options, Arc::clone(&workers))?;
        let location = db.database.location.clone();
        let folder = |id: &str| options.folder.join(format!("batchwright-{id}.batches"));
        Self::new(Db::Mysql(db), location, folder, workers)
    }

    fn new(
        db: Db,
        location: String,
        folder: impl FnOnce(&str) -> PathBuf,
        workers: Arc<Registry>,
    ) -> Result<Self, Error> {
        let mut store = Self {
            db,
            id: String::new(),
            location,
            folder: PathBuf::new(),
            salt: 0,
            lanes: Mutex::default(),
            inserts: GroupCommit::default(),
            chunk: 1_000,
            workers,
            newer: OnceLock::new(),
            wakes: Wakes::default(),
            #[cfg(feature = "redis")]
            hub: None,
            #[cfg(test)]
            faults: tests::Faults::default(),
        };
        let find = "SELECT i.value, s.value FROM #meta i JOIN #meta s ON s.name = 'salt' WHERE i.name = 'id'";
        let (id, salt): (String, i64) =
            store.read(|tx| tx.one(find, by![])?.ok_or(Fault::Odd("no identity")))?;
        store.folder = folder(&id);
        store.id = id;
        store.salt = u16::try_from(salt & 0xfff).unwrap_or(0);
        Ok(store)
    }

    /// Connects the workers on all machines through Redis or Valkey; all of them must use it. An OS process that makes
    /// jobs claimable then wakes them at once; otherwise they notice it within a second. Default: no Redis. Workers of an
    /// SQLite file need none.
    #[cfg(feature = "redis")]
    pub fn with_redis(mut self, hub: &crate::queue::hub::RedisHub) -> Self {
        self.hub = self.is_shared().then(|| hub.clone());
        self
    }

    /// The absolute path of the file, or the address of the server without a credential. For a database in memory, a
    /// path that does not exist.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Identifies this store; a store that replaces it at the same location has another id. A copy has the same id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A folder for large data: inputs of batches before they are sent, and results before they are stored.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Whether workers on other machines may take its jobs. If so, a job contains the bytes of the files that its
    /// prompt names.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.db, Db::Sqlite(_))
    }

    /// The clock that decides when jobs are due, if several machines with different clocks share the store. Otherwise
    /// it is the clock of the machine.
    pub(crate) fn clock(&self) -> Option<Arc<dyn Clock>> {
        match &self.db {
            Db::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => Some(db.database.clone()),
        }
    }

    /// A number that changes when another program has written since the last call.
    pub(crate) fn version(&self) -> Result<u64, Error> {
        match &self.db {
            Db::Sqlite(db) => db.version(),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => db.version(),
        }
    }

    /// Registers `wake`, which is called whenever jobs become claimable through this store, until it is dropped. Jobs
    /// that [`settle`](Self::settle) returns to the queue are not reported, because its caller knows them.
    pub(crate) fn on_work(&self, wake: Weak<WorkSignal>) {
        // Other programs may reach the store by another address.
        #[cfg(feature = "redis")]
        if let Some(hub) = &self.hub {
            hub.subscribe(&self.id, wake.clone());
        }
        self.wakes.0.lock().push(wake);
    }

    /// Notifies workers that jobs have become claimable.
    fn wake_workers(&self) {
        self.wakes.call();
        #[cfg(feature = "redis")]
        if let Some(hub) = &self.hub {
            hub.publish(&self.id);
        }
    }

    /// Checks the health of the queue: integrity, schema, the counters of jobs, and the settings of a database server.
    ///
    /// # Errors
    /// When the checks cannot run.
    pub fn check(&self) -> Result<Vec<HealthFinding>, Error> {
        self.run(Mode::Moment, |tx| {
            let mut found = match &self.db {
                Db::Sqlite(db) => db.look_at_health(tx)?,
                #[cfg(feature = "mysql")]
                Db::Mysql(_) => mysql::look_at_health(tx)?,
            };
            found.extend(health::counters(tx)?);
            Ok(found)
        })
    }

    /// Performs one short piece of maintenance, if there is any: continues an interrupted chore.
    /// Returns true if more is left.
    pub(crate) fn maintain(&self, now: Timestamp) -> Result<bool, Error> {
        match &self.db {
            Db::Sqlite(db) => {
                db.copy_log()?;
                Ok(self.resume_chore(now)? || db.shrink()?)
            }
            #[cfg(feature = "mysql")]
            Db::Mysql(_) => self.resume_chore(now),
        }
    }

    /// Whether a worker of another OS process has jobs of these processes, or of any if the list is empty, in a store that
    /// machines share. A worker that ends when no job is left waits until that one has ended them, or has died, and they
    /// are taken over.
    pub(crate) fn others_work(&self, processes: &[ProcessId]) -> Result<bool, Error> {
        if !self.is_shared() {
            return Ok(false);
        }
        let own = list(&self.workers.numbers());
        self.read(|tx| {
            let of = lineage::scope(tx, "j.id DIV 4294967296", processes)?;
            let has_jobs = format!(
                "SELECT 1 FROM #workers w WHERE (w.no IN {own}) IS NOT TRUE
                   AND EXISTS (SELECT 1 FROM #jobs j WHERE j.worker = w.no {of}) LIMIT 1"
            );
            tx.exists(&has_jobs, by![])
        })
    }

    fn run<T>(
        &self,
        mode: Mode,
        work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        match &self.db {
            Db::Sqlite(db) => db.run(mode, work),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => db.database.run(mode, work),
        }
    }

    fn read<T>(&self, work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>) -> Result<T, Error> {
        self.run(Mode::Read, work)
    }

    /// Runs one transaction, and repeats it as often as the database requires.
    fn write<T>(&self, work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>) -> Result<T, Error> {
        self.write_as(Mode::Write, work)
    }

    fn write_as<T>(
        &self,
        mode: Mode,
        work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        #[cfg(test)]
        self.check_writable()?;
        self.run(mode, work)
    }

    /// Fails if a job or result is larger than what a server accepts.
    fn check_size(&self, _what: fmt::Arguments<'_>, _text: &str) -> Result<(), Error> {
        match &self.db {
            Db::Sqlite(_) => Ok(()),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => db.database.check_size(_what, _text),
        }
    }

    /// Fails if a worker is not registered, because its jobs would never return to the queue. Its row stays locked until the
    /// transaction ends.
    fn check_worker(&self, tx: &mut dyn Sql, worker: WorkerId) -> Result<(), Fault> {
        if tx.rows(&worker.keeping(), by![])?.is_empty() {
            self.enlist_again(tx, worker)?;
        }
        Ok(())
    }

    /// The number of a lane, which is created if it does not exist.
    fn lane_no(&self, tx: &mut dyn Sql, lane: &JobLane) -> Result<i64, Fault> {
        let no = lane.number();
        if !self.lanes.lock().contains_key(&no) {
            let add = "INSERT IGNORE INTO #lanes (no, kind, name, step) VALUES (?, ?, ?, ?)";
            let (kind, name) = (lane.kind.clone(), lane.name.clone());
            tx.defer(add, by![no, kind, name, lane.step])?;
        }
        Ok(no)
    }

    /// A lane by its number.
    fn lane(&self, tx: &mut dyn Sql, no: i64) -> Result<Arc<JobLane>, Fault> {
        if let Some(lane) = self.lanes.lock().get(&no) {
            return Ok(lane.clone());
        }
        let found = tx.one("SELECT kind, name, step FROM #lanes WHERE no = ?", by![no])?;
        let (kind, name, step) = found.ok_or(Fault::Odd("a job of an unknown lane"))?;
        let lane = Arc::new(JobLane { kind, name, step });
        let mut lanes = self.lanes.lock();
        if lanes.len() >= MOST_LANES {
            lanes.clear();
        }
        lanes.insert(no, lane.clone());
        Ok(lane)
    }

    /// The number of the same lane at another step.
    fn at_step(&self, tx: &mut dyn Sql, no: i64, step: u8) -> Result<i64, Fault> {
        let lane = self.lane(tx, no)?;
        if lane.step == step {
            return Ok(no);
        }
        let other = JobLane {
            step,
            ..JobLane::clone(&lane)
        };
        self.lane_no(tx, &other)
    }

    fn job_id(&self, key: i64, created_at: Timestamp) -> JobId {
        job_id(key, created_at, self.salt)
    }
}

/// Callbacks of this OS process that are called when jobs have become claimable.
#[derive(Default)]
struct Wakes(Mutex<Vec<Weak<WorkSignal>>>);

impl Wakes {
    fn call(&self) {
        let mut alive = Vec::new();
        self.0.lock().retain(|wake| {
            let wake = wake.upgrade();
            let keep = wake.is_some();
            alive.extend(wake);
            keep
        });
        // Called outside the lock, because a callback may register another one.
        for wake in alive {
            wake();
        }
    }
}
