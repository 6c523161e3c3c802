//! Transactions: which failures are retried, and the error for a failure of the database.

use std::fmt;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::base::{Error, ErrorKind};

use super::Database;

mod tx;

use crate::queue::store::Mode;
use crate::queue::store::statements::{Fault, Sql, by};
use tx::Tx;

/// How to handle a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Roll back and repeat: a deadlock, or a lock of another transaction.
    Retry,
    /// The server is unavailable or accepts no writes: use another connection, possibly to another server.
    Reconnect,
    /// Return the error to the caller.
    Tell,
}

impl Fault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Overtaken => Remedy::Retry,
            Self::ReadOnly => Remedy::Reconnect,
            Self::Refused(_) | Self::Odd(_) | Self::Sqlite(_) => Remedy::Tell,
            Self::Mysql(mysql::Error::MySqlError(error)) => match error.code {
                // Deadlock, lock wait timeout, a row that has changed since it was read.
                1213 | 1205 | 1020 => Remedy::Retry,
                // Too many connections, read-only after a failover.
                1040 | 1290 | 1792 | 1836 => Remedy::Reconnect,
                code if is_closing(code) => Remedy::Reconnect,
                _ => Remedy::Tell,
            },
            Self::Mysql(
                mysql::Error::IoError(_)
                | mysql::Error::CodecError(_)
                | mysql::Error::DriverError(_),
            ) => Remedy::Reconnect,
            Self::Mysql(_) => Remedy::Tell,
        }
    }

    /// The error for callers. Messages of a server may quote values, so only a part of them is repeated.
    pub(super) fn at_server(self, location: &str) -> Error {
        let (kind, why) = match self {
            Self::Refused(error) => return error,
            Self::Mysql(error) => return explain(location, &error).with_storage(),
            // Errors of SQLite concern only the files next to the database.
            Self::Sqlite(error) => (ErrorKind::Invalid, error.to_string()),
            Self::Odd(what) => (
                ErrorKind::Invalid,
                format!(
                    "{location} has invalid data ({what}). Restore it from a backup, or name another database"
                ),
            ),
            Self::Overtaken => (
                ErrorKind::Transient,
                format!("{location}: others changed the same rows again and again; retrying"),
            ),
            Self::ReadOnly => (ErrorKind::Transient, format!("{location}: {NO_WRITES}")),
        };
        Error::new(kind, why).with_storage()
    }
}

/// Whether the server closes the connection: a shutdown, killed, idle for too long.
fn is_closing(code: u16) -> bool {
    matches!(code, 1053 | 1077..=1079 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031)
}

const NO_WRITES: &str =
    "the server accepts no writes: it is a replica, or a failover is in progress";

fn explain(location: &str, error: &mysql::Error) -> Error {
    let transient = |why: String| Error::new(ErrorKind::Transient, format!("{location}: {why}"));
    let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("{location}: {why}"));
    match error {
        mysql::Error::MySqlError(error) => {
            let code = error.code;
            match code {
                1213 | 1205 | 1020 => transient(format!(
                    "other transactions hold the same rows (error {code}); retrying"
                )),
                1040 => transient(
                    "the server has no connection left (error 1040); raise max_connections, or run fewer workers"
                        .to_owned(),
                ),
                1290 | 1792 | 1836 => transient(NO_WRITES.to_owned()),
                1021 | 1114 | 3 | 28 => transient(format!(
                    "the server's disk is full (error {code}). Nothing that was saved is lost; free some room: \
                     workers that run go on by themselves, other commands are to be given again"
                )),
                code if is_closing(code) => {
                    transient(format!("the server closed the connection (error {code}); retrying"))
                }
                1044 | 1045 | 1698 => invalid(format!(
                    "the server refuses this user (error {code}). Check user and password: BATCHWRIGHT_STORE_PASSWORD, or \
                     the address"
                )),
                1142 | 1143 | 1227 => invalid(format!(
                    "the user lacks a privilege (error {code}); it needs SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER and \
                     INDEX on the database"
                )),
                1049 => invalid("the database does not exist; create it: CREATE DATABASE NAME".to_owned()),
                1064 => invalid(
                    "the server does not understand this SQL (error 1064): the queue needs MySQL 8.0 or MariaDB 10.6".to_owned(),
                ),
                1153 => invalid(
                    "a job exceeds the server's packet limit (error 1153); raise max_allowed_packet".to_owned(),
                ),
                _ => invalid(format!("the server answers with error {code} ({})", error.state)),
            }
        }
        mysql::Error::IoError(error) => {
            transient(format!("the connection was lost ({}); retrying", error.kind()))
        }
        mysql::Error::CodecError(_) | mysql::Error::DriverError(_) => {
            transient("no connection could be made, or it broke; retrying. If the server's certificate is not trusted, name its \
             authority with ?ca=FILE"
                .to_owned())
        }
        mysql::Error::TlsError(_) => invalid(
            "no encrypted connection could be made: the server has no TLS, or its certificate is not trusted. Name its \
             authority with ?ca=FILE"
                .to_owned(),
        ),
        mysql::Error::UrlError(_) => invalid("the address is not a MySQL address".to_owned()),
        _ => invalid("the server answered with values of an unexpected type".to_owned()),
    }
}

/// Bytes of a statement next to the value that makes it large.
const AROUND: usize = 4 << 10;

/// The error for a commit that was sent and got no reply.
fn in_doubt(location: &str) -> Error {
    let why = format!(
        "{location}: the connection was lost while a transaction was being committed: it may have been carried out, or \
         not. Look before you do it again"
    );
    Error::new(ErrorKind::Transient, why).with_storage()
}

