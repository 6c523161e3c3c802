//! Checks whether the server, its settings and the user's privileges suit the queue. Each finding says what to do.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mysql::prelude::Queryable;
use mysql::{Conn, Opts, Row};

use crate::base::{Error, Timestamp};
use crate::queue::store::{HealthFinding, Severity};

use super::MysqlStore;
use super::pool::{SILENCE, place};
use super::writer::{CLOCK, Fault, Queries as _, Statements as _, Tx};

/// Open connections of a busy worker.
const CONNECTIONS_OF_WORKER: u64 = 4;
/// Limit of connections of one OS process, for example a server with many requests.
const CONNECTIONS_OF_PROCESS: u64 = 17;
/// Tolerated difference of clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Required packet size: a job with its files, or a result, is one packet.
const LEAST_PACKET: u64 = 16 << 20;
/// Tolerated lag of a replica, in seconds.
const MOST_BEHIND: u64 = 10;
/// Privileges that the queue needs on its tables.
const PRIVILEGES: [&str; 7] = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "INDEX",
];

/// Variables of the session, by their names.
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn read(tx: &mut Tx<'_>, sql: &str) -> Result<Self, Fault> {
        let rows = tx.rows(sql, Vec::new())?;
        let pair = |mut row: super::writer::Row| -> Result<(String, String), Fault> {
            Ok((row.at::<String>(0)?.to_lowercase(), row.at(1)?))
        };
        Ok(Self(rows.into_iter().map(pair).collect::<Result<_, _>>()?))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// `None` if the server has no such variable.
    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.parse().ok()
    }

    fn is_on(&self, name: &str) -> bool {
        ["1", "ON"].contains(&self.text(name))
    }
}

fn good(what: &str, seen: impl Into<String>) -> HealthFinding {
    HealthFinding::new(what, Severity::Good, seen.into(), None)
}

fn wrong(what: &str, verdict: Severity, seen: impl Into<String>, advice: &str) -> HealthFinding {
    HealthFinding::new(what, verdict, seen.into(), Some(advice))
}

impl MysqlStore {
    /// Checks the server that takes writes, the standby servers, and Redis.
    pub(super) fn look_at_server(&self) -> Result<Vec<HealthFinding>, Error> {
        let workers = self.listed()?.len() as u64;
        let is_local = self
            .database
            .pool
            .servers()
            .iter()
            .all(Opts::addr_is_loopback);
        let mut found = self.database.read(|tx| {
            let variables = Variables::read(tx, "SHOW SESSION VARIABLES")?;
            let status = Variables::read(tx, "SHOW SESSION STATUS")?;
            let mut found = vec![good("server", variables.text("version"))];
            found.push(encryption(&status, is_local));
            found.push(clock(tx)?);
            found.push(connections(&variables, &status, workers));
            found.extend(settings(&variables));
            found.push(privileges(tx)?);
            Ok(found)
        })?;
        let servers = self.database.pool.servers();
        if servers.len() > 1 {
            found.extend(servers.iter().map(standby));
        }
        #[cfg(feature = "redis")]
        found.extend(self.news.hub().map(|hub| redis(&hub)));
        Ok(found)
    }
}

fn encryption(status: &Variables, is_local: bool) -> HealthFinding {
    const WHAT: &str = "encryption";
    match status.text("ssl_cipher") {
        "" if is_local => good(WHAT, "none; the server is on this machine"),
        "" => wrong(
            WHAT,
            Severity::Warning,
            "the connection to the server is not encrypted: others on the network can read prompts and answers",
            "remove ?tls=off from the address; ?ca=FILE names the authority of a private certificate",
        ),
        cipher => good(
            WHAT,
            format!("{} {cipher}", status.text("ssl_version")).trim(),
        ),
    }
}

