//! Transactions: which failures have them tried again, and what a failure of the database is called.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mysql::prelude::{FromValue, Queryable};
use mysql::{Conn, Row, Value};

use crate::base::error::{Error, ErrorKind};
use crate::queue::store::moving::moved_meanwhile;
use crate::queue::store::rows::Columns;

use super::{Database, MysqlStore};

/// Whether a transaction may be carried out again when nobody knows whether it has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Fences make the second time change nothing more.
    Harmless,
    /// It would be done twice.
    Doubtful,
}

/// Why a transaction did not come about.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(mysql::Error),
    /// What was asked for cannot be done.
    Refused(Error),
    /// What is stored cannot be.
    Odd(&'static str),
    /// Somebody else was quicker: the transaction begins anew.
    Overtaken,
    /// The server is a replica.
    ReadOnly,
}

impl From<mysql::Error> for Fault {
    fn from(error: mysql::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Roll back and begin anew: a deadlock, or somebody else's lock.
    Retry,
    /// The server has gone, or takes no writes any more: another connection, perhaps to another server.
    Reconnect,
    /// Tell the caller.
    Tell,
}

impl Fault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Overtaken => Remedy::Retry,
            Self::ReadOnly => Remedy::Reconnect,
            Self::Refused(_) | Self::Odd(_) => Remedy::Tell,
            Self::Sql(mysql::Error::MySqlError(error)) => match error.code {
                // Deadlock, lock wait timeout, a row that has changed since it was read.
                1213 | 1205 | 1020 => Remedy::Retry,
                // Too many connections; shutdown; killed; read-only after a failover; idle for too long.
                1040
                | 1053
                | 1077..=1079
                | 1152
                | 1158..=1161
                | 1184
                | 1290
                | 1792
                | 1836
                | 1927
                | 3169
                | 4031 => Remedy::Reconnect,
                _ => Remedy::Tell,
            },
            Self::Sql(
                mysql::Error::IoError(_)
                | mysql::Error::CodecError(_)
                | mysql::Error::DriverError(_),
            ) => Remedy::Reconnect,
            Self::Sql(_) => Remedy::Tell,
        }
    }

    /// The error for callers. What a server says may quote values, so little of it is repeated.
    pub(super) fn explain(self, location: &str) -> Error {
        let error = match self {
            Self::Refused(error) => return error,
            Self::Odd(what) => {
                let why = format!(
                    "{location} holds what cannot be ({what}). Restore it from a backup, or name another database"
                );
                return Error::new(ErrorKind::Invalid, why).with_storage();
            }
            Self::Overtaken => {
                let why = format!(
                    "{location}: others changed the same rows again and again; it is tried again"
                );
                return Error::new(ErrorKind::Transient, why).with_storage();
            }
            Self::ReadOnly => {
                let why = format!("{location}: {NO_WRITES}");
                return Error::new(ErrorKind::Transient, why).with_storage();
            }
            Self::Sql(error) => error,
        };
        explain(location, &error).with_storage()
    }
}

const NO_WRITES: &str = "the server takes no writes: it is a replica, or a failover is under way";

