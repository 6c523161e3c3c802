//! The getters of [`Settings`]: one per row of the table, and those whose value depends on two settings.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::Error;

use super::choices::{CachePrompt, OnUnknown, Strategy};
use super::settings::{Given, SettingSource, Settings};
use super::table::with_settings;
use super::value::ArticleSource;

macro_rules! getters {
    ($($(#[$note:meta])* $vis:vis $getter:ident: $type:ty = $name:literal [$($variable:literal),*]
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
