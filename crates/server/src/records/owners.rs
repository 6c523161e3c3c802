//! The owners of jobs and processes that no longer exist, for a limited time.

use batchwright::Error;

use super::database::{Statements, by};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS owners (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL, -- the name of the token that created it
        expires_at INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS owners_by_expiry ON owners (expires_at);";

/// The owner of an object, if it is recorded.
pub(crate) fn owner(database: &mut dyn Statements, id: &str) -> Result<Option<String>, Error> {
    let row = database.first("SELECT owner FROM #owners WHERE id = ?", by![id])?;
    row.map(|mut row| row.text(0)).transpose()
}

/// Records the owner of a job or a process for later, when it may no longer exist. A record of this owner that expires
/// later stays. `expires_at` is in seconds since 1970.
pub(crate) fn keep_owner(
    database: &mut dyn Statements,
    id: &str,
    owner: &str,
    expires_at: u64,
) -> Result<(), Error> {
    let find = "SELECT expires_at FROM #owners WHERE id = ? AND owner = ?";
    let before = database.first(find, by![id, owner])?;
    let before = before.map(|mut row| row.int(0)).transpose()?.unwrap_or(0);
    let expires_at = before.max(expires_at as i64);
    let keep = "REPLACE INTO #owners (id, owner, expires_at) VALUES (?, ?, ?)";
    database.run(keep, by![id, owner, expires_at]).map(drop)
}

/// Deletes the record of the owner of a job or a process.
pub(crate) fn forget_owner(database: &mut dyn Statements, id: &str) -> Result<(), Error> {
    let sql = "DELETE FROM #owners WHERE id = ?";
    database.run(sql, by![id]).map(drop)
}

/// Deletes expired records.
pub(crate) fn forget_expired(database: &mut dyn Statements, now: u64) -> Result<(), Error> {
    let sql = "DELETE FROM #owners WHERE expires_at <= ?";
    database.run(sql, by![now as i64]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::testing::in_each_place;

    #[test]
    fn an_owner_stays_recorded_until_the_latest_time() {
        in_each_place(|open| {
            let records = open();
            let mut database = records.single();
            let mut is_there = |name: &str, expires_at, now| {
                keep_owner(&mut database, "job", name, expires_at).unwrap();
                forget_expired(&mut database, now).unwrap();
                owner(&mut database, "job").unwrap().as_deref() == Some(name)
            };
            assert!(is_there("shop", 900, 899));
            assert!(is_there("shop", 10, 899));
            assert!(is_there("shop", 1000, 999));
            assert!(is_there("guest", 1000, 999));
            assert!(is_there("shop", 10, 9));
            assert!(!is_there("shop", 10, 10));
        });
    }
}
