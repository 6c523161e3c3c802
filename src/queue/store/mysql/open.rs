//! Opens a database: address, password, encryption, and the creation of the tables.

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::{Opts, OptsBuilder, SslOpts};
use percent_encoding::percent_decode_str;

use crate::base::migrations::{MYSQL, Wait, check_beside};
use crate::base::{Context, Error, ErrorKind, Secret, secret_file};
use crate::queue::store::Mode;
use crate::queue::store::claims::DeadWorker;
use crate::queue::store::statements::{CLOCK, Fault, Queries as _, Sql, by, invalid};
use crate::queue::store::workers::Registry;

use super::lease::Leases;
use super::pool::{Pool, SILENCE, place};
use super::{Database, Mysql};

const SCHEMA: &str = include_str!("schema.sql");

/// Added to the version of the tables while a program waits for the workers of an earlier one, and brings them to its own:
/// no other program starts then, and workers that see it end.
pub(super) const MARK: i64 = 1_000_000;

/// The default name of the table of jobs.
const TABLES: &str = "job_queue";

/// The variables with the password, and with the name of a file that contains it.
const PASSWORD: &str = "BATCHWRIGHT_STORE_PASSWORD";
const PASSWORD_FILE: &str = "BATCHWRIGHT_STORE_PASSWORD_FILE";

/// The protocol's maximum size of a packet.
const LARGEST_PACKET: usize = 1 << 30;

/// How a database of jobs on a server is opened. Its `Debug` output omits the password.
#[derive(Clone, derive_more::Debug)]
pub struct MysqlOptions {
    #[debug(skip)]
    address: Secret,
    pub(in crate::queue::store) folder: PathBuf,
    pub(super) lease: Duration,
    /// How long the leases of workers are awaited before the tables are changed.
    pub(super) patience: Duration,
    as_it_is: bool,
    ctx: Context,
    /// Set only in a simulation.
    #[cfg(test)]
    #[debug(skip)]
    pub(super) wire: Option<Arc<super::wire::Wire>>,
}

impl MysqlOptions {
    /// A database by its address: `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, with these optional parameters:
    ///
    /// | parameter | meaning |
    /// |---|---|
    /// | `tables=NAME` | the name of the table of jobs, which is the prefix of the other names; default `job_queue` |
    /// | `tls=on`, `tls=off` | whether the connection is encrypted; default: on, but off on loopback |
    /// | `ca=FILE` | the certificate authority of the server's certificate, in PEM; default: the public ones |
    ///
    /// An address can name several servers, `HOST:PORT,HOST:PORT`. The queue uses the first one that accepts writes,
    /// and fails over to another one when that server fails or becomes a replica.
    ///
    /// If the address contains no password, it is read from the variable `BATCHWRIGHT_STORE_PASSWORD`, or from the first
    /// line of the file that `BATCHWRIGHT_STORE_PASSWORD_FILE` names, in this order.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: Secret::new(address),
            folder: env::temp_dir(),
            lease: Duration::from_secs(15),
            patience: Duration::from_secs(600),
            as_it_is: false,
            ctx: Context::new(),
            #[cfg(test)]
            wire: None,
        }
    }

    /// The folder on this machine in which a folder for the inputs and results of batches is created. Default: the
    /// system's temporary folder, which a restart of the machine may empty.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Leaves tables in the version that they have, if this program can use them so, also while an earlier program works on
    /// them. Default: tables of an earlier version are brought to that of this program.
    pub fn as_it_is(mut self, yes: bool) -> Self {
        self.as_it_is = yes;
        self
    }

    /// Its cancellation ends the wait for workers of an earlier version. Default: the wait ends after 10 minutes.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }
}

