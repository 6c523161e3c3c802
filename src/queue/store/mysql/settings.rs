//! Settings in the database of a queue, for all its workers and servers on all machines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::Error;
use crate::config::ConfigStore;

use super::writer::{Again, Fault, Queries as _, Statements as _, Tx, by};
use super::{Database, MysqlOptions, MysqlStore, open};

/// A version that was read is reused for this long, to reduce the number of queries.
const FRESH: Duration = Duration::from_millis(750);

/// Settings in the database of a queue, for all its workers and servers. Clones share connections.
///
/// Settings are texts in a table next to the jobs. A change by another machine is noticed within 1 second. Credentials
/// are rejected, as by every [`ConfigStore`]: API keys stay in the environment of each machine.
#[derive(Clone, derive_more::Debug)]
#[debug("MysqlConfig {{ location: {:?}, .. }}", database.location)]
pub struct MysqlConfig {
    database: Arc<Database>,
    seen: Arc<Mutex<Option<(Instant, u64)>>>,
    fresh: Duration,
}

impl MysqlConfig {
    /// Opens the database, and creates the tables if they do not exist.
    ///
    /// # Errors
    /// As [`MysqlStore::open`].
    pub fn open(options: MysqlOptions) -> Result<Self, Error> {
        Ok(Self::on(open::connect(&options)?))
    }

    fn on(database: Arc<Database>) -> Self {
        Self {
            database,
            seen: Arc::default(),
            fresh: FRESH,
        }
    }

    /// The address of the settings, without a credential.
    pub fn location(&self) -> &str {
        &self.database.location
    }

    /// Queries the server for each version.
    #[cfg(test)]
    pub(super) fn always_asks(mut self) -> Self {
        self.fresh = Duration::ZERO;
        self
    }
}

impl MysqlStore {
    /// The settings in the same database, over the same connections.
    pub fn config(&self) -> MysqlConfig {
        MysqlConfig::on(self.database.clone())
    }
}

/// A version that combines the counter of changes with a hash of the rows, which may be changed by other means.
fn version(tx: &mut Tx<'_>) -> Result<u64, Fault> {
    let found = tx.first(
        "SELECT number, (SELECT BIT_XOR(CRC32(CONCAT_WS('=', name, value))) FROM #settings)
         FROM #settings_version WHERE no = 1",
        Vec::new(),
    )?;
    let mut row = found.ok_or(Fault::Odd("settings without a version"))?;
    let (number, sum): (i64, u64) = (row.at(0)?, row.at(1)?);
    // The counter and the hash differ in the lower half of a number.
    Ok(number.cast_unsigned() ^ sum << 32)
}

impl ConfigStore for MysqlConfig {
    fn all(&self) -> Result<BTreeMap<String, String>, Error> {
        self.database.read(|tx| {
            let rows = tx.rows("SELECT name, value FROM #settings", Vec::new())?;
            let pair = |mut row: super::writer::Row| Ok((row.at(0)?, row.at(1)?));
            rows.into_iter().map(pair).collect()
        })
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        self.database.write(Again::Harmless, |tx| {
            let count = "UPDATE #settings_version SET number = number + 1 WHERE no = 1";
            // Executed first, so that writers of settings wait for each other in order.
            tx.run(count, Vec::new())?;
            match value {
                Some(value) => tx.run(
                    "INSERT INTO #settings (name, value) VALUES (?, ?)
                     ON DUPLICATE KEY UPDATE value = VALUES(value)",
                    by![key.to_owned(), value.to_owned()],
                )?,
                None => tx.run("DELETE FROM #settings WHERE name = ?", by![key.to_owned()])?,
            };
            Ok(())
        })?;
        *self.seen.lock() = None;
        Ok(())
    }

    fn version(&self) -> Result<u64, Error> {
        let mut seen = self.seen.lock();
        if let Some((at, version)) = *seen
            && at.elapsed() < self.fresh
        {
            return Ok(version);
        }
        let asked = Instant::now();
        let now = self.database.read(version)?;
        *seen = Some((asked, now));
        Ok(now)
    }
}
