//! Settings that change while something runs.

use std::fmt;
use std::sync::Arc;

use crate::base::error::Error;
use crate::config::watch::SettingsWatch;

use super::LlmManager;

/// What came of settings that changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettingsEvent<'a> {
    /// A key has another value now.
    Changed {
        /// The name of the key.
        key: &'static str,
        /// What it was; `None` where nothing was set.
        before: Option<&'a str>,
        /// What it is.
        now: Option<&'a str>,
    },
    /// Something else holds from now on: this manager makes what holds now.
    Applied(&'a LlmManager),
    /// They cannot be used, at least not now: the old ones hold until they can. Told once, and tried again a
    /// few times a second.
    Refused(&'a Error),
}

/// Who hears what came of settings that changed.
pub(super) type Listener = Arc<dyn Fn(&SettingsEvent<'_>) + Send + Sync>;

/// What is told when nobody listens.
pub(super) fn log(event: &SettingsEvent<'_>) {
    let shown = |value: &Option<&str>| value.unwrap_or("unset").to_owned();
    match event {
        SettingsEvent::Changed { key, before, now } => {
            log::info!(
                "settings changed: {key} {} -> {}",
                shown(before),
                shown(now)
            );
        }
        SettingsEvent::Applied(_) => {}
        SettingsEvent::Refused(error) => {
            log::warn!("the old settings still apply: {}", error.message())
        }
    }
}

impl LlmManager {
    /// Follows the settings that are watched: from now on [`run_bulk`](Self::run_bulk) begins with what they say
    /// then, and a worker that this manager makes takes changes over within a second, without a restart.
    /// Providers, models, strategy, limits, retries and slots may all change. Calls in flight end under the
    /// old settings, and what was learned of limits and pauses stays. Settings that cannot be used are logged
    /// once, and the old ones hold until they can.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use batchwright::config::{ConfigStore, MemoryConfig, SettingsWatch};
    /// use batchwright::{LlmManager, ProcessId, Request, Settings};
    /// // `SqliteConfig` is a store that other processes change, such as `batchwright config set`.
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

    /// Who hears of settings that changed and what came of them, while a worker [follows](Self::follow) them.
    /// It is called on a thread of the worker's. Default: they are logged.
    pub fn on_settings(
        mut self,
        listener: impl Fn(&SettingsEvent<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Takes over what the [followed](Self::follow) settings say now.
    ///
    /// # Errors
    /// When that cannot be used; then what held last stays.
    pub fn refresh(&mut self) -> Result<(), Error> {
        let (now, result) = self.caught_up();
        *self = now;
        result
    }

    /// As it is now, or as it was last where what is set now cannot be used.
    pub(super) fn present(&self) -> Self {
        let (now, result) = self.caught_up();
        if let Err(error) = result {
            log(&SettingsEvent::Refused(&error));
        }
        now
    }

    fn caught_up(&self) -> (Self, Result<(), Error>) {
        let mut latest = self.latest.lock();
        let mut now = self.clone();
        if let Some((plan, watch)) = latest.clone() {
            (now.plan, now.watch) = (plan, Some(watch));
        }
        let Some(mut watch) = now.watch.clone() else {
            return (now, Ok(()));
        };
        let result = match watch.refresh() {
            Ok(false) => Ok(()),
            Ok(true) => now.plan.with_settings(watch.settings()).map(|plan| {
                *latest = Some((plan.clone(), watch.clone()));
                (now.plan, now.watch) = (plan, Some(watch));
            }),
            Err(error) => Err(error.into()),
        };
        (now, result.map_err(Error::from))
    }
}

/// Shows names only, because settings may be private.
impl fmt::Debug for LlmManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmManager")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