/// Decodes bytes that an address has in the form `%41`.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The database of an address, not connected yet.
fn target(options: &MysqlOptions) -> Result<Database, Error> {
    let address = options.address.expose();
    let (plain, parameters) = address.split_once('?').unwrap_or((address, ""));
    let (mut tables, mut tls, mut authority) = (None, None, None);
    for parameter in parameters
        .split('&')
        .filter(|parameter| !parameter.is_empty())
    {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name, value) {
            ("tables", _) => tables = Some(decoded(value)),
            ("tls", "on") => tls = Some(true),
            ("tls", "off") => tls = Some(false),
            ("ca", _) => authority = Some(PathBuf::from(decoded(value))),
            _ => {
                return Err(invalid(
                    "the address of the store has an unknown parameter; known are tables, tls (on or off) and ca",
                ));
            }
        }
    }
    let shape = || {
        invalid(
            "the address of the store is expected to look like mysql://USER@HOST:3306/DATABASE, with commas between \
             several HOST:PORT, and % and two digits for special characters in USER",
        )
    };
    let addresses = one_by_one(plain);
    let servers: Result<Vec<Opts>, _> = addresses.iter().map(|one| Opts::from_url(one)).collect();
    let servers = servers.map_err(|_| shape())?;
    let given = servers.first().ok_or_else(shape)?;
    let name = given.get_db_name().filter(|name| !name.is_empty());
    let name = name.ok_or_else(shape)?.to_owned();
    let tables = tables.unwrap_or_else(|| TABLES.to_owned());
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_number = tables.starts_with(|c: char| c.is_ascii_digit());
    if tables.is_empty() || tables.len() > 40 || is_number || !tables.chars().all(fits) {
        return Err(invalid(
            "the name of the store's tables must be 1 to 40 letters, digits and _, the first no digit",
        ));
    }
    let hosts: Vec<String> = servers.iter().map(place).collect();
    let mut location = format!("mysql://{}/{name}", hosts.join(","));
    if tables != TABLES {
        location = format!("{location}?tables={tables}");
    }
    let encrypted = tls.unwrap_or(!servers.iter().all(Opts::addr_is_loopback));
    let tls = encrypted.then(|| SslOpts::default().with_root_cert_path(authority));
    let password = match given.get_pass() {
        Some(password) => Some(password.to_owned()),
        None => secret_file::password("the store", None, None, [PASSWORD, PASSWORD_FILE])
            .map_err(Error::with_storage)?,
    };
    let servers = servers
        .into_iter()
        .map(|server| session(server, password.clone(), tls.clone()));
    Ok(Database {
        pool: Pool::new(servers.collect()),
        tables,
        location,
        offset: AtomicI64::default(),
        #[cfg(test)]
        wire: options.wire.clone(),
    })
}

/// The options of every connection to a server.
fn session(server: Opts, password: Option<String>, tls: Option<SslOpts>) -> Opts {
    OptsBuilder::from_opts(server)
        .pass(password)
        .ssl_opts(tls)
        // A socket path that the server reports must not replace the requested connection.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(Duration::from_secs(10)))
        // A server without a reply for this long is considered lost; each transaction is short.
        .read_timeout(Some(Duration::from_secs(60)))
        .write_timeout(Some(Duration::from_secs(60)))
        // A row can be larger than the limit of the server, which may have been lowered since. The server sends it, so it
        // is accepted.
        .max_allowed_packet(Some(LARGEST_PACKET))
        // Statements count the rows that they find, changed or not.
        .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
        .init(vec![
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            "SET SESSION innodb_lock_wait_timeout = 10".to_owned(),
            format!("SET SESSION wait_timeout = {SILENCE}"),
            "SET SESSION time_zone = '+00:00'".to_owned(),
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO'"
                .to_owned(),
            "SET NAMES utf8mb4".to_owned(),
        ])
        .into()
}

/// An address with several servers as one address for each server.
fn one_by_one(address: &str) -> Vec<String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (user, place) = rest
        .rsplit_once('@')
        .map_or(("", rest), |(user, place)| (user, place));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let at = if user.is_empty() { "" } else { "@" };
    let one = |host: &str| format!("{scheme}://{user}{at}{host}/{database}");
    hosts.split(',').map(one).collect()
}

/// Opens a database, and creates its tables unless they exist.
pub(in crate::queue::store) fn open(
    options: &MysqlOptions,
    workers: Arc<Registry>,
) -> Result<Mysql, Error> {
    let database = Arc::new(target(options)?);
    // A server that does not understand this is too old.
    let skip = "SELECT 1 FROM (SELECT 1) AS one FOR UPDATE SKIP LOCKED";
    database.run(Mode::Read, |tx| tx.rows(skip, by![]))?;
    database.run(Mode::Read, |tx| database.read_clock(tx))?;
    let found = create_tables(&database)?;
    if !is_usable(&database, found, options.as_it_is)? {
        let wait = Wait::new(options.patience, &options.ctx);
        check_beside(&options.folder.join("queue"), &wait)?;
        take_over(&database, &wait)?;
    }
    let leases = Arc::new(Leases::new(database.clone(), workers, options.lease));
    Ok(Mysql { database, leases })
}

