//! Settings by precedence: command line, then environment, then store, then default. One getter per row of the table, those
//! whose value depends on two settings, and settings that follow their store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::{Error, ErrorKind};

use super::choices::{CachePrompt, OnUnknown, Strategy};
use super::credential;
use super::key::SettingKey;
use super::store::ConfigStore;
use super::table::with_settings;
use super::value::ArticleSource;

/// The source of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum SettingSource {
    /// This command-line flag.
    Flag(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// The [`ConfigStore`].
    Store,
    /// Nothing is set.
    Default,
}

impl SettingSource {
    /// Its kind, as in JSON: `flag`, `environment`, `store` or `default`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn set_by(self, key: &'static SettingKey) -> &'static str {
        match self {
            Self::Flag(name) | Self::Environment(name) => name,
            Self::Store | Self::Default => key.name(),
        }
    }
}

/// The flag, the variable, or the kind.
impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag(name) | Self::Environment(name) => name,
            other => other.as_str(),
        })
    }
}

/// A value with its origin.
pub(crate) struct Given<T> {
    pub value: Result<T, Error>,
    pub source: SettingSource,
    /// The flag, variable or key that sets the value.
    pub set_by: &'static str,
}

impl<T> Given<T> {
    pub fn is_default(&self) -> bool {
        self.source == SettingSource::Default
    }
}

/// The value of a key, and its source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Setting {
    /// The key.
    pub key: &'static SettingKey,
    /// The value in use, as text; `None` if the default is a rule. A text that looks like a credential is not shown.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: SettingSource,
    /// The values that it overrides, the one with the highest precedence first.
    pub overrides: Vec<(SettingSource, String)>,
    /// The reason why the value cannot be used, if it cannot.
    pub problem: Option<String>,
}

impl Setting {
    /// The place to change it: the flag, the variable, or the key itself.
    pub fn set_by(&self) -> &'static str {
        self.source.set_by(self.key)
    }
}

/// The settings of a program. A value comes from the command line, else from the environment, else from a
/// [`ConfigStore`], else from the default.
///
/// It reads nothing by itself: the program passes flags, environment and store.
///
/// ```
/// use batchwright::Settings;
/// use batchwright::config::{ConfigStore, MemoryConfig, SettingSource};
/// let store = MemoryConfig::new();
/// store.set("llm.model", "stored-model")?;
/// let settings = Settings::new()
///     .environment(|name| std::env::var(name).ok())
///     .store(&store)?
///     .flag("llm.model", "--model", Some("m".to_owned()))?;
/// assert_eq!(settings.model()?.as_deref(), Some("m"));
/// let setting = settings.explain("llm.model")?;
/// assert_eq!(setting.source, SettingSource::Flag("--model"));
/// assert!(setting.overrides.contains(&(SettingSource::Store, "stored-model".to_owned())));
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Settings {
    flags: BTreeMap<&'static str, (SettingSource, String)>,
    environment: BTreeMap<&'static str, (SettingSource, String)>,
    stored: BTreeMap<String, String>,
}

impl Settings {
    /// Settings that contain only defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value from the command line, if there is one. Values are checked when a getter reads them.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn flag(
        mut self,
        key: &str,
        flag: &'static str,
        value: Option<String>,
    ) -> Result<Self, Error> {
        let key = SettingKey::named(key)?;
        if let Some(value) = value {
            let given = (SettingSource::Flag(flag), value);
            self.flags.insert(key.name(), given);
        }
        Ok(self)
    }

    /// Adds the values of the variables of all keys; an empty variable counts as unset. By default, no variable is
    /// read.
    pub fn environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &&'static str| {
            let value = variable(name).filter(|value| !value.trim().is_empty())?;
            Some((SettingSource::Environment(name), value))
        };
        let set = |key: &SettingKey| Some((key.name(), key.variables().iter().find_map(value)?));
        self.environment = SettingKey::all().iter().filter_map(set).collect();
        self
    }

    /// Adds the values that are stored now. To follow later changes, see
    /// [`SettingsWatch`].
    ///
    /// # Errors
    /// As [`ConfigStore::all`].
    pub fn store(mut self, store: &dyn ConfigStore) -> Result<Self, Error> {
        self.stored = store.all()?;
        Ok(self)
    }

    /// The value of a key and its source, also if the value cannot be used.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn explain(&self, key: &str) -> Result<Setting, Error> {
        let key = SettingKey::named(key)?;
        let mut given = self.given(key);
        let first = given.next();
        let problem = first.and_then(|(source, value)| self.read(key, source, value).err());
        let (source, value) = match first {
            Some((source, value)) => (source, Some(value)),
            None => (SettingSource::Default, key.default_value()),
        };
        let shown = |value: &str| credential::shown(value.trim()).to_owned();
        Ok(Setting {
            key,
            value: value.map(shown),
            source,
            overrides: given.map(|(by, value)| (by, shown(value))).collect(),
            problem: problem.map(|error| error.message().to_owned()),
        })
    }

    /// Stored keys that this version does not know.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let stored = self.stored.keys().map(String::as_str);
        stored.filter(|name| SettingKey::find(name).is_none())
    }

    /// The values set for a key, the one with the highest precedence first.
    fn given(&self, key: &SettingKey) -> impl Iterator<Item = (SettingSource, &str)> {
        let layers = [&self.flags, &self.environment];
        let given = layers.map(|layer| layer.get(key.name()));
        let given = given.into_iter().flatten();
        let stored = self.stored.get(key.name());
        given
            .map(|(by, value)| (*by, value.as_str()))
            .chain(stored.map(|value| (SettingSource::Store, value.as_str())))
    }

    fn read(&self, key: &SettingKey, source: SettingSource, value: &str) -> Result<Value, Error> {
        key.parse(value).map_err(|why| {
            let shown = credential::shown(value.trim());
            let name = key.name();
            Error::new(
                ErrorKind::Invalid,
                match source {
                    SettingSource::Environment(variable) => format!("{variable}={shown}: {why}"),
                    SettingSource::Store => format!(
                        "stored {name}={shown}: {why}; `batchwright config unset {name}` forgets it"
                    ),
                    source => format!("{source}: {why}"),
                },
            )
        })
    }

    /// A key's value in use, and what sets it; `None` if the default is a rule.
    fn value(&self, key: &str) -> Result<Given<Option<Value>>, Error> {
        let key = SettingKey::named(key)?;
        let default = (SettingSource::Default, key.default_value());
        let given = self.given(key).next();
        let (source, value) = given.map_or(default, |(source, value)| (source, Some(value)));
        Ok(Given {
            value: value.map(|value| self.read(key, source, value)).transpose(),
            source,
            set_by: source.set_by(key),
        })
    }
}

