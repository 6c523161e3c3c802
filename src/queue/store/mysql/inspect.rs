//! Checks the health of the server and of the tables.

use std::time::{Duration, SystemTime};

use crate::base::Timestamp;
use crate::queue::store::sql::health;
use crate::queue::store::sql::statements::{Queries as _, Statements};
use crate::queue::store::{HealthFinding, Severity};

use super::open::SCHEMA_VERSION;
use super::writer::{CLOCK, Fault};

/// Tolerated difference of clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Required packet size: a job with its files, or a result, is one packet.
const LEAST_PACKET: u64 = 16 << 20;

/// Checks the server and the version of the tables.
pub(in crate::queue::store) fn look_at_health(
    tx: &mut dyn Statements,
) -> Result<Vec<HealthFinding>, Fault> {
    let mut found = server(tx)?;
    let version = "SELECT value FROM #schema WHERE name = 'version'";
    let version = tx.one(version, Vec::new())?.unwrap_or(0);
    found.push(health::schema(version, SCHEMA_VERSION, "tables"));
    Ok(found)
}

fn server(tx: &mut dyn Statements) -> Result<Vec<HealthFinding>, Fault> {
    let sql = format!("SELECT VERSION(), @@max_allowed_packet, @@sql_mode, {CLOCK}");
    let found = tx.first(&sql, Vec::new())?;
    let mut row = found.ok_or(Fault::Odd("no variables"))?;
    let (version, packet): (String, u64) = (row.at(0)?, row.at(1)?);
    let mode: String = row.at(2)?;
    // Tests may replace the clock of a queue.
    let now = Timestamp::from(SystemTime::now());
    let clock = Timestamp(row.at(3)?);
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
mod tests {
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