/// Number of rows, from 0, whose sum shows whether any program has written.
const VERSION_SLOTS: u64 = 64;

/// Maximum number of repetitions of a transaction because of locks of others.
const MOST_RETRIES: u32 = 50;

/// How long another connection is attempted.
const PATIENCE: Duration = Duration::from_secs(5);

impl Database {
    /// Runs statements, and repeats them as often as needed.
    pub(in crate::queue::store) fn run<T>(
        &self,
        mode: Mode,
        mut work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let (mut retries, mut lost_since) = (0, None::<Instant>);
        loop {
            let mut committing = false;
            let fault = match self.attempt(mode, &mut committing, &mut work) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            let again = match fault.remedy() {
                Remedy::Tell => false,
                Remedy::Retry => retries < MOST_RETRIES,
                Remedy::Reconnect => {
                    self.pool.lost();
                    if committing && mode == Mode::WriteOnce {
                        return Err(in_doubt(&self.location));
                    }
                    let since = lost_since.get_or_insert_with(Instant::now);
                    since.elapsed() <= PATIENCE
                }
            };
            if !again {
                return Err(fault.at_server(&self.location));
            }
            retries += 1;
            self.back_off(retries);
        }
    }

    /// A short pause of random length, so that conflicting transactions do not meet again.
    fn back_off(&self, retries: u32) {
        let most = 1_u64 << retries.min(7);
        let some = uuid::Uuid::now_v7().as_u64_pair().1 % (most * 1_000) + 200;
        std::thread::sleep(Duration::from_micros(some));
    }

    fn attempt<T>(
        &self,
        mode: Mode,
        committing: &mut bool,
        work: &mut impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut lent = self.pool.lend(mode == Mode::Aside)?;
        let conn = lent.conn()?;
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            wire.begin(conn)?;
        }
        let begin: &[&str] = match mode {
            Mode::Read | Mode::Aside => &[],
            Mode::Moment => &[
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
            ],
            Mode::Write | Mode::WriteLazily | Mode::WriteOnce | Mode::WriteSynced => &["BEGIN"],
        };
        let begin: Vec<String> = begin.iter().map(|&sql| sql.to_owned()).collect();
        let is_transaction = !begin.is_empty();
        let mut tx = Tx::new(conn, self, begin);
        let done = work(&mut tx).and_then(|done| {
            if !is_transaction {
                return tx.flush().map(|()| done);
            }
            // A worker that finds no job must not wake others: they would find none either.
            if tx.wrote {
                let slot = uuid::Uuid::now_v7().as_u64_pair().1 % VERSION_SLOTS;
                let set = "UPDATE #versions SET version = version + 1 WHERE slot = ?";
                tx.defer(set, by![slot as i64])?;
            }
            *committing = true;
            tx.send(vec!["COMMIT".to_owned()]).map(|_| done)
        });
        // A connection that is not rolled back is closed, which has the same effect.
        let usable = match &done {
            Ok(_) => true,
            Err(fault) => {
                fault.remedy() != Remedy::Reconnect && conn.query_drop("ROLLBACK").is_ok()
            }
        };
        if usable {
            lent.give_back();
        }
        // A simulation may lose the reply.
        #[cfg(test)]
        if let (Ok(_), Some(wire)) = (&done, &self.wire) {
            wire.end()?;
        }
        done
    }

    /// Fails if no statement has room for a job or result.
    pub(in crate::queue::store) fn check_size(
        &self,
        what: fmt::Arguments<'_>,
        text: &str,
    ) -> Result<(), Error> {
        self.before_sending(what, tx::size(text).saturating_add(AROUND))
    }

    /// Fails if the server would close the connection because a statement is too large. The request is the cause, not the
    /// store.
    fn before_sending(&self, what: fmt::Arguments<'_>, bytes: usize) -> Result<(), Error> {
        let most = self.pool.most_bytes();
        if bytes < most {
            return Ok(());
        }
        let why = format!(
            "{what} takes {bytes} bytes, and the database server accepts less than {most} at once (max_allowed_packet); \
             send less, or ask for a higher max_allowed_packet"
        );
        Err(Error::new(ErrorKind::Invalid, why).with_status(413))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16) -> Fault {
        Fault::Mysql(mysql::Error::MySqlError(mysql::error::MySqlError {
            state: "HY000".to_owned(),
            message: "a quoted value: secret".to_owned(),
            code,
        }))
    }

    #[test]
    fn every_failure_of_the_server_says_what_to_do_and_repeats_no_value() {
        let cases = [
            (1213, ErrorKind::Transient, "retrying", Remedy::Retry),
            (1205, ErrorKind::Transient, "retrying", Remedy::Retry),
            (
                1040,
                ErrorKind::Transient,
                "max_connections",
                Remedy::Reconnect,
            ),
            (1290, ErrorKind::Transient, "failover", Remedy::Reconnect),
            (1114, ErrorKind::Transient, "free some room", Remedy::Tell),
            (1045, ErrorKind::Invalid, "password", Remedy::Tell),
            (1142, ErrorKind::Invalid, "privilege", Remedy::Tell),
            (1049, ErrorKind::Invalid, "CREATE DATABASE", Remedy::Tell),
            (1062, ErrorKind::Invalid, "1062", Remedy::Tell),
        ];
        for (code, kind, part, remedy) in cases {
            assert_eq!(failure(code).remedy(), remedy, "{code}");
            let error = failure(code).at_server("mysql://db:3306/jobs");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.is_storage(), "{error}");
            assert!(error.message().contains(part), "{error}");
            assert!(error.message().contains("mysql://db:3306/jobs"), "{error}");
            assert!(!error.message().contains("secret"), "{error}");
        }
    }
}
