//! The store of jobs in MySQL or MariaDB, for workers on any number of machines.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. Claims, settlements and
//! chores therefore cannot deadlock with each other. Only parent and child processes can; then the server detects the
//! deadlock and one transaction is repeated ([`writer`]). Long operations are decided in one short transaction and
//! applied in many.

mod lease;
mod open;
mod pool;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::base::{Clock, Error, SystemClock, Time, Timestamp};

use super::health::{self, HealthFinding, Severity};
use super::statements::{Fault, Queries as _, Sql, by};
use super::{JobLane, MOST_LANES, Mode};
use lease::Heartbeat;
use lease::VERSION;
pub use open::MysqlOptions;
use open::SCHEMA_VERSION;
pub(super) use open::open;
use pool::Pool;
pub(super) use writer::CLOCK;

/// The server, and the names of the tables.
pub(super) struct Database {
    pool: Pool,
    /// The name of the table of jobs, which is the prefix of the other names.
    tables: String,
    /// The address without a credential.
    pub(super) location: String,
    /// The difference between the server's clock and this process's monotonic clock, in milliseconds.
    offset: AtomicI64,
    /// Set only in a simulation.
    #[cfg(test)]
    wire: Option<Arc<wire::Wire>>,
}

/// An open database on a server.
pub(crate) struct Mysql {
    pub(super) database: Arc<Database>,
    pub(super) heartbeat: Heartbeat,
    lane_numbers: Mutex<HashMap<JobLane, i64>>,
}

impl Mysql {
    /// The number of a lane, which is created if it does not exist: in a separate transaction, so that no one waits for
    /// a lane while jobs are locked.
    pub(super) fn lane_no(&self, lane: &JobLane) -> Result<i64, Error> {
        if let Some(no) = self.lane_numbers.lock().get(lane) {
            return Ok(*no);
        }
        let find = "SELECT no FROM #lanes WHERE hash = ?";
        let hash = hash(lane);
        let no = self.database.aside(|tx| {
            if let Some(no) = tx.one(find, by![hash.clone()])? {
                return Ok(no);
            }
            tx.run(
                "INSERT IGNORE INTO #lanes (hash, kind, name, step) VALUES (?, ?, ?, ?)",
                by![
                    hash.clone(),
                    lane.kind.clone(),
                    lane.name.clone(),
                    lane.step
                ],
            )?;
            let no: Option<i64> = tx.one(find, by![hash.clone()])?;
            no.ok_or(Fault::Overtaken)
        })?;
        let mut known = self.lane_numbers.lock();
        if known.len() >= MOST_LANES {
            known.clear();
        }
        known.insert(lane.clone(), no);
        Ok(no)
    }

    /// A number that changes with each transaction that has written.
    pub(super) fn version(&self) -> Result<u64, Error> {
        let version = self.database.run(Mode::Read, |tx| tx.one(VERSION, by![]))?;
        Ok(version.unwrap_or(0))
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.database.clone()
    }
}

/// A hash that identifies a lane, whatever its texts contain.
fn hash(lane: &JobLane) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(lane.kind.len().to_le_bytes());
    hash.update(&lane.kind);
    hash.update([lane.step, u8::from(lane.name.is_some())]);
    hash.update(lane.name.as_deref().unwrap_or_default());
    hash.finalize().to_vec()
}

impl Database {
    /// Reads the clock of the server.
    fn read_clock(&self, tx: &mut dyn Sql) -> Result<(), Fault> {
        let began = SystemClock.now();
        let server: i64 = tx.one(&format!("SELECT {CLOCK}"), by![])?.unwrap_or(0);
        let way = SystemClock.now().since(began) / 2;
        let offset = server - millis(began.after(way));
        self.offset.store(offset, Ordering::Relaxed);
        Ok(())
    }
}