impl Database {
    /// A statement with the names of this store's tables: `#jobs` is the prefix, `#lanes` the prefix with `_lanes`.
    pub(super) fn named(&self, sql: &str) -> String {
        let named = sql.replace("#jobs", &format!("`{}`", self.tables));
        named.replace('#', &format!("{}_", self.tables))
    }
}

fn version(tx: &mut dyn Sql) -> Result<Option<i64>, Fault> {
    tx.one("SELECT value FROM #schema WHERE name = 'version'", by![])
}

/// Writes the version, if it is still this one. Returns whether it was.
fn set_version(tx: &mut dyn Sql, from: i64, to: i64) -> Result<bool, Fault> {
    let set = "UPDATE #schema SET value = ? WHERE name = 'version' AND value = ?";
    Ok(tx.run(set, by![to, from])? == 1)
}

/// Creates the tables, unless they exist. Their version is written last, and returned.
fn create_tables(database: &Database) -> Result<i64, Error> {
    database.run(Mode::Read, |tx| {
        let there = tx.exists(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
            by![format!("{}_schema", database.tables)],
        )?;
        if let Some(found) = if there { version(tx)? } else { None } {
            return Ok(found);
        }
        run_all(tx, SCHEMA)?;
        let done = "INSERT IGNORE INTO #schema (name, value) VALUES ('version', ?)";
        tx.run(done, by![MYSQL.newest()])?;
        Ok(version(tx)?.unwrap_or(0))
    })
}

fn run_all(tx: &mut dyn Sql, statements: &str) -> Result<(), Fault> {
    let mut all = statements.split(";\n").filter(|one| !one.trim().is_empty());
    all.try_for_each(|statement| tx.run(statement, by![]).map(drop))
}

/// Whether tables can be used as they are; otherwise they can be taken over.
fn is_usable(database: &Database, found: i64, as_it_is: bool) -> Result<bool, Error> {
    let version = found % MARK;
    let of = &database.location;
    if found > MARK && version >= MYSQL.newest() {
        return Err(invalid(format!(
            "{of} is being brought to a newer version of batchwright: update this one"
        )));
    }
    let is_usable = MYSQL.is_newest(of, version)? || as_it_is && version >= MYSQL.readable;
    if as_it_is && !is_usable {
        return Err(invalid(format!(
            "{of} is of an earlier version ({version}): batchwright work, serve or submit brings it to {}",
            MYSQL.newest()
        )));
    }
    Ok(is_usable)
}

/// Brings the tables to the version of this program. A mark at their version keeps other programs from starting meanwhile;
/// then the workers of earlier ones are awaited. Statements that change tables are committed at once, so each of them may be
/// repeated, and the version is written last. After a crash, the next program goes on where this one was.
fn take_over(database: &Database, wait: &Wait) -> Result<(), Error> {
    let mut told = BTreeSet::new();
    database.run(Mode::Aside, |tx| {
        // One program at a time: the lock ends with its connection.
        let lock = by![format!("batchwright {}", database.tables)];
        let take = "SELECT COALESCE(GET_LOCK(MD5(CONCAT(DATABASE(), ' ', ?)), 1), 0)";
        while tx.one(take, lock.clone())? != Some(1_i64) {
            if wait.is_over() {
                return Err(waited(database, "another program that changes them").into());
            }
        }
        let mut found = version(tx)?.unwrap_or(0);
        let from = found % MARK;
        let done = if from >= MYSQL.newest() {
            Ok(())
        } else {
            if found == from {
                set_version(tx, from, from + MARK)?;
                found = from + MARK;
            }
            let waited = await_workers(tx, database, wait, &mut told);
            waited.and_then(|()| take_steps(tx, &mut found))
        };
        if done.is_err() {
            // As far as it came, programs of that version can go on.
            let _ = set_version(tx, found, found % MARK);
        }
        tx.rows("SELECT RELEASE_ALL_LOCKS()", by![])?;
        done
    })
}

