//! The trait for stores of settings, which a host can implement to keep settings elsewhere.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::base::Error;

use super::key::SettingKey;

/// Stores settings as texts under their [keys](crate::config::SettingKey).
///
/// All methods may be called from several threads at once, and other processes read what one process has written.
/// Credentials are never stored: [`set`](Self::set) rejects them.
pub trait ConfigStore: Send + Sync {
    /// All stored values, also under keys that this version does not know.
    ///
    /// # Errors
    /// If the store cannot be read; the message says what to do.
    fn all(&self) -> Result<BTreeMap<String, String>, Error>;

    /// Stores a value, or deletes it if `value` is `None`. It does not check the value: callers use [`set`](Self::set)
    /// and [`unset`](Self::unset), which check it.
    ///
    /// # Errors
    /// If the store cannot be written; then nothing has changed.
    fn write(&self, key: &str, value: Option<&str>) -> Result<(), Error>;

    /// A number that changes with each change of the store, by this or another process. It is read several times per
    /// second.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn version(&self) -> Result<u64, Error>;

    /// The value stored under a key.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.all()?.remove(key))
    }

    /// Checks and stores a value.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown key, for a value that the key does not accept
    /// (the message names what it accepts), and for a text that looks like an API key; otherwise as
    /// [`write`](Self::write).
    fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        let value = SettingKey::named(key)?.check_stored(value)?;
        self.write(key, Some(&value))
    }

    /// Deletes a value. A missing value is not an error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown key without a stored value; otherwise as
    /// [`write`](Self::write).
    fn unset(&self, key: &str) -> Result<(), Error> {
        if SettingKey::find(key).is_none() && self.get(key)?.is_none() {
            SettingKey::named(key)?;
        }
        self.write(key, None)
    }
}

/// Settings of this process only, for tests and for hosts that keep them elsewhere.
///
/// ```
/// use batchwright::config::{ConfigStore, MemoryConfig};
/// let store = MemoryConfig::new();
/// store.set("llm.sync_concurrency", "8")?;
/// assert_eq!(store.get("llm.sync_concurrency")?.as_deref(), Some("8"));
/// let error = store.set("llm.sync_concurrency", "many").unwrap_err();
/// assert!(error.message().contains("a whole number from 1 to 10000"));
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryConfig(Mutex<MemoryValues>);

#[derive(Debug, Default)]
struct MemoryValues {
    values: BTreeMap<String, String>,
    changes: u64,
}

impl MemoryConfig {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl ConfigStore for MemoryConfig {
    fn all(&self) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.0.lock().values.clone())
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        let mut kept = self.0.lock();
        match value {
            Some(value) => kept.values.insert(key.to_owned(), value.to_owned()),
            None => kept.values.remove(key),
        };
        kept.changes += 1;
        Ok(())
    }

    fn version(&self) -> Result<u64, Error> {
        Ok(self.0.lock().changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    #[test]
    fn memory_passes_the_tests_of_every_settings_store() {
        let store = std::sync::Arc::new(MemoryConfig::new());
        super::super::conformance::check(&|| store.clone());
    }

    #[test]
    fn invalid_values_are_not_stored() {
        let store = MemoryConfig::new();
        for (key, value) in [
            ("llm.modle", "m"),
            ("queue.batch_size", "0"),
            ("llm.model", "sk-0123456789ab"),
        ] {
            let error = store.set(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        assert_eq!(store.version().unwrap(), 0);
        assert!(store.all().unwrap().is_empty());
    }

    #[test]
    fn values_of_another_version_can_be_deleted() {
        let store = MemoryConfig::new();
        store.write("llm.of_tomorrow", Some("x")).unwrap();
        let before = store.version().unwrap();
        store.unset("llm.of_tomorrow").unwrap();
        assert_ne!(store.version().unwrap(), before);
        assert!(store.unset("llm.of_tomorrow").is_err(), "unknown again");
        store.unset("llm.model").unwrap();
    }
}