/// Due times of jobs and leases are compared with the clock of the server.
fn clock(tx: &mut Tx<'_>) -> Result<HealthFinding, Fault> {
    const WHAT: &str = "server clock";
    // Tests may replace the clock of a queue.
    let now = Timestamp::from(SystemTime::now());
    let server = Timestamp(tx.one(&format!("SELECT {CLOCK}"), Vec::new())?.unwrap_or(0));
    let apart = server.since(now).max(now.since(server));
    Ok(if apart <= CLOCK_TOLERANCE {
        good(
            WHAT,
            format!("within {} s of this machine", CLOCK_TOLERANCE.as_secs()),
        )
    } else {
        wrong(
            WHAT,
            Severity::Warning,
            format!(
                "the clock of the server differs from that of this machine by {}",
                humantime::format_duration(Duration::from_secs(apart.as_secs()))
            ),
            "synchronize both with NTP: jobs come due by the clock of the server, but dates in logs and ages of jobs are wrong",
        )
    })
}

fn connections(variables: &Variables, status: &Variables, workers: u64) -> HealthFinding {
    const WHAT: &str = "connections";
    let most = variables.number("max_connections").unwrap_or(0);
    let used = status.number("threads_connected").unwrap_or(0);
    let wanted = (workers * CONNECTIONS_OF_WORKER).max(used) + CONNECTIONS_OF_PROCESS;
    let seen = format!("{used} of {most} in use, {workers} workers");
    if wanted <= most {
        return good(WHAT, seen);
    }
    let advice = format!(
        "a worker opens up to {CONNECTIONS_OF_WORKER} connections, `serve` up to {CONNECTIONS_OF_PROCESS}; in the settings \
         of the server: max_connections = {}",
        wanted * 2
    );
    wrong(WHAT, Severity::Warning, seen, &advice)
}

/// Settings of the server and of this session that do not suit the queue.
fn settings(variables: &Variables) -> Vec<HealthFinding> {
    const WHAT: &str = "server settings";
    let mut found = Vec::new();
    if let Some(packet) = variables.number("max_allowed_packet")
        && packet < LEAST_PACKET
    {
        found.push(wrong(
            WHAT,
            Severity::Warning,
            format!(
                "max_allowed_packet is {} MiB: larger jobs and results are rejected",
                packet >> 20
            ),
            "a job travels with its files; in the settings of the server: max_allowed_packet = 64M",
        ));
    }
    let isolation = match variables.text("transaction_isolation") {
        "" => variables.text("tx_isolation"),
        isolation => isolation,
    };
    if isolation != "READ-COMMITTED" || variables.number("wait_timeout") != Some(u64::from(SILENCE))
    {
        found.push(wrong(
            WHAT,
            Severity::Bad,
            format!(
                "the session has isolation {isolation} and wait_timeout {}, not READ-COMMITTED and {SILENCE}",
                variables.text("wait_timeout")
            ),
            "a proxy between batchwright and the server shares sessions: configure it to keep a session per client",
        ));
    }
    if variables.is_on("log_bin") && variables.text("binlog_format") == "STATEMENT" {
        found.push(wrong(
            WHAT,
            Severity::Bad,
            "binlog_format is STATEMENT: the server rejects the writes of the queue",
            "in the settings of the server: binlog_format = ROW",
        ));
    }
    if variables
        .number("innodb_flush_log_at_trx_commit")
        .is_some_and(|at| at != 1)
    {
        found.push(wrong(
            WHAT,
            Severity::Note,
            "innodb_flush_log_at_trx_commit is not 1: a power failure can lose the last second of results",
            "jobs whose results are lost run again and are billed again; to exclude that: innodb_flush_log_at_trx_commit = 1",
        ));
    }
    if found.is_empty() {
        found.push(good(WHAT, "suit the queue"));
    }
    found
}

/// Checks the user's privileges on the tables that its grants list.
fn privileges(tx: &mut Tx<'_>) -> Result<HealthFinding, Fault> {
    const WHAT: &str = "privileges";
    let database: String = tx.one("SELECT DATABASE()", Vec::new())?.unwrap_or_default();
    let grants: Vec<String> = tx.column("SHOW GRANTS", Vec::new())?;
    let missing = missing_privileges(&grants, &database);
    if missing.is_empty() {
        return Ok(good(WHAT, "complete"));
    }
    let missing = missing.join(", ");
    let advice = format!(
        "as an administrator of the server: GRANT {missing} ON `{database}`.* TO USER. New versions of batchwright create \
         and alter tables"
    );
    let seen = format!("the user has no {missing} on the database {database}");
    Ok(wrong(WHAT, Severity::Warning, seen, &advice))
}

