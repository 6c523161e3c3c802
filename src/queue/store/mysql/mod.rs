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

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::base::migrations::MYSQL;
use crate::base::{Clock, Error, SystemClock, Time, Timestamp};

use super::Mode;
use super::health::Severity::{Bad, Good, Warning};
use super::health::{self, HealthFinding};
use super::statements::{CLOCK, Fault, Queries as _, Sql, by};
use lease::{Leases, VERSION};
pub use open::MysqlOptions;
pub(super) use open::open;
use pool::Pool;

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
    pub(super) leases: Arc<Leases>,
}

impl Mysql {
    /// A number that changes with each transaction that has written.
    pub(super) fn version(&self) -> Result<u64, Error> {
        let version = self.database.run(Mode::Read, |tx| tx.one(VERSION, by![]))?;
        Ok(version.unwrap_or(0))
    }
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
    let sql = format!(
        "SELECT VERSION(), @@max_allowed_packet, @@sql_mode, {CLOCK}, value FROM #schema WHERE name = 'version'"
    );
    let found: Option<(String, u64, String, Timestamp, i64)> = tx.one(&sql, by![])?;
    let (version, packet, mode, clock, schema) = found.ok_or(Fault::Odd("no version"))?;
    // Tests may replace the clock of a queue.
    let now = Timestamp::from(SystemTime::now());
    let apart = clock.since(now).max(now.since(clock));
    Ok(vec![
        HealthFinding::new("server", Good, version, None),
        settings(packet, &mode),
        distance(apart),
        health::schema(schema, MYSQL.newest(), "tables"),
    ])
}

/// Settings of the server and of this session that do not suit the queue.
fn settings(packet: u64, mode: &str) -> HealthFinding {
    const WHAT: &str = "server settings";
    if !mode.contains("STRICT_ALL_TABLES") {
        let seen = format!("the session has the sql_mode {mode:?}, not the one that it asked for");
        let advice = "a proxy between batchwright and the server shares sessions: configure it to keep a session per client";
        return HealthFinding::new(WHAT, Bad, seen, Some(advice));
    }
    if packet < LEAST_PACKET {
        let seen = format!(
            "max_allowed_packet is {} MiB: larger jobs and results are rejected",
            packet >> 20
        );
        let advice =
            "a job travels with its files; in the settings of the server: max_allowed_packet = 64M";
        return HealthFinding::new(WHAT, Warning, seen, Some(advice));
    }
    HealthFinding::new(WHAT, Good, "suit the queue".to_owned(), None)
}

/// Due times of jobs and leases are compared with the clock of the server.
fn distance(apart: Duration) -> HealthFinding {
    const WHAT: &str = "server clock";
    if apart <= CLOCK_TOLERANCE {
        let seen = format!("within {} s of this machine", CLOCK_TOLERANCE.as_secs());
        return HealthFinding::new(WHAT, Good, seen, None);
    }
    let seen = format!(
        "the clock of the server differs from that of this machine by {}",
        humantime::format_duration(Duration::from_secs(apart.as_secs()))
    );
    let advice = "synchronize both with NTP: jobs come due by the clock of the server, but dates in logs and ages of jobs are \
                  wrong";
    HealthFinding::new(WHAT, Warning, seen, Some(advice))
}

#[cfg(test)]
mod health_tests {
    use super::*;

    #[test]
    fn what_does_not_suit_the_queue_is_found() {
        let strict = "STRICT_ALL_TABLES,NO_ZERO_DATE";
        assert_eq!(settings(64 << 20, strict).verdict, Good);
        assert_eq!(settings(1 << 20, strict).verdict, Warning);
        assert_eq!(settings(64 << 20, "").verdict, Bad);
        assert_eq!(distance(Duration::from_secs(1)).verdict, Good);
        assert_eq!(distance(Duration::from_secs(9)).verdict, Warning);
    }
}
