//! Opens a database: address, password, encryption, and the creation of the tables.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::{Opts, OptsBuilder, SslOpts};
use percent_encoding::percent_decode_str;

use crate::base::{Error, Secret, secret_file};
use crate::queue::store::Mode;
use crate::queue::store::statements::{Fault, Queries as _, Sql, by, check_schema, invalid};
use crate::queue::store::workers::Registry;

use super::lease::Leases;
use super::pool::{Pool, SILENCE, place};
use super::{Database, Mysql};

const SCHEMA: &str = include_str!("schema.sql");

/// The version of the schema.
pub(super) const SCHEMA_VERSION: i64 = 15;

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
    create_tables(&database)?;
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

/// Creates the tables, unless they exist. Their version is written last.
fn create_tables(database: &Database) -> Result<(), Error> {
    let version = |tx: &mut dyn Sql| -> Result<Option<i64>, Fault> {
        let find = "SELECT value FROM #schema WHERE name = 'version'";
        tx.one(find, by![])
    };
    let found = database.run(Mode::Read, |tx| {
        let there = tx.exists(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
            by![format!("{}_schema", database.tables)],
        )?;
        if let Some(found) = if there { version(tx)? } else { None } {
            return Ok(found);
        }
        for statement in SCHEMA.split(";\n").filter(|one| !one.trim().is_empty()) {
            tx.run(statement, by![])?;
        }
        let done = "INSERT IGNORE INTO #schema (name, value) VALUES ('version', ?)";
        tx.run(done, by![SCHEMA_VERSION])?;
        Ok(version(tx)?.unwrap_or(0))
    })?;
    check_schema(&database.location, found, SCHEMA_VERSION, "other tables")
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
