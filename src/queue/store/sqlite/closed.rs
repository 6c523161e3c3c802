//! Every transaction checks here whether a move has closed the queue.

use rusqlite::{Connection, OptionalExtension};

/// Number of times that the queue was closed.
pub(super) fn moves(conn: &Connection) -> rusqlite::Result<i64> {
    let moves = conn
        .prepare_cached("SELECT value FROM meta WHERE key = 'moves'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(moves.unwrap_or(0))
}

/// Why the queue is closed, in JSON.
pub(super) fn mark(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM meta WHERE key = 'move'")?
        .query_row([], |row| row.get(0))
        .optional()
}