fn explain(location: &str, error: &mysql::Error) -> Error {
    let transient = |why: String| Error::new(ErrorKind::Transient, format!("{location}: {why}"));
    let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("{location}: {why}"));
    match error {
        mysql::Error::MySqlError(error) => {
            let code = error.code;
            match code {
                1213 | 1205 | 1020 => transient(format!(
                    "other transactions hold the same rows (error {code}); it is tried again"
                )),
                1040 => transient(
                    "the server has no connection left (error 1040); raise max_connections, or run fewer workers"
                        .to_owned(),
                ),
                1290 | 1792 | 1836 => transient(NO_WRITES.to_owned()),
                1021 | 1114 | 3 | 28 => transient(format!(
                    "the server's disk is full (error {code}). Nothing that was saved is lost; free some room, \
                     workers go on by themselves"
                )),
                1053 | 1077..=1079 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031 => {
                    transient(format!("the server closed the connection (error {code}); it is tried again"))
                }
                1044 | 1045 | 1698 => invalid(format!(
                    "the server refuses this user (error {code}). Check user and password: BATCHWRIGHT_STORE_PASSWORD, or \
                     the address"
                )),
                1142 | 1143 | 1227 => invalid(format!(
                    "the user lacks a privilege (error {code}); it needs SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER and \
                     INDEX on the database"
                )),
                1049 => invalid("there is no such database; create it: CREATE DATABASE NAME".to_owned()),
                1153 => invalid(
                    "a job is larger than the server takes (error 1153); raise max_allowed_packet".to_owned(),
                ),
                _ => invalid(format!("the server answers with error {code} ({})", error.state)),
            }
        }
        mysql::Error::IoError(error) => {
            transient(format!("the connection was lost ({}); it is tried again", error.kind()))
        }
        mysql::Error::CodecError(_) | mysql::Error::DriverError(_) => {
            transient("no connection could be made, or it broke; it is tried again. If the server's certificate is not trusted, name its \
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

/// That a commit was sent, and nobody answered.
fn in_doubt(location: &str, error: impl Display) -> Error {
    let why = format!(
        "{location}: the connection was lost while a transaction was being committed ({error}): it may have been \
         carried out, or not. Look before you do it again"
    );
    Error::new(ErrorKind::Transient, why).with_storage()
}

/// A connection, within a transaction or for single statements.
pub(super) struct Tx<'a> {
    conn: &'a mut Conn,
    database: &'a Database,
    /// It has changed rows.
    wrote: bool,
    /// Statements that are sent together with the next one: a server is a millisecond away.
    deferred: Vec<String>,
}

/// A row, whose cells are taken out one by one.
pub(super) struct Cells {
    row: Row,
    /// Columns that are not counted.
    first: usize,
}

impl Cells {
    fn new(row: Row) -> Self {
        Self { row, first: 0 }
    }

    /// The columns behind the first ones.
    pub(super) fn behind(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// All of them, as the driver has them.
    pub(super) fn values(self) -> Vec<Value> {
        self.row.unwrap()
    }

    pub(super) fn at<T: FromValue>(&mut self, at: usize) -> Result<T, Fault> {
        match self.row.take_opt(self.first + at) {
            Some(Ok(value)) => Ok(value),
            // Neither the value nor its text is repeated.
            _ => Err(Fault::Odd("a column of another type")),
        }
    }
}

impl Columns for Cells {
    type Fault = Fault;

    fn int(&mut self, at: usize) -> Result<i64, Fault> {
        self.at(at)
    }

    fn real(&mut self, at: usize) -> Result<f64, Fault> {
        self.at(at)
    }

    fn text(&mut self, at: usize) -> Result<Option<String>, Fault> {
        self.at(at)
    }

    fn bytes(&mut self, at: usize) -> Result<Vec<u8>, Fault> {
        self.at(at)
    }
}

/// Bound values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { vec![$(mysql::Value::from($value)),*] };
}
pub(super) use by;

/// Rows of one statement: so many, that few different statements are prepared.
const AT_ONCE: [usize; 4] = [128, 32, 8, 1];

/// Bytes of one statement, unless a single row has more.
const MOST_BYTES: usize = 4 << 20;

impl<'a> Tx<'a> {
    fn new(conn: &'a mut Conn, database: &'a Database) -> Self {
        Self {
            conn,
            database,
            wrote: false,
            deferred: Vec::new(),
        }
    }
}

impl Tx<'_> {
    /// All rows that a query has. Values that are bound are prepared; a query without any goes out as it is.
    pub(super) fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Cells>, Fault> {
        if by.is_empty() {
            let [rows] = self.rows_of([sql])?;
            return Ok(rows);
        }
        self.flush()?;
        self.database.count_round_trip(sql);
        let rows: Vec<Row> = self.conn.exec(self.database.named(sql), by)?;
        Ok(rows.into_iter().map(Cells::new).collect())
    }

    /// The rows of several queries, which are sent together and carried out one after the other.
    pub(super) fn rows_of<const N: usize>(
        &mut self,
        queries: [&str; N],
    ) -> Result<[Vec<Cells>; N], Fault> {
        let (sets, _) = self.send(&queries)?;
        sets.try_into()
            .map_err(|_| Fault::Odd("another number of replies than of queries"))
    }

    /// Changes rows with the next statement, or when the transaction commits.
    pub(super) fn defer(&mut self, sql: &str) {
        self.deferred.push(self.database.named(sql));
        self.wrote = true;
    }

    /// Sends what was deferred.
    fn flush(&mut self) -> Result<(), Fault> {
        if !self.deferred.is_empty() {
            self.send(&[])?;
        }
        Ok(())
    }

    /// Sends what was deferred and these statements. Returns the rows of these, and how many rows the last one found.
    fn send(&mut self, statements: &[&str]) -> Result<(Vec<Vec<Cells>>, u64), Fault> {
        let before = self.deferred.len();
        let mut all = std::mem::take(&mut self.deferred);
        all.extend(statements.iter().map(|sql| self.database.named(sql)));
        let text = all.join(";");
        self.database.count_round_trip(&text);
        let mut result = self.conn.query_iter(text)?;
        let (mut sets, mut found) = (Vec::with_capacity(statements.len()), 0);
        let mut at = 0;
        while let Some(set) = result.iter() {
            found = set.affected_rows();
            let rows: Result<Vec<Cells>, _> = set.map(|row| row.map(Cells::new)).collect();
            if at >= before {
                sets.push(rows?);
            } else {
                rows?;
            }
            at += 1;
        }
        Ok((sets, found))
    }

    pub(super) fn first(&mut self, sql: &str, by: Vec<Value>) -> Result<Option<Cells>, Fault> {
        Ok(self.rows(sql, by)?.into_iter().next())
    }

    /// The first column of the first row.
    pub(super) fn one<T: FromValue>(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Option<T>, Fault> {
        self.first(sql, by)?.map(|mut row| row.at(0)).transpose()
    }

    /// The first column of all rows.
    pub(super) fn column<T: FromValue>(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Vec<T>, Fault> {
        let rows = self.rows(sql, by)?;
        rows.into_iter().map(|mut row| row.at(0)).collect()
    }

    /// Whether a query finds anything.
    pub(super) fn exists(&mut self, sql: &str, by: Vec<Value>) -> Result<bool, Fault> {
        Ok(!self.rows(sql, by)?.is_empty())
    }

    /// Changes rows. Returns how many it found, changed or not.
    pub(super) fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        let found = if by.is_empty() {
            self.send(&[sql])?.1
        } else {
            self.flush()?;
            self.database.count_round_trip(sql);
            self.conn.exec_drop(self.database.named(sql), by)?;
            self.conn.affected_rows()
        };
        self.wrote |= found > 0;
        Ok(found)
    }

    /// Inserts many rows with few statements. `head` ends with VALUES, `tail` follows the rows.
    pub(super) fn insert(
        &mut self,
        head: &str,
        tail: &str,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), Fault> {
        let size = |row: &Vec<Value>| -> usize {
            let cells = row.iter();
            cells
                .map(|value| match value {
                    Value::Bytes(bytes) => bytes.len() + 9,
                    _ => 9,
                })
                .sum()
        };
        let mut rows = rows.into_iter().peekable();
        let mut group: Vec<Vec<Value>> = Vec::new();
        while let Some(row) = rows.next() {
            group.push(row);
            let next = rows.peek().map(size);
            let bytes: usize = group.iter().map(size).sum();
            if group.len() == AT_ONCE[0] || next.is_none_or(|next| bytes + next > MOST_BYTES) {
                self.insert_group(head, tail, std::mem::take(&mut group))?;
            }
        }
        Ok(())
    }

    fn insert_group(
        &mut self,
        head: &str,
        tail: &str,
        mut rows: Vec<Vec<Value>>,
    ) -> Result<(), Fault> {
        for at_once in AT_ONCE {
            while rows.len() >= at_once {
                let rest = rows.split_off(at_once);
                let cells = rows[0].len();
                let row = format!("({})", vec!["?"; cells].join(","));
                let sql = format!("{head} {} {tail}", vec![row; at_once].join(","));
                let values: Vec<Value> = rows.into_iter().flatten().collect();
                self.run(&sql, values)?;
                rows = rest;
            }
        }
        Ok(())
    }

    pub(super) fn last_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }
}

/// The time of the database in milliseconds, as an expression.
pub(super) const CLOCK: &str = "CAST(FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)";

/// Numbers as a list for IN; a list that holds nothing finds nothing.
pub(super) fn list(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<String> = numbers
        .into_iter()
        .map(|number| number.to_string())
        .collect();
    match numbers.is_empty() {
        true => "(NULL)".to_owned(),
        false => format!("({})", numbers.join(",")),
    }
}

/// Rows whose sum tells whether anybody has written.
pub(super) const VERSION_SLOTS: u64 = 64;

/// Fails, with that error, if the statement before found no row: then nothing behind it is carried out, not even a commit
/// that was sent together with it.
const FAILS_UNLESS_FOUND: &str = "SELECT IF(ROW_COUNT() > 0, 1, (SELECT 1 UNION ALL SELECT 2))";
const NOT_FOUND: u16 = 1242;

/// How often a transaction is begun anew because of the locks of others.
const MOST_RETRIES: u32 = 50;

/// For how long another connection is looked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a transaction begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Each statement sees what is committed by then.
    Write,
    /// The same on a closed queue.
    Closed,
    /// All statements see one moment.
    Snapshot,
    /// No transaction: single statements.
    Single,
    /// Single statements while a transaction of the same thread is open: for them there is always a connection.
    Aside,
}