fn millis(time: Time) -> i64 {
    i64::try_from(time.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The clock of the database server, which decides on all machines when jobs are due, with the machine's monotonic time. It
/// is read when the database is opened and with each renewal of leases; in between, the monotonic clock of this machine is
/// used, so setting the machine's clock changes nothing.
impl Clock for Database {
    fn now(&self) -> Time {
        SystemClock.now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(millis(self.now()) + self.offset.load(Ordering::Relaxed))
    }
}

// Health checks of the server and of the tables.

/// Tolerated difference of clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Required packet size: a job with its files, or a result, is one packet.
const LEAST_PACKET: u64 = 16 << 20;

/// Checks the server and the version of the tables.
pub(super) fn look_at_health(tx: &mut dyn Sql) -> Result<Vec<HealthFinding>, Fault> {
    let mut found = server(tx)?;
    let version = "SELECT value FROM #schema WHERE name = 'version'";
    let version = tx.one(version, by![])?.unwrap_or(0);
    found.push(health::schema(version, SCHEMA_VERSION, "tables"));
    Ok(found)
}

fn server(tx: &mut dyn Sql) -> Result<Vec<HealthFinding>, Fault> {
    let sql = format!("SELECT VERSION(), @@max_allowed_packet, @@sql_mode, {CLOCK}");
    let found: Option<(String, u64, String, Timestamp)> = tx.one(&sql, by![])?;
    let (version, packet, mode, clock) = found.ok_or(Fault::Odd("no variables"))?;
    // Tests may replace the clock of a queue.
    let now = Timestamp::from(SystemTime::now());
    let apart = clock.since(now).max(now.since(clock));
    Ok(vec![
        HealthFinding::new("server", Severity::Good, version, None),
        settings(packet, &mode),
        distance(apart),
    ])
}

/// Settings of the server and of this session that do not suit the queue.
fn settings(packet: u64, mode: &str) -> HealthFinding {
    const WHAT: &str = "server settings";
    if !mode.contains("STRICT_ALL_TABLES") {
        let seen = format!("the session has the sql_mode {mode:?}, not the one that it asked for");
        let advice = "a proxy between batchwright and the server shares sessions: configure it to keep a session per client";
        return HealthFinding::new(WHAT, Severity::Bad, seen, Some(advice));
    }
    if packet < LEAST_PACKET {
        let seen = format!(
            "max_allowed_packet is {} MiB: larger jobs and results are rejected",
            packet >> 20
        );
        let advice =
            "a job travels with its files; in the settings of the server: max_allowed_packet = 64M";
        return HealthFinding::new(WHAT, Severity::Warning, seen, Some(advice));
    }
    HealthFinding::new(WHAT, Severity::Good, "suit the queue".to_owned(), None)
}

/// Due times of jobs and leases are compared with the clock of the server.
fn distance(apart: Duration) -> HealthFinding {
    const WHAT: &str = "server clock";
    if apart <= CLOCK_TOLERANCE {
        let seen = format!("within {} s of this machine", CLOCK_TOLERANCE.as_secs());
        return HealthFinding::new(WHAT, Severity::Good, seen, None);
    }
    let seen = format!(
        "the clock of the server differs from that of this machine by {}",
        humantime::format_duration(Duration::from_secs(apart.as_secs()))
    );
    let advice = "synchronize both with NTP: jobs come due by the clock of the server, but dates in logs and ages of jobs are \
                  wrong";
    HealthFinding::new(WHAT, Severity::Warning, seen, Some(advice))
}

#[cfg(test)]
mod health_tests {
    use super::*;

    #[test]
    fn what_does_not_suit_the_queue_is_found() {
        let strict = "STRICT_ALL_TABLES,NO_ZERO_DATE";
        assert_eq!(settings(64 << 20, strict).verdict, Severity::Good);
        assert_eq!(settings(1 << 20, strict).verdict, Severity::Warning);
        assert_eq!(settings(64 << 20, "").verdict, Severity::Bad);
        assert_eq!(distance(Duration::from_secs(1)).verdict, Severity::Good);
        assert_eq!(distance(Duration::from_secs(9)).verdict, Severity::Warning);
    }
}
