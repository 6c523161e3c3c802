//! Moves a queue out of this file or into it: its rows, and the mark that closes it.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::base::{Error, ErrorKind, Timestamp};
use crate::queue::store::ClaimStore as _;
use crate::queue::store::moving::{
    CLOSED, MOVED_TABLES, MovableStore, MoveMark, MovedTable, ODD_MARK, PIECE_BYTES, PIECES,
    QueueIdentity, QueueUser, row_bytes, taken_over,
};
use crate::queue::store::sql::statements::Fault;

use super::SqliteStore;
use super::closed;
use super::uploads::Uploads;
use super::workers::Pulse;

/// The schema name of the HTTP server's records, once their file is attached.
const RECORDS: &str = "records";

/// Why the queue is closed.
fn mark(conn: &Connection) -> Result<Option<MoveMark>, Fault> {
    let text = closed::mark(conn)?;
    let mark = text.map(|text| MoveMark::read(text.as_bytes()).ok_or(ODD_MARK));
    mark.transpose().map_err(Fault::Odd)
}

/// Shows whether the queue is closed, also to programs without support for marks.
fn shift_version(conn: &Connection, by: i64) -> Result<(), Fault> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    conn.pragma_update(None, "user_version", version + by)?;
    Ok(())
}

fn has_rows(conn: &Connection, table: &str) -> Result<bool, Fault> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
    Ok(conn.query_row(&sql, [], |row| row.get(0))?)
}

fn refused(why: String) -> Fault {
    Error::new(ErrorKind::Invalid, why).with_storage().into()
}

/// The name of a table, if there is one.
fn place(conn: &Connection, table: &MovedTable) -> Result<Option<String>, Fault> {
    let (schema, name) = match table.of_server {
        true if is_attached(conn)? => (RECORDS, table.name.clone()),
        true => ("main", format!("server_{}", table.name)),
        false => return Ok(Some(table.name.clone())),
    };
    let find = format!("SELECT 1 FROM {schema}.sqlite_master WHERE type = 'table' AND name = ?1");
    let found = conn.query_row(&find, [&name], |_| Ok(())).optional()?;
    Ok(found.map(|()| format!("{schema}.`{name}`")))
}

fn is_attached(conn: &Connection) -> Result<bool, Fault> {
    let find = "SELECT 1 FROM pragma_database_list WHERE name = ?1";
    Ok(conn
        .query_row(find, [RECORDS], |_| Ok(()))
        .optional()?
        .is_some())
}

/// The folder of the files whose records are attached.
fn uploads(path: &Path) -> Uploads {
    Uploads::new(path.with_file_name("files"))
}

impl SqliteStore {
    /// The files of the HTTP server, if this is their table and it does not contain the bytes.
    fn uploads_of(&self, table: &MovedTable) -> Option<Arc<Uploads>> {
        match &*table.name {
            PIECES => self.uploads.lock().clone(),
            _ => None,
        }
    }

    fn not_moved(&self, error: &std::io::Error) -> Error {
        let why = format!(
            "the files of the HTTP server next to {}: {error}",
            self.path.display()
        );
        Error::new(ErrorKind::Invalid, why).with_storage()
    }

    fn moving<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Error> {
        let writer = self.writer.lock();
        work(&writer.conn).map_err(|fault| fault.in_file(&self.path))
    }

    /// Fails if another attempt has replaced the mark.
    fn check_own(&self, conn: &Connection, own: &MoveMark) -> Result<(), Fault> {
        if mark(conn)?.as_ref() == Some(own) {
            return Ok(());
        }
        Err(taken_over(&self.path.to_string_lossy()).into())
    }

