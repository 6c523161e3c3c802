//! The rows that a query returns from an SQLite file.

use std::path::Path;

use base64::Engine;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::Value;

use super::Rows;
use crate::base::Error;
use crate::bulk::input::MAX_RECORD_BYTES;

/// Maximum nesting of an expression: SQLite's own default, which a system's library may raise.
const MOST_DEPTH: i32 = 1000;
/// Steps of a query between two checks for cancellation: well below a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
}

/// Whether SQLite accepts the file as a database; an empty file is not accepted.
pub(super) fn is_database(path: &Path) -> bool {
    let schema = |database: Connection| {
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    };
    let is_none =
        |error: rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::NotADatabase);
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
        && !open(path).and_then(schema).is_err_and(is_none)
}

/// Writes the rows that the query returns; the first row is number 1.
pub(super) fn write(path: &Path, query: Option<&str>, rows: &mut Rows<'_>) -> Result<u64, Error> {
    let mut database = open(path).map_err(|error| rows.unreadable(&error))?;
    let ctx = rows.ctx.clone();
    let stops = move || ctx.check().is_err();
    // It returns nothing in older versions of rusqlite, and fails only for a connection that another program owns.
    let _ = database.progress_handler(STEPS_BETWEEN_LOOKS, Some(stops));
    let limited = database
        .set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_RECORD_BYTES as i32)
        .and_then(|_| database.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, MOST_DEPTH));
    limited.map_err(|error| rows.unreadable(&error))?;
    // The file may come from an untrusted source, so functions called by its views must be harmless.
    let careful =
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA query_only = ON";
    let set = database.execute_batch(careful);
    set.map_err(|error| rows.unreadable(&error))?;
    let Some(query) = query else {
        return Err(rows.refused(no_query(&tables(&database))));
    };
    let bad = |error: rusqlite::Error| rows.refused(format!("--query: {error}"));
    let mut statement = database.prepare(query).map_err(bad)?;
    if !statement.readonly() {
        return Err(rows.refused("--query: the statement writes; expected one SELECT"));
    }
    let names: Vec<String> = (0..statement.column_count())
        .map(|i| statement.column_name(i).map(str::to_owned))
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    let mut found = statement.query([]).map_err(bad)?;
    rows.names(&names)?;
    let mut values = Vec::new();
    loop {
        let row = found.next();
        let row = row.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => rows.too_large(),
            _ if rows.ctx.check().is_err() => rows.gave_up(&error),
            _ => rows.refused(format!("--query: {error}")),
        })?;
        let Some(row) = row else {
            return Ok(1);
        };
        values.clear();
        for i in 0..names.len() {
            let value = row.get_ref(i).map_err(|error| rows.unreadable(&error))?;
            values.push(json(value));
        }
        rows.row(&values)?;
    }
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(x) => x.into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => base64::prelude::BASE64_STANDARD.encode(bytes).into(),
        },
    }
}

/// The tables and views that can be read.
fn tables(database: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 50";
    let names = database.prepare(sql).and_then(|mut statement| {
        let names = statement.query_map([], |row| row.get(0))?;
        names.collect()
    });
    names.unwrap_or_default()
}

fn no_query(tables: &[String]) -> String {
    let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let (example, there) = match tables {
        [] => ("…".to_owned(), "none".to_owned()),
        [first, ..] => {
            let all: Vec<String> = tables.iter().map(quoted).collect();
            (quoted(first), all.join(", "))
        }
    };
    format!(
        "found an SQLite file; expected also --query 'SELECT * FROM {example}': its tables are {there}"
    )
}
