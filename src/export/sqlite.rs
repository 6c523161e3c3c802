//! The table `results` of a new SQLite file.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, params_from_iter};

use super::cell::{Cell, ColumnType};
use super::columns::Column;
use super::sink::{Sink, failed};
use crate::base::{Error, ErrorKind};

/// The limit of SQLite in its default configuration.
const MOST_COLUMNS: usize = 2000;

/// A table in a file that no other program has opened yet.
pub(super) struct SqliteTable {
    database: Connection,
    insert: String,
    kinds: Vec<ColumnType>,
}

impl SqliteTable {
    /// Creates the table in an empty file.
    pub(super) fn new(path: &Path, columns: &[Column]) -> Result<Self, Error> {
        if columns.len() > MOST_COLUMNS {
            let why = format!(
                "{} columns do not fit an SQLite table; the limit is {MOST_COLUMNS}; use .parquet or .csv",
                columns.len()
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let database = Connection::open(path).map_err(|error| failed(&error))?;
        // Nothing needs to survive a crash until the file has its final name.
        let setup = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN IMMEDIATE;";
        let mut names = HashSet::new();
        let declared: Vec<String> = columns
            .iter()
            .map(|column| {
                let name = unlike(&column.name, &mut names);
                format!("{} {}", quoted(&name), declaration(column.kind))
            })
            .collect();
        let places = vec!["?"; columns.len()].join(",");
        let create = format!("CREATE TABLE results ({});", declared.join(", "));
        database
            .execute_batch(&(setup.to_owned() + &create))
            .map_err(|error| failed(&error))?;
        Ok(Self {
            database,
            insert: format!("INSERT INTO results VALUES ({places})"),
            kinds: columns.iter().map(|column| column.kind).collect(),
        })
    }

    fn insert(
        statement: &mut Statement<'_>,
        cells: &[Cell<'_>],
        kinds: &[ColumnType],
    ) -> rusqlite::Result<()> {
        let texts: Vec<Option<std::borrow::Cow<'_, str>>> = cells
            .iter()
            .zip(kinds)
            .map(|(cell, kind)| match (cell, kind) {
                (Cell::Bool(_), ColumnType::Bool)
                | (
                    Cell::Int(_) | Cell::Float(..),
                    ColumnType::Int | ColumnType::Long | ColumnType::Float,
                ) => None,
                (cell, _) => cell.to_text(),
            })
            .collect();
        let values = cells.iter().zip(&texts).map(|(cell, text)| {
            ToSqlOutput::Borrowed(match (text, cell) {
                (Some(text), _) => ValueRef::Text(text.as_bytes()),
                (None, Cell::Bool(yes)) => ValueRef::Integer(i64::from(*yes)),
                (None, Cell::Int(n)) => ValueRef::Integer(*n),
                (None, Cell::Float(x, _)) => ValueRef::Real(*x),
                (None, _) => ValueRef::Null,
            })
        });
        statement.execute(params_from_iter(values)).map(drop)
    }
}

impl Sink for SqliteTable {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let statement = self.database.prepare_cached(&self.insert);
        statement
            .and_then(|mut statement| Self::insert(&mut statement, cells, &self.kinds))
            .map_err(|error| failed(&error))
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.database.flush_prepared_statement_cache();
        let ended = self.database.execute_batch("COMMIT");
        ended.map_err(|error| failed(&error))?;
        self.database.close().map_err(|(_, error)| failed(&error))
    }
}

/// The declared type of a column. A text column has this type even before it has a value, so that digits stay
/// unchanged.
fn declaration(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Bool => "BOOLEAN",
        ColumnType::Int | ColumnType::Long => "INTEGER",
        ColumnType::Float => "REAL",
        // SQLite has no type for dates; it sorts and reads them as texts.
        ColumnType::Date | ColumnType::DateTime | ColumnType::Instant => "TEXT",
        ColumnType::Empty | ColumnType::Text | ColumnType::Json | ColumnType::Vector => "TEXT",
    }
}

/// A name that does not occur yet, ignoring case, because SQLite ignores it.
fn unlike(name: &str, names: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let mut tries = std::iter::once(name.to_owned()).chain(numbered);
    let free = tries.find(|name| names.insert(name.to_lowercase()));
    free.unwrap_or_else(|| name.to_owned())
}

/// A name quoted for SQL. A NUL would end the statement.
fn quoted(name: &str) -> String {
    format!(
        "\"{}\"",
        name.replace('"', "\"\"").replace('\0', "\u{fffd}")
    )
}