impl Database {
    /// Runs one transaction, from its beginning as often as needed.
    pub(super) fn write<T>(
        &self,
        again: Again,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.run(Mode::Write, again, work)
    }

    /// Runs one transaction on a closed queue, again if nobody knows whether it was carried out.
    pub(super) fn write_closed<T>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.run(Mode::Closed, Again::Harmless, work)
    }

    /// Runs queries, each of which sees what is committed by then.
    pub(super) fn read<T>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.run(Mode::Single, Again::Harmless, work)
    }

    /// Runs statements that are committed one by one, while a transaction of the same thread may be open.
    pub(super) fn aside<T>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.run(Mode::Aside, Again::Harmless, work)
    }

    /// Runs queries that all see one moment.
    pub(super) fn read_moment<T>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.run(Mode::Snapshot, Again::Harmless, work)
    }

    fn run<T>(
        &self,
        mode: Mode,
        again: Again,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let (mut retries, mut lost_since) = (0, None::<Instant>);
        loop {
            let mut committing = false;
            let fault = match self.attempt(mode, &mut committing, &mut work) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            match fault.remedy() {
                Remedy::Tell => return Err(fault.explain(&self.location)),
                Remedy::Retry if retries < MOST_RETRIES => {
                    retries += 1;
                    self.back_off(retries);
                }
                Remedy::Retry => return Err(fault.explain(&self.location)),
                Remedy::Reconnect => {
                    self.pool.lost();
                    if committing && again == Again::Doubtful {
                        let told = match &fault {
                            Fault::Sql(mysql::Error::MySqlError(error)) => {
                                format!("error {}", error.code)
                            }
                            _ => "no answer".to_owned(),
                        };
                        return Err(in_doubt(&self.location, told));
                    }
                    let since = *lost_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(fault.explain(&self.location));
                    }
                    retries += 1;
                    self.back_off(retries.max(4));
                }
            }
        }
    }

    /// A short pause that differs between those who got into each other's way.
    fn back_off(&self, retries: u32) {
        let most = 1_u64 << retries.min(7);
        let some = uuid::Uuid::now_v7().as_u64_pair().1 % (most * 1_000) + 200;
        std::thread::sleep(Duration::from_micros(some));
    }

    fn attempt<T>(
        &self,
        mode: Mode,
        committing: &mut bool,
        work: &mut impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut lent = self.pool.lend(mode == Mode::Aside)?;
        let conn = lent.conn()?;
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            wire.begin(conn)?;
        }
        let mut tx = Tx::new(conn, self);
        match mode {
            Mode::Write | Mode::Closed => tx.deferred.push("BEGIN".to_owned()),
            Mode::Snapshot => tx.deferred.extend([
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned(),
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY".to_owned(),
            ]),
            Mode::Single | Mode::Aside => {
                let done = work(&mut tx)?;
                tx.flush()?;
                lent.give_back();
                self.hear()?;
                return Ok(done);
            }
        }
        let done = work(&mut tx).and_then(|done| {
            // A worker that finds nothing to claim must wake nobody, who would find nothing either.
            if mode == Mode::Write && tx.wrote {
                let slot = uuid::Uuid::now_v7().as_u64_pair().1 % VERSION_SLOTS;
                let slot = self.first_slot.load(Ordering::Relaxed) + slot.cast_signed();
                tx.defer(&format!(
                    "UPDATE #versions SET version = version + 1 WHERE slot = {slot}"
                ));
                tx.defer(FAILS_UNLESS_FOUND);
            }
            *committing = matches!(mode, Mode::Write | Mode::Closed);
            match tx.send(&["COMMIT"]) {
                Err(Fault::Sql(mysql::Error::MySqlError(error))) if error.code == NOT_FOUND => {
                    Err(moved_meanwhile(&self.location).into())
                }
                sent => sent.map(|_| done),
            }
        });
        // A connection that is not rolled back is closed, which does the same.
        let usable = match &done {
            Ok(_) => true,
            Err(fault) => {
                fault.remedy() != Remedy::Reconnect && conn.query_drop("ROLLBACK").is_ok()
            }
        };
        if usable {
            lent.give_back();
        }
        if done.is_ok() {
            self.hear()?;
        }
        done
    }

    /// Counts a statement of a simulation.
    fn count_round_trip(&self, _text: &str) {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            wire.count(_text);
        }
    }

    /// Hears the reply, which a simulation may lose.
    fn hear(&self) -> Result<(), Fault> {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            wire.end()?;
        }
        Ok(())
    }
}

impl MysqlStore {
    pub(super) fn write<T>(
        &self,
        again: Again,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        if self.is_closed {
            return Err(moved_meanwhile(&self.database.location));
        }
        let mut wrote = false;
        let done = self.database.write(again, |tx| {
            let done = work(tx);
            wrote |= tx.wrote;
            done
        });
        // Also where nobody knows whether it was committed.
        if wrote {
            self.news.tell_change();
        }
        done
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.database.read(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16) -> Fault {
        Fault::Sql(mysql::Error::MySqlError(mysql::error::MySqlError {
            state: "HY000".to_owned(),
            message: "a value of somebody: secret".to_owned(),
            code,
        }))
    }

    #[test]
    fn every_failure_of_the_server_says_what_to_do_and_repeats_no_value() {
        let cases = [
            (1213, ErrorKind::Transient, "tried again", Remedy::Retry),
            (1205, ErrorKind::Transient, "tried again", Remedy::Retry),
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
            let error = failure(code).explain("mysql://db:3306/jobs");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.is_storage(), "{error}");
            assert!(error.message().contains(part), "{error}");
            assert!(error.message().contains("mysql://db:3306/jobs"), "{error}");
            assert!(!error.message().contains("secret"), "{error}");
        }
    }
}
