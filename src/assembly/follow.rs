//! Follows settings that change during a run.

use std::sync::Arc;

use crate::base::Error;
use crate::config::settings::SettingsWatch;

use super::LlmManager;

/// The effect of changed settings.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettingsEvent<'a> {
    /// The settings apply from now on, or a server that was [skipped](crate::plan::ProviderPlan::skipped) is called from
    /// now on. This manager has them.
    Applied(&'a LlmManager),
    /// The settings cannot be used now. The old ones apply until they can. This is reported once and tried again a few
    /// times per second.
    Refused(&'a Error),
}

/// Gets the effect of changed settings.
pub(super) type Listener = Arc<dyn Fn(&SettingsEvent<'_>) + Send + Sync>;

/// The default listener.
pub(super) fn log(event: &SettingsEvent<'_>) {
    match event {
        SettingsEvent::Applied(_) => log::info!("changed settings apply"),
        SettingsEvent::Refused(error) => {
            log::warn!("the old settings still apply: {}", error.message())
        }
    }
}

impl LlmManager {
    /// Follows these settings: each [`run_bulk`](Self::run_bulk) begins with the present ones, and a worker of this
    /// manager applies changes within a second, without a restart. Providers, models, strategy, limits, retries and
    /// slots may all change. Calls in flight end under the old settings, and learned limits and cooldowns stay.
    /// Settings that cannot be used are logged once, and the old ones apply until they can.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use batchwright::config::{ConfigStore, MemoryConfig, SettingsWatch};
    /// use batchwright::{LlmManager, ProcessId, Request, Settings};
    /// // `FileConfig` is a store that other processes change, such as `batchwright config set`.
    /// let store = Arc::new(MemoryConfig::new());
    /// store.set("llm.provider", "extract")?;
    /// let watch = SettingsWatch::new(Settings::new(), store.clone())?;
    /// let manager = LlmManager::new(watch.settings().clone())?.follow(watch);
    /// manager.run_bulk(ProcessId::new(), &[Request::new("Some text.")])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn follow(mut self, watch: SettingsWatch) -> Self {
        self.watch = Some(watch);
        self.latest = Arc::default();
        self
    }

    /// Gets changed settings and their effect, while a worker [follows](Self::follow) them, on a thread of the worker.
    /// Default: they are logged.
    pub fn on_settings(
        mut self,
        listener: impl Fn(&SettingsEvent<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Applies the present values of the [followed](Self::follow) settings.
    ///
    /// # Errors
    /// If they cannot be used. Then the last usable ones stay.
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.catch_up().map(drop)
    }

    /// The same. Returns whether they have changed.
    pub(super) fn catch_up(&mut self) -> Result<bool, Error> {
        let latest = self.latest.clone();
        let mut latest = latest.lock();
        if let Some((plan, watch)) = latest.clone() {
            (self.plan, self.watch) = (plan, Some(watch));
        }
        let Some(mut watch) = self.watch.clone() else {
            return Ok(false);
        };
        let has_changed = watch.refresh()?;
        if has_changed {
            let plan = self.plan.with_settings(watch.settings())?;
            *latest = Some((plan.clone(), watch.clone()));
            (self.plan, self.watch) = (plan, Some(watch));
        }
        Ok(has_changed)
    }

    /// This manager with the present settings, or the last usable ones.
    pub(super) fn present(&self) -> Self {
        let mut now = self.clone();
        if let Err(error) = now.catch_up() {
            log(&SettingsEvent::Refused(&error));
        }
        now
    }
}
