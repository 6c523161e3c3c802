//! Moves a queue out of this database or into it: its rows, and the mark that closes it.
//!
//! Every transaction that writes increments a row of the table of versions. Closing the queue gives these rows new
//! numbers. A program that opened the queue before does not find its row, so its transaction is rolled back.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;

use crate::base::{Error, ErrorKind, Timestamp};
use crate::queue::store::ClaimStore as _;
use crate::queue::store::JobLane;
use crate::queue::store::moving::{
    CLOSED, ColumnKind, MOVED_TABLES, MovableStore, MoveMark, MovedTable, ODD_MARK, PIECE_BYTES,
    QueueIdentity, QueueUser, taken_over,
};
use crate::queue::store::sql::statements::Statements as _;

use super::MysqlStore;
use super::lanes::hash;
use super::writer::{CLOCK, Fault, Queries as _, Row, Tx, VERSION_SLOTS, by};

/// Bytes of a mark in one row of the table of facts, whose values are 64 characters of any character set.
const MARK_BYTES: usize = 30;

/// Why the queue is closed: a text in hexadecimal digits, in pieces.
pub(super) fn mark(tx: &mut Tx<'_>) -> Result<Option<MoveMark>, Fault> {
    find_mark(tx, "")
}

fn find_mark(tx: &mut Tx<'_>, lock: &str) -> Result<Option<MoveMark>, Fault> {
    let find = format!("SELECT value FROM #meta WHERE name LIKE 'move\\_%' ORDER BY name {lock}");
    let pieces: Vec<String> = tx.column(&find, Vec::new())?;
    if pieces.is_empty() {
        return Ok(None);
    }
    let odd = || Fault::Odd(ODD_MARK);
    let digits = pieces.concat();
    let bytes = (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().map_err(|_| odd())?;
    MoveMark::read(&bytes).map(Some).ok_or_else(odd)
}

fn write_mark(tx: &mut Tx<'_>, mark: Option<&MoveMark>) -> Result<(), Fault> {
    tx.run("DELETE FROM #meta WHERE name LIKE 'move\\_%'", Vec::new())?;
    let Some(mark) = mark else { return Ok(()) };
    let text = serde_json::to_vec(mark).unwrap_or_default();
    for (at, piece) in text.chunks(MARK_BYTES).enumerate() {
        let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        tx.run(
            "INSERT INTO #meta (name, value) VALUES (?, ?)",
            by![format!("move_{at:04}"), digits],
        )?;
    }
    Ok(())
}

/// The name of a column here: some are reserved words.
fn column(name: &str) -> &str {
    match name {
        "cursor" => "progress",
        name => name,
    }
}

fn place(table: &MovedTable) -> String {
    if table.of_server {
        format!("#server_{}", table.name)
    } else {
        format!("#{}", table.name)
    }
}

fn refused(why: String) -> Fault {
    Error::new(ErrorKind::Invalid, why).with_storage().into()
}

fn cell(row: &mut Row, at: usize, kind: ColumnKind) -> Result<Value, Fault> {
    let value = match kind {
        ColumnKind::Int => row.at::<Option<i64>>(at)?.map(Value::Integer),
        ColumnKind::Real => row.at::<Option<f64>>(at)?.map(Value::Real),
        ColumnKind::Text => row.at::<Option<String>>(at)?.map(Value::Text),
        ColumnKind::Bytes => row.at::<Option<Vec<u8>>>(at)?.map(Value::Blob),
    };
    Ok(value.unwrap_or(Value::Null))
}

fn cells(table: &MovedTable, mut row: Row, count: usize) -> Result<Vec<Value>, Fault> {
    let kinds = table.columns[..count].iter().enumerate();
    kinds
        .map(|(at, (_, kind))| cell(&mut row, at, *kind))
        .collect()
}

/// The columns that only rows of this database have.
fn extra(table: &MovedTable, row: &[Value]) -> Option<Value> {
    let text = |at: usize| match row.get(at) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    (table.name == "lanes").then(|| {
        let step = match row.get(3) {
            Some(Value::Integer(step)) => crate::queue::store::rows::small(*step),
            _ => 0,
        };
        let kind = text(1).unwrap_or_default();
        Value::Blob(hash(&JobLane {
            kind,
            name: text(2),
            step,
        }))
    })
}

/// The last row of a piece: rows are counted until their long columns have too many bytes.
fn end_of_piece(
    tx: &mut Tx<'_>,
    table: &MovedTable,
    condition: &str,
    by: &[Value],
    most: usize,
) -> Result<Option<Vec<Value>>, Fault> {
    let sizes = table
        .long
        .iter()
        .map(|name| format!("IFNULL(LENGTH(`{name}`), 0)"));
    let keys = table.columns[..table.keys]
        .iter()
        .map(|(name, _)| format!("`{name}`"));
    let sql = format!(
        "SELECT {}, {} FROM {} WHERE {condition} ORDER BY {} LIMIT {most}",
        keys.collect::<Vec<_>>().join(", "),
        sizes.collect::<Vec<_>>().join(" + "),
        place(table),
        table.order("ASC")
    );
    let (mut last, mut bytes) = (None, 0);
    for mut row in tx.rows(&sql, by.to_vec())? {
        bytes += usize::try_from(row.at::<i64>(table.keys)?).unwrap_or(0);
        if last.is_some() && bytes > PIECE_BYTES {
            break;
        }
        last = Some(cells(table, row, table.keys)?);
    }
    Ok(last)
}

impl MysqlStore {
    fn has_rows(tx: &mut Tx<'_>, place: &str) -> Result<bool, Fault> {
        tx.exists(&format!("SELECT 1 FROM {place} LIMIT 1"), Vec::new())
    }

    /// Fails if another attempt has replaced the mark. The mark is locked until the transaction ends.
    fn check_own(&self, tx: &mut Tx<'_>, own: &MoveMark) -> Result<(), Fault> {
        if find_mark(tx, "LOCK IN SHARE MODE")?.as_ref() == Some(own) {
            return Ok(());
        }
        Err(taken_over(&self.database.location).into())
    }

    fn refuse_what_is_there(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        for table in MOVED_TABLES.iter().filter(|table| table.name != "lanes") {
            if Self::has_rows(tx, &place(table))? {
                return Err(refused(format!(
                    "{} is not empty: it has {}. A queue can be imported only into an empty database; name other tables \
                     (?tables=NAME) or another database",
                    self.database.location, table.name
                )));
            }
        }
        tx.run("DELETE FROM #lanes", Vec::new()).map(drop)
    }
}

impl MovableStore for MysqlStore {
    fn attach_records(&self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn mark(&self) -> Result<Option<MoveMark>, Error> {
        self.read(mark)
    }

    fn set_mark(&self, before: Option<&MoveMark>, after: Option<&MoveMark>) -> Result<bool, Error> {
        let mut wrote = false;
        let done = self.database.write_closed(|tx| {
            // A concurrent writer holds one of these rows until its transaction ends.
            tx.rows("SELECT slot FROM #versions ORDER BY slot FOR UPDATE", Vec::new())?;
            let found = mark(tx)?;
            if found.as_ref() != before {
                // The reply to a commit of this call was lost. An open queue alone does not prove that this call opened
                // it.
                return Ok((after.is_some() || wrote) && found.as_ref() == after);
            }
            if before.is_none() && after.is_some() {
                if Self::has_rows(tx, "#workers")? {
                    let place = &self.database.location;
                    return Err(refused(format!("a worker began to use {place}; stop it first")));
                }
                let renumber = format!(
                    "UPDATE #versions SET slot = slot + {VERSION_SLOTS}, version = version + 1 ORDER BY slot DESC"
                );
                tx.run(&renumber, Vec::new())?;
                tx.run("UPDATE #schema SET value = value + ? WHERE name = 'version'",
 by![CLOSED])?;
            }
            if before.is_none() && matches!(after, Some(MoveMark::Importing { .. })) {
                self.refuse_what_is_there(tx)?;
            }
            if after.is_none() {
                tx.run("UPDATE #schema SET value = value - ? WHERE name = 'version'",
 by![CLOSED])?;
            }
            write_mark(tx, after)?;
            wrote = true;
            Ok(true)
        })?;
        self.news.tell_change();
        Ok(done)
    }

    fn users(&self, now: Timestamp) -> Result<Vec<QueueUser>, Error> {
        if self.mark()?.is_none() {
            self.reclaim(now)?;
        }
        let workers = self.listed()?.into_iter().map(|worker| QueueUser {
            name: format!("a worker (process {} on {})", worker.pid, worker.host),
            lease_ended: worker.lease_ended,
        });
        let mut users: Vec<QueueUser> = workers.collect();
        let other = |name| QueueUser {
            name,
            lease_ended: false,
        };
        self.read(|tx| {
            let servers = format!("SELECT COUNT(*) FROM #owners WHERE lease_until > {CLOCK}");
            let servers: i64 = tx.one(&servers, Vec::new())?.unwrap_or(0);
            users.extend((servers > 0).then(|| other(format!("{servers} HTTP servers"))));
            let takers = format!("SELECT who FROM #takers WHERE lease_until > {CLOCK}");
            let takers = tx.column::<String>(&takers, Vec::new())?;
            users.extend(takers.into_iter().map(other));
            Ok(())
        })?;
        Ok(users)
    }

    fn lease(&self) -> Duration {
        self.heartbeat.lease()
    }

    fn identity(&self) -> Result<QueueIdentity, Error> {
        self.read(|tx| {
            let mut of = |name: &str| -> Result<String, Fault> {
                let found = tx.one(
                    "SELECT value FROM #meta WHERE name = ?",
                    by![name.to_owned()],
                )?;
                found.ok_or(Fault::Odd("no identity"))
            };
            let (id, salt) = (of("id")?, of("salt")?);
            let salt = salt
                .parse()
                .map_err(|_| Fault::Odd("a salt of another type"))?;
            Ok(QueueIdentity { id, salt })
        })
    }

    fn set_identity(&self, identity: &QueueIdentity, own: &MoveMark) -> Result<(), Error> {
        self.database.write_closed(|tx| {
            self.check_own(tx, own)?;
            for (name, value) in [
                ("id", identity.id.clone()),
                ("salt", identity.salt.to_string()),
            ] {
                tx.run(
                    "UPDATE #meta SET value = ? WHERE name = ?",
                    by![value, name.to_owned()],
                )?;
            }
            Ok(())
        })
    }

    fn last_number(&self, table: &str) -> Result<i64, Error> {
        // The server's next number may be a day out of date, so a temporary row sets it.
        let (columns, values) = dummy(table);
        self.database.write_closed(|tx| {
            let add = format!(
                "INSERT INTO #{table} ({columns}) VALUES {}",
                marks(values.len())
            );
            tx.run(&add, values.clone())?;
            let no = tx.last_id();
            tx.run(&format!("DELETE FROM #{table} WHERE no = ?"), by![no])?;
            Ok(no - 1)
        })
    }

    fn set_last_number(&self, table: &str, last: i64, own: &MoveMark) -> Result<(), Error> {
        if last < 1 {
            return Ok(());
        }
        let (columns, mut values) = dummy(table);
        values.push(last.into());
        self.database.write_closed(|tx| {
            self.check_own(tx, own)?;
            if tx.exists(
                &format!("SELECT 1 FROM #{table} WHERE no >= ? LIMIT 1"),
                by![last],
            )? {
                return Ok(());
            }
            let add = format!(
                "INSERT INTO #{table} ({columns}, no) VALUES {}",
                marks(values.len())
            );
            tx.run(&add, values.clone())?;
            tx.run(&format!("DELETE FROM #{table} WHERE no = ?"), by![last])
                .map(drop)
        })
    }

    fn rows(
        &self,
        table: &MovedTable,
        after: Option<&[Value]>,
        most: usize,
    ) -> Result<Vec<Vec<Value>>, Error> {
        let (mut condition, by) = table.compared(">", after.unwrap_or_default());
        self.read(|tx| {
            let mut by = by.clone();
            if !table.long.is_empty() {
                let Some(last) = end_of_piece(tx, table, &condition, &by, most)? else {
                    return Ok(Vec::new());
                };
                let (until, last) = table.compared("<=", &last);
                condition = format!("{condition} AND {until}");
                by.extend(last);
            }
            let sql = format!(
                "SELECT {} FROM {} WHERE {condition} ORDER BY {} LIMIT {most}",
                table.list(column),
                place(table),
                table.order("ASC")
            );
            // With bound values the server returns typed values.
            let sql = format!("{sql} OFFSET ?");
            by.push(Value::Integer(0));
            let rows = tx.rows(&sql, by)?.into_iter();
            rows.map(|row| cells(table, row, table.columns.len()))
                .collect()
        })
    }

    fn add_rows(
        &self,
        table: &MovedTable,
        rows: Vec<Vec<Value>>,
        own: &MoveMark,
    ) -> Result<(), Error> {
        let hash = if table.name == "lanes" { ", hash" } else { "" };
        let head = format!(
            "INSERT INTO {} ({}{hash}) VALUES",
            place(table),
            table.list(column)
        );
        let rows = rows.into_iter().map(|mut row| {
            let extra = extra(table, &row);
            row.extend(extra);
            row
        });
        let rows: Vec<Vec<Value>> = rows.collect();
        // If these statements run again after a lost reply, they change nothing.
        let key = &table.columns[0].0;
        let tail = format!("ON DUPLICATE KEY UPDATE `{key}` = VALUES(`{key}`)");
        self.database.write_closed(|tx| {
            self.check_own(tx, own)?;
            tx.insert(&head, &tail, rows.clone())
        })
    }

    fn last_key(&self, table: &MovedTable) -> Result<Option<Vec<Value>>, Error> {
        let sql = format!(
            "SELECT {} FROM {} ORDER BY {} LIMIT 1 OFFSET ?",
            table.list(column),
            place(table),
            table.order("DESC")
        );
        self.read(|tx| {
            let last = tx.first(&sql, by![0])?;
            last.map(|row| cells(table, row, table.keys)).transpose()
        })
    }

    fn count_rows(&self, table: &MovedTable) -> Result<u64, Error> {
        let sql = format!("SELECT COUNT(*) FROM {}", place(table));
        self.read(|tx| {
            Ok(crate::queue::store::rows::count(
                tx.one(&sql, Vec::new())?.unwrap_or(0),
            ))
        })
    }
}

fn marks(count: usize) -> String {
    format!("({})", vec!["?"; count].join(", "))
}

/// The columns and values of a temporary row that is deleted at once.
fn dummy(table: &str) -> (&'static str, Vec<Value>) {
    let unique = uuid::Uuid::now_v7().as_bytes().to_vec();
    match table {
        "lanes" => (
            "hash, kind, step",
            by![[unique.clone(), unique].concat(), String::new(), 0],
        ),
        "processes" => ("id, created_at, changed_at", by![unique, 0, 0]),
        _ => (
            "process, lane, record, created_at",
            by![0, 0, String::new(), 0],
        ),
    }
}
