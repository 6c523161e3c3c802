//! Settings that follow their store.

use std::sync::Arc;

use crate::base::error::Error;

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
    /// Puts what is stored beneath the flags and the environment of `settings`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(settings: Settings, store: Arc<dyn ConfigStore>) -> Result<Self, Error> {
        // The version first: a change in between is then seen at the next look.
        let seen = store.version()?;
        Ok(Self {
            settings: settings.store(&*store)?,
            store,
            seen,
        })
    }

    /// The settings as of the last look.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks whether somebody has changed the store, here or in another process, and if so takes
    /// what it holds now. Cheap enough for several times a second.
    ///
    /// # Errors
    /// When the store cannot be read, or is locked just now
    /// ([`Transient`](crate::ErrorKind::Transient)); the settings stay as they were, and the next
    /// look tries again.
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
