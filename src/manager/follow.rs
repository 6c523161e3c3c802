//! Settings that change while something runs.

use std::fmt;
use std::sync::Arc;

use crate::base::error::{Error, ErrorKind};
use crate::config::key::SettingKey;
use crate::config::settings::Settings;
use crate::config::watch::SettingsWatch;
#[cfg(feature = "queue")]
use crate::llm::batch::BatchClient;
#[cfg(feature = "queue")]
use crate::queue::controls::{Change, Controls, Follower};
#[cfg(feature = "queue")]
use crate::queue::worker::Worker;

use super::LlmManager;
#[cfg(feature = "queue")]
use super::plan::Caller;
#[cfg(feature = "queue")]
use super::worker::WorkerPlan;

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
fn log(event: &SettingsEvent<'_>) {
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
        SettingsEvent::Refused(error) => log::warn!("the old settings hold: {}", error.message()),
    }
}

type Values = Vec<(&'static str, Option<String>)>;

/// Looks whether settings have changed, and has them applied.
pub(super) struct SettingsFollower {
    watch: SettingsWatch,
    listener: Listener,
    known: Values,
    /// They have changed and are not applied yet. A provider that is not there may come without another
    /// setting.
    pending: bool,
    refused: Option<String>,
}

impl SettingsFollower {
    pub(super) fn new(watch: SettingsWatch, listener: Option<Listener>) -> Self {
        Self {
            known: values(watch.settings()),
            watch,
            listener: listener.unwrap_or_else(|| Arc::new(log)),
            pending: false,
            refused: None,
        }
    }

    /// Has `apply` take settings that have changed since the last time it did. What it returns makes what holds
    /// now, where that is something else than before.
    pub(super) fn look(
        &mut self,
        apply: &mut dyn FnMut(&Settings) -> Result<Option<LlmManager>, Error>,
    ) {
        let applied = match self.watch.refresh() {
            Ok(changed) => {
                self.pending |= changed;
                if !self.pending {
                    return;
                }
                self.tell_changes();
                apply(self.watch.settings())
            }
            Err(error) => Err(error),
        };
        match applied {
            Ok(manager) => {
                (self.pending, self.refused) = (false, None);
                if let Some(manager) = manager {
                    (self.listener)(&SettingsEvent::Applied(&manager));
                }
            }
            Err(error) => {
                if self.refused.as_deref() != Some(error.message()) {
                    self.refused = Some(error.message().to_owned());
                    (self.listener)(&SettingsEvent::Refused(&error));
                }
            }
        }
    }

    fn tell_changes(&mut self) {
        let now = values(self.watch.settings());
        for ((key, before), (_, now)) in self.known.iter().zip(&now) {
            if before != now {
                (self.listener)(&SettingsEvent::Changed {
                    key,
                    before: before.as_deref(),
                    now: now.as_deref(),
                });
            }
        }
        self.known = now;
    }
}

/// What every key comes to.
fn values(settings: &Settings) -> Values {
    let value = |name| settings.explain(name).ok()?.value;
    let keys = SettingKey::all().iter().map(SettingKey::name);
    keys.map(|name| (name, value(name))).collect()
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
        let mut now = match latest.clone() {
            Some((settings, choice, watch)) => Self {
                // What cannot be used is never the latest.
                asked: settings.bulk_strategy().unwrap_or(self.asked),
                settings,
                choice,
                watch: Some(watch),
                ..self.clone()
            },
            None => self.clone(),
        };
        let Some(mut watch) = now.watch.clone() else {
            return (now, Ok(()));
        };
        let changed = watch.refresh();
        let next = changed.and_then(|changed| match changed {
            true => now.with_settings(watch.settings()).map(Some),
            false => Ok(None),
        });
        let result = next.map(|next| {
            if let Some(next) = next {
                now = Self {
                    watch: Some(watch.clone()),
                    ..next
                };
                *latest = Some((now.settings.clone(), now.choice.clone(), watch));
            }
        });
        drop(latest);
        (now, result)
    }

    /// The same with other settings. Providers are looked for again only if these name others.
    fn with_settings(&self, settings: &Settings) -> Result<Self, Error> {
        let names = |settings: &Settings| {
            let by = (settings.provider()?, settings.model()?);
            Ok::<_, Error>((by, settings.fallback()?))
        };
        let choice = match names(settings)? == names(&self.settings)? {
            true => self.choice.clone(),
            false => self.choice.again(settings)?,
        };
        Ok(Self {
            asked: settings.bulk_strategy()?,
            settings: settings.clone(),
            choice,
            ..self.clone()
        })
    }

    /// Keeps a worker of this plan at what the settings come to.
    #[cfg(feature = "queue")]
    pub(super) fn follower(
        &self,
        plan: WorkerPlan,
        caller: Caller,
        fixed_slots: bool,
    ) -> Option<Follower> {
        let mut follower = SettingsFollower::new(self.watch.clone()?, self.listener.clone());
        let (mut now, mut plan) = (self.clone(), plan);
        Some(Box::new(move |controls: &Controls| {
            follower.look(&mut |settings| {
                let mut next = now.with_settings(settings)?;
                // Not waited for: meanwhile other settings may change.
                if let Some(status) = next.choice.loading().next() {
                    let name = status.provider;
                    let why = format!("{name}: the server is still loading its model");
                    return Err(Error::new(ErrorKind::Transient, why));
                }
                let next_plan = next.plan_of_worker(caller, fixed_slots)?;
                let change = next.change(&plan, &next_plan)?;
                let applied = change.is_some();
                if let Some(change) = change {
                    controls.change(change);
                }
                (now, plan) = (next, next_plan);
                Ok(applied.then(|| now.clone()))
            });
        }))
    }

    /// What leads from one plan to another, if they differ.
    #[cfg(feature = "queue")]
    fn change(&self, before: &WorkerPlan, now: &WorkerPlan) -> Result<Option<Change>, Error> {
        if before == now {
            return Ok(None);
        }
        let mut change = Change::default();
        if before.settings != now.settings {
            change.settings = Some(now.settings);
        }
        if before.completions != now.completions {
            change.completions = Some(Some(Box::new(now.completions.route()?)));
            change.batch_clients = Some(Some(Arc::new(self.clients_by_account()?)));
        }
        if before.embeddings != now.embeddings {
            let route = now.embeddings.as_ref().map(|plan| plan.route());
            change.embeddings = Some(route.transpose()?.map(Box::new));
        }
        if before.batches != now.batches {
            let client = now.batches.as_ref().map(|config| config.batch_client());
            let client = client.transpose()?;
            change.batches = Some(client.map(|client| Arc::new(client) as Arc<dyn BatchClient>));
        }
        Ok(Some(change))
    }
}

/// What needs no provider: how many jobs run at once, and how patiently.
#[cfg(feature = "queue")]
impl Worker {
    /// Works as the watched settings `queue.…` and `batch.…` say, and takes changes of them over within a second
    /// while it runs. Those that cannot be used are logged once, and the old ones hold until they can. For
    /// providers and their limits, too, see [`LlmManager::follow`].
    ///
    /// # Errors
    /// When one of the settings cannot be used now.
    pub fn follow(self, watch: SettingsWatch) -> Result<Self, Error> {
        let mut now = watch.settings().worker_settings()?;
        let mut follower = SettingsFollower::new(watch, None);
        let look = move |controls: &Controls| {
            follower.look(&mut |settings| {
                let next = settings.worker_settings()?;
                if next != now {
                    now = next;
                    controls.change(Change {
                        settings: Some(next),
                        ..Change::default()
                    });
                }
                Ok(None)
            });
        };
        Ok(self.settings(now).followed_by(Box::new(look)))
    }
}

/// Names the provider alone; what is set may be private.
impl fmt::Debug for LlmManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmManager")
            .field("provider", &self.provider().provider)
            .finish_non_exhaustive()
    }
}