    /// Turns this file into the file of an export, with tables for the records of the HTTP server.
    pub(crate) fn prepare_file(&self, mark: &MoveMark) -> Result<(), Error> {
        for table in MOVED_TABLES.iter().filter(|table| table.of_server) {
            let keys: Vec<_> = table.columns[..table.keys]
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS server_{} ({}, PRIMARY KEY ({}))",
                table.name,
                table.list(|name| name),
                keys.join(", ")
            );
            self.moving(|conn| Ok(conn.execute_batch(&sql)?))?;
        }
        self.set_mark(None, Some(mark)).map(drop)
    }

    /// Copies the log into the file, and reads all of it.
    pub(crate) fn complete_file(&self) -> Result<(), Error> {
        self.moving(|conn| {
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy: i64 = conn.query_row(checkpoint, [], |row| row.get(0))?;
            if busy == 0 {
                return Ok(());
            }
            Err(refused(format!(
                "{} is not complete: another program reads it, so SQLite's log stays out of it. Run the command again",
                self.path.display()
            )))
        })?;
        self.check_file()
    }

    /// Checks that all of the file can be read.
    pub(crate) fn check_file(&self) -> Result<(), Error> {
        self.moving(|conn| {
            let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found == "ok" {
                Ok(())
            } else {
                Err(Fault::Odd("the check of its pages fails"))
            }
        })
    }
}

impl MovableStore for SqliteStore {
    fn attach_records(&self, path: &Path) -> Result<(), Error> {
        self.moving(|conn| {
            let attach = format!("ATTACH DATABASE ?1 AS {RECORDS}");
            conn.execute(&attach, [path.to_string_lossy()])?;
            Ok(())
        })?;
        *self.uploads.lock() = Some(Arc::new(uploads(path)));
        Ok(())
    }

    fn mark(&self) -> Result<Option<MoveMark>, Error> {
        self.moving(mark)
    }

    fn set_mark(&self, before: Option<&MoveMark>, after: Option<&MoveMark>) -> Result<bool, Error> {
        self.transact(self.writer.lock(), true, |conn| {
            if mark(conn)?.as_ref() != before {
                return Ok(false);
            }
            if before.is_none() && after.is_some() {
                if has_rows(conn, "workers")? {
                    return Err(refused(format!("a worker began to use {}; stop it first", self.path.display())));
                }
                let set = "INSERT INTO meta VALUES ('moves', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                conn.execute(set, [closed::moves(conn)? + 1])?;
                shift_version(conn, CLOSED)?;
            }
            if before.is_none() && matches!(after, Some(MoveMark::Importing { .. })) {
                for table in MOVED_TABLES.iter().filter(|table| table.name != "lanes") {
                    if let Some(place) = place(conn, table)?
                        && has_rows(conn, &place)?
                    {
                        return Err(refused(format!(
                            "{} is not empty: it has {}. A queue can be imported only into an empty database; name another \
                             place (--data-dir or --store)",
                            self.path.display(),
                            table.name
                        )));
                    }
                }
                conn.execute("DELETE FROM lanes", [])?;
            }
            match after {
                Some(after) => {
                    let text = serde_json::to_string(after).unwrap_or_default();
                    let set = "INSERT INTO meta VALUES ('move', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                    conn.execute(set, [text])?;
                }
                None => {
                    conn.execute("DELETE FROM meta WHERE key = 'move'", [])?;
                    shift_version(conn, -CLOSED)?;
                }
            }
            Ok(true)
        })
    }

    fn users(&self, now: Timestamp) -> Result<Vec<QueueUser>, Error> {
        if self.mark()?.is_none() {
            self.reclaim(now)?;
        }
        let listed = self.listed()?.into_iter();
        let alive = listed.filter(|worker| !matches!(self.pulse(worker), Pulse::Dead(_)));
        let alive =
            alive.map(|worker| format!("a worker (process {} on {})", worker.pid, worker.host));
        let users = alive.chain(self.takers()).map(|name| QueueUser {
            name,
            lease_ended: false,
        });
        Ok(users.collect())
    }

    fn identity(&self) -> Result<QueueIdentity, Error> {
        self.moving(|conn| {
            let of = "SELECT (SELECT value FROM meta WHERE key = 'id'), (SELECT value FROM meta WHERE key = 'salt')";
            let identity = |row: &rusqlite::Row<'_>| Ok(QueueIdentity { id: row.get(0)?, salt: row.get(1)? });
            Ok(conn.query_row(of, [], identity)?)
        })
    }