/// The privileges that no grant gives on the database. Grants of roles may give any.
fn missing_privileges(grants: &[String], database: &str) -> Vec<&'static str> {
    let mut missing = PRIVILEGES.to_vec();
    for grant in grants {
        let Some((privileges, scope)) = grant
            .strip_prefix("GRANT ")
            .and_then(|rest| rest.split_once(" ON "))
        else {
            // GRANT `role` TO …
            return Vec::new();
        };
        let scope: String = scope.chars().filter(|c| !"`\\".contains(*c)).collect();
        let of = scope.split_once(".* TO ").map(|(of, _)| of);
        let fits = of.is_some_and(|of| of == "*" || of == database || of.contains('%'));
        if fits && privileges.starts_with("ALL PRIVILEGES") {
            return Vec::new();
        }
        if fits {
            let given: Vec<&str> = privileges.split(',').map(str::trim).collect();
            missing.retain(|privilege| !given.contains(privilege));
        }
    }
    missing
}

/// One of several servers: whether it can be reached, and whether it accepts writes or replicates another server.
fn standby(opts: &Opts) -> HealthFinding {
    let what = "failover";
    let shown = place(opts);
    let mut conn = match Conn::new(opts.clone()) {
        Ok(conn) => conn,
        Err(error) => {
            let why = Fault::from(error).at_server(&shown);
            let advice = "start it, or remove it from the address: without it there is no failover";
            return wrong(what, Severity::Warning, why.message(), advice);
        }
    };
    let read_only = "SELECT IF(@@GLOBAL.read_only IN ('0', 'OFF'), 0, 1)";
    if let Ok(Some(0_u8)) = conn.query_first(read_only) {
        return good(what, format!("{shown} takes writes"));
    }
    // MySQL 8.4 supports only the first statement, MariaDB 10.6 supports both.
    let status = ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"]
        .iter()
        .find_map(|sql| conn.query_first::<Row, _>(sql).ok());
    let Some(status) = status else {
        let seen = format!("{shown} is a replica; this user may not see how far it is behind");
        let advice = "as an administrator: GRANT REPLICATION CLIENT ON *.* TO USER (MariaDB: REPLICA MONITOR)";
        return wrong(what, Severity::Note, seen, advice);
    };
    let behind = status.as_ref().and_then(|row| {
        ["Seconds_Behind_Source", "Seconds_Behind_Master"]
            .iter()
            .find_map(|name| row.get::<Option<u64>, _>(*name))
            .flatten()
    });
    match behind {
        Some(behind) if behind <= MOST_BEHIND => {
            good(what, format!("{shown} is a replica, {behind} s behind"))
        }
        Some(behind) => wrong(
            what,
            Severity::Warning,
            format!("{shown} is a replica, {behind} s behind"),
            "a failover to it loses that time: wait until it has caught up, or give it more resources",
        ),
        None => wrong(
            what,
            Severity::Warning,
            format!("{shown} is read-only and does not replicate"),
            "start its replication; a failover to it would lose jobs: START REPLICA",
        ),
    }
}

#[cfg(feature = "redis")]
fn redis(hub: &crate::hub::RedisHub) -> HealthFinding {
    let shown = hub.location();
    match hub.inspect() {
        Err(why) => wrong(
            "redis",
            Severity::Warning,
            format!("{shown} cannot be used: {why}"),
            "work continues without it, with polling and a part of each limit per worker; start it, or check its password",
        ),
        Ok(state) if state.most_memory > 0 && state.eviction != "noeviction" => wrong(
            "redis",
            Severity::Note,
            format!(
                "{shown}: {}, maxmemory-policy {}",
                state.version, state.eviction
            ),
            "if its memory is full it can evict shared limits, which workers then exceed for up to a minute; better: CONFIG \
             SET maxmemory-policy noeviction",
        ),
        Ok(state) => good("redis", format!("{shown}: {}", state.version)),
    }
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
