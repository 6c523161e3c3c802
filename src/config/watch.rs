//! Settings that follow their store.

use std::sync::Arc;

use crate::base::Error;

use super::settings::Settings;
use super::store::ConfigStore;

/// Settings that follow their store while a program runs.
///
/// ```
/// use std::sync::Arc;
/// use batchwright::Settings;
/// use batchwright::config::{ConfigStore, MemoryConfig, SettingsWatch};
/// let store = Arc::new(MemoryConfig::new());
/// let mut watch = SettingsWatch::new(Settings::new(), store.clone())?;
/// assert_eq!(watch.settings().worker_count()?, 5);
/// store.set("queue.worker_count", "8")?;
/// assert!(watch.refresh()?);
/// assert_eq!(watch.settings().worker_count()?, 8);
/// assert!(!watch.refresh()?, "nothing has changed since");
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("SettingsWatch({settings:?})")]
pub struct SettingsWatch {
    settings: Settings,
    store: Arc<dyn ConfigStore>,
    seen: u64,
}

impl SettingsWatch {
    /// Adds the stored values to `settings`, below its flags and environment.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn new(settings: Settings, store: Arc<dyn ConfigStore>) -> Result<Self, Error> {
        // The version is read first, so that the next check notices a change in between.
        let seen = store.version()?;
        Ok(Self {
            settings: settings.store(&*store)?,
            store,
            seen,
        })
    }

    /// The settings at the last check.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Checks whether the store was changed, by this or another process, and if so reads the new values. It is cheap
    /// enough to be called several times per second.
    ///
    /// # Errors
    /// If the store cannot be read or is locked ([`Transient`](crate::ErrorKind::Transient)). Then the settings stay
    /// unchanged, and the next check tries again.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        let version = self.store.version()?;
        if version == self.seen {
            return Ok(false);
        }
        self.settings = self.settings.clone().store(&*self.store)?;
        self.seen = version;
        Ok(true)
    }
}