/// Waits until no worker has a lease.
fn await_workers(
    tx: &mut dyn Sql,
    database: &Database,
    wait: &Wait,
    told: &mut BTreeSet<i64>,
) -> Result<(), Fault> {
    let find = format!("SELECT no, pid, host FROM #workers WHERE lease_until > {CLOCK}");
    loop {
        let live: Vec<DeadWorker> = tx.many(&find, by![])?;
        let named = |worker: &DeadWorker| format!("process {} on {}", worker.pid, worker.host);
        if live.is_empty() {
            return Ok(());
        }
        if wait.is_over() {
            let names: Vec<String> = live.iter().map(named).collect();
            return Err(waited(database, &names.join(", ")).into());
        }
        for worker in live.iter().filter(|worker| told.insert(worker.no.0)) {
            log::warn!(
                "{} gets the tables of this version when its workers have ended; end the one in {}",
                database.location,
                named(worker)
            );
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn waited(database: &Database, users: &str) -> Error {
    let why = format!(
        "{} is of an earlier version, and is brought to {} only while no worker uses it: end {users}, then start this again. \
         Nothing was changed",
        database.location,
        MYSQL.newest()
    );
    Error::new(ErrorKind::Transient, why).with_storage()
}

fn take_steps(tx: &mut dyn Sql, found: &mut i64) -> Result<(), Fault> {
    for (next, step) in MYSQL.steps_from(*found % MARK) {
        run_all(tx, step.sql)?;
        set_version(tx, *found, next + MARK)?;
        *found = next + MARK;
    }
    set_version(tx, *found, *found % MARK).map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn no_text_about_a_store_has_its_password() {
        let options = MysqlOptions::new("mysql://me:s3cret@db.example:3307/jobs?tables=work");
        assert!(!format!("{options:?}").contains("s3cret"));
        let target = target(&options).unwrap();
        assert_eq!(target.location, "mysql://db.example:3307/jobs?tables=work");
        assert_eq!(target.pool.servers[0].get_pass(), Some("s3cret"));
        assert!(
            target.pool.servers[0].get_ssl_opts().is_some(),
            "the server is not on loopback"
        );
    }

    #[test]
    fn loopback_needs_no_encryption() {
        let found = target(&MysqlOptions::new("mysql://me:x@127.0.0.1/jobs")).unwrap();
        assert!(found.pool.servers[0].get_ssl_opts().is_none());
        let encrypted = MysqlOptions::new("mysql://me:x@127.0.0.1/jobs?tls=on&ca=/a%20b.pem");
        let found = target(&encrypted).unwrap();
        let authority = found.pool.servers[0]
            .get_ssl_opts()
            .unwrap()
            .root_cert_path();
        assert_eq!(authority, Some(Path::new("/a b.pem")));
    }

    #[test]
    fn servers_that_take_over_from_each_other_are_named_together() {
        let options = MysqlOptions::new("mysql://me:s3%40t@127.0.0.1,db.example:3307/jobs");
        let found = target(&options).unwrap();
        let location = "mysql://127.0.0.1:3306,db.example:3307/jobs";
        assert_eq!((&*found.location, found.pool.servers.len()), (location, 2));
        for (server, host) in found.pool.servers.iter().zip(["127.0.0.1", "db.example"]) {
            assert_eq!(server.get_ip_or_hostname(), host);
            assert_eq!(server.get_db_name(), Some("jobs"));
            assert_eq!(server.get_pass(), Some("s3@t"));
            let why = "one server is not on loopback";
            assert!(server.get_ssl_opts().is_some(), "{why}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused_without_being_repeated() {
        let wrong = [
            "mysql://me:s3cret@host",
            "postgres://me:s3cret@host/jobs",
            "mysql://me:s3cret@host/jobs?what=s3cret",
            "mysql://me:s3cret@host/jobs?tables=a-b",
            "mysql://me:s3cret@host:3306,/jobs",
            "s3cret",
        ];
        for address in wrong {
            let error = target(&MysqlOptions::new(address)).err().expect(address);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
