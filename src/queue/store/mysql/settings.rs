//! Settings in the database of a queue: those of all its workers and servers, on whatever machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::error::Error;
use crate::config::ConfigStore;

use super::writer::{Again, Fault, Queries as _, Statements as _, Tx, by};
use super::{Database, MysqlOptions, MysqlStore, open};

/// How long a version that was read is used again, so that frequent looks ask the server less often.
const FRESH: Duration = Duration::from_millis(750);

/// Settings in the database of a queue, for all its workers and servers. Clones share connections.
///
/// They are texts in a table beside those of the jobs. A change that another machine has made is seen within a second.
/// Credentials are refused, as by every [`ConfigStore`]: keys stay in the environment of each machine.
#[derive(Clone, derive_more::Debug)]
#[debug("MysqlConfig {{ location: {:?}, .. }}", database.location)]
pub struct MysqlConfig {
    database: Arc<Database>,
    seen: Arc<Mutex<Option<(Instant, u64)>>>,
    fresh: Duration,
}

impl MysqlConfig {
    /// Opens the database, and makes the tables if they are not there.
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

    /// Where the settings are, without any credential.
    pub fn location(&self) -> &str {
        &self.database.location
    }

    /// Asks the server for each version.
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

/// The number that changes count up, and what the rows hold: somebody may change these by other means.
fn version(tx: &mut Tx<'_>) -> Result<u64, Fault> {
    let found = tx.first(
        "SELECT number, (SELECT BIT_XOR(CRC32(CONCAT_WS('=', name, value))) FROM #settings)
         FROM #settings_version WHERE no = 1",
        Vec::new(),
    )?;
    let mut row = found.ok_or(Fault::Odd("settings without a version"))?;
    let (number, sum): (i64, u64) = (row.at(0)?, row.at(1)?);
    // Numbers that differ do so in their lower half.
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
            // First, and alone among what is locked: writers of settings follow each other.
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