    fn set_identity(&self, identity: &QueueIdentity, own: &MoveMark) -> Result<(), Error> {
        self.transact(self.writer.lock(), true, |conn| {
            self.check_own(conn, own)?;
            conn.execute(
                "UPDATE meta SET value = ?1 WHERE key = 'id'",
                [&identity.id],
            )?;
            conn.execute(
                "UPDATE meta SET value = ?1 WHERE key = 'salt'",
                [identity.salt],
            )?;
            Ok(())
        })
    }

    fn last_number(&self, table: &str) -> Result<i64, Error> {
        self.moving(|conn| {
            let find = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
            let last = conn.query_row(find, [table], |row| row.get(0)).optional()?;
            Ok(last.unwrap_or(0))
        })
    }

    fn set_last_number(&self, table: &str, last: i64, own: &MoveMark) -> Result<(), Error> {
        self.transact(self.writer.lock(), true, |conn| {
            self.check_own(conn, own)?;
            let raise = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
            if conn.execute(raise, (table, last))? == 0 {
                conn.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)",
                    (table, last),
                )?;
            }
            Ok(())
        })
    }

    fn rows(
        &self,
        table: &MovedTable,
        after: Option<&[Value]>,
        most: usize,
    ) -> Result<Vec<Vec<Value>>, Error> {
        if let Some(uploads) = self.uploads_of(table) {
            let rows = uploads.rows(after, most);
            return rows.map_err(|error| self.not_moved(&error));
        }
        self.moving(|conn| {
            let Some(place) = place(conn, table)? else {
                return Ok(Vec::new());
            };
            let (condition, by) = table.compared(">", after.unwrap_or_default());
            let sql = format!(
                "SELECT {} FROM {place} WHERE {condition} ORDER BY {}",
                table.list(|name| name),
                table.order("ASC")
            );
            let mut select = conn.prepare_cached(&sql)?;
            let mut found = select.query(params_from_iter(by))?;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while rows.len() < most
                && bytes < PIECE_BYTES
                && let Some(row) = found.next()?
            {
                let cells = (0..table.columns.len()).map(|at| row.get(at));
                let cells: Vec<Value> = cells.collect::<Result<_, _>>()?;
                bytes += row_bytes(&cells);
                rows.push(cells);
            }
            Ok(rows)
        })
    }

    fn add_rows(
        &self,
        table: &MovedTable,
        rows: Vec<Vec<Value>>,
        own: &MoveMark,
    ) -> Result<(), Error> {
        if let Some(uploads) = self.uploads_of(table) {
            self.moving(|conn| self.check_own(conn, own))?;
            return uploads.add(rows).map_err(|error| self.not_moved(&error));
        }
        self.transact(self.writer.lock(), false, |conn| {
            self.check_own(conn, own)?;
            let place = place(conn, table)?.ok_or_else(|| {
                refused(format!(
                    "{} has no table for records of the HTTP server",
                    self.path.display()
                ))
            })?;
            let marks = vec!["?"; table.columns.len()].join(", ");
            let sql = format!(
                "INSERT INTO {place} ({}) VALUES ({marks})",
                table.list(|name| name)
            );
            let mut insert = conn.prepare_cached(&sql)?;
            for row in rows {
                insert.execute(params_from_iter(row))?;
            }
            Ok(())
        })
    }

    fn last_key(&self, table: &MovedTable) -> Result<Option<Vec<Value>>, Error> {
        self.moving(|conn| {
            let Some(place) = place(conn, table)? else {
                return Ok(None);
            };
            let sql = format!(
                "SELECT {} FROM {place} ORDER BY {} LIMIT 1",
                table.list(|name| name),
                table.order("DESC")
            );
            let key = |row: &rusqlite::Row<'_>| (0..table.keys).map(|at| row.get(at)).collect();
            Ok(conn.query_row(&sql, [], key).optional()?)
        })
    }

    fn count_rows(&self, table: &MovedTable) -> Result<u64, Error> {
        self.moving(|conn| match place(conn, table)? {
            Some(place) => {
                let sql = format!("SELECT count(*) FROM {place}");
                Ok(crate::queue::store::rows::count(conn.query_row(
                    &sql,
                    [],
                    |row| row.get(0),
                )?))
            }
            None => Ok(0),
        })
    }
}