/// Shows only which keys are set, because values may be private.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |key: &&SettingKey| self.given(key).next().is_some();
        let keys = SettingKey::all().iter().filter(set).map(SettingKey::name);
        f.debug_set().entries(keys).finish()
    }
}

macro_rules! getters {
    ($($(#[$note:meta])* $vis:vis $getter:ident: $type:ty = $name:literal [$($variable:literal),*] $setter:ident
        $kind:expr, $default:ident($text:literal), $doc:literal;)*) => {
        /// Each getter fails with [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the value in use cannot be used. The
        /// message names where the value is set, the value, and what is accepted.
        impl Settings {
            $(
                #[doc = concat!("`", $name, "`: ", $doc, ". Default: ", $text, ".")]
                $(#[$note])*
                ///
                /// # Errors
                /// If the value in use cannot be used.
                $vis fn $getter(&self) -> Result<$type, Error> {
                    <$type>::from_setting(self.value($name)?)
                }
            )*
        }
    };
}

with_settings!(getters);

/// The type of a getter. There is no value if the default is a rule.
trait FromSetting: Sized {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error>;
}

impl<T: DeserializeOwned + Default> FromSetting for T {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error> {
        let meaning = given.value?.map(serde_json::from_value);
        Ok(meaning.and_then(Result::ok).unwrap_or_default())
    }
}

impl<T: FromSetting> FromSetting for Given<T> {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error> {
        let (source, set_by) = (given.source, given.set_by);
        Ok(Self {
            value: T::from_setting(given),
            source,
            set_by,
        })
    }
}

/// The values that depend on two settings.
impl Settings {
    /// `llm.sync_concurrency`: the number of calls or jobs at once; `None` if it is `auto` or not set.
    ///
    /// # Errors
    /// If the value in use cannot be used.
    pub fn sync_concurrency(&self) -> Result<Option<usize>, Error> {
        let given = self.given_concurrency()?;
        let calls = given.as_ref().and_then(Value::as_u64);
        Ok(calls.map(|calls| calls as usize))
    }

    /// Whether `llm.sync_concurrency` is `auto`.
    ///
    /// # Errors
    /// If the value in use cannot be used.
    pub fn finds_concurrency(&self) -> Result<bool, Error> {
        Ok(self
            .given_concurrency()?
            .is_some_and(|given| given.is_string()))
    }

    /// `llm.max_concurrent_requests`: the most jobs that a worker runs at once while `llm.sync_concurrency` is not set.
    /// Default: 10, or a larger `queue.worker_count`.
    ///
    /// # Errors
    /// If the value in use, or that of `queue.worker_count`, cannot be used.
    pub fn max_concurrent_requests(&self) -> Result<usize, Error> {
        let given = self.given_max_concurrent_requests()?;
        let start = if given.is_default() {
            self.worker_count()?
        } else {
            0
        };
        Ok(given.value?.max(start))
    }

    /// `llm.fallback`: the providers after the first, each as `name` or `name:model`. It is empty while
    /// `llm.fallback_enabled` is false, unless a flag names them. Default: none.
    ///
    /// # Errors
    /// If the value in use, or that of `llm.fallback_enabled`, cannot be used.
    pub fn fallback(&self) -> Result<Vec<String>, Error> {
        let given = self.given_fallback()?;
        if matches!(given.source, SettingSource::Flag(_)) || self.fallback_enabled()? {
            given.value
        } else {
            Ok(Vec::new())
        }
    }
}

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

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
