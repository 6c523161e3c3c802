//! Identification of our SQLite files.

use rusqlite::Connection;

/// The application id, the version of the schema and the number of tables and indexes.
///
/// They are read in one statement. Three statements could see different states while another OS process creates the
/// file.
pub(crate) fn sqlite_header(db: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let about = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
                 FROM pragma_application_id, pragma_user_version";
    db.query_row(about, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}
