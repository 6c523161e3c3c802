//! The getters of [`Settings`]: one per row of the table, and those whose value depends on two settings.

use std::time::Duration;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::base::{Error, ErrorKind};

use super::articles::ArticleSource;
use super::choices::{CachePrompt, OnUnknown, Strategy};
use super::settings::{Given, SettingSource, Settings};
use super::table::with_settings;
use super::value::Value;

macro_rules! getters {
    ($($(#[$note:meta])* $vis:vis $getter:ident: $type:ty = $name:literal [$($variable:literal),*]
        $kind:expr, $default:ident($text:literal), $doc:literal;)*) => {
        /// Each getter fails with [`ErrorKind::Invalid`] if the value in use cannot be used. The message names where the
        /// value is set, the value, and what is accepted.
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

/// A number that is set, or `auto`.
enum NumberOrAuto {
    Number(usize),
    Auto,
}

/// The type of a getter. There is no value if the default is a rule.
trait FromSetting: Sized {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error>;
}

impl<T: FromValue + Default> FromSetting for T {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error> {
        Ok(given.value?.and_then(T::from_value).unwrap_or_default())
    }
}

impl<T: FromValue> FromSetting for Option<T> {
    fn from_setting(given: Given<Option<Value>>) -> Result<Self, Error> {
        Ok(given.value?.and_then(T::from_value))
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

/// The meaning of a value as a type.
trait FromValue: Sized {
    /// `None` for a value of another kind.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_values {
    ($($type:ty: $($value:pat => $meaning:expr),+;)*) => {
        $(impl FromValue for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $($value => Some($meaning),)+
                    _ => None,
                }
            }
        })*
    };
}

from_values! {
    String: Value::Text(text) => text;
    bool: Value::Switch(on) => on;
    u64: Value::Whole(number) => number;
    usize: Value::Whole(number) => whole(number);
    u32: Value::Whole(number) => u32::try_from(number).unwrap_or(u32::MAX);
    u8: Value::Whole(number) => u8::try_from(number).unwrap_or(u8::MAX);
    f64: Value::Number(number) => number;
    Duration: Value::Time(time) => time;
    NumberOrAuto: Value::Whole(number) => Self::Number(whole(number)), Value::Text(_) => Self::Auto;
    Vec<String>: Value::Names(names) => names;
    Vec<(String, String)>: Value::Models(models) => models;
    ArticleSource: Value::Articles(source) => source;
    Strategy: Value::Text(name) => named(&name)?;
    CachePrompt: Value::Text(name) => named(&name)?;
    OnUnknown: Value::Text(name) => named(&name)?;
}

/// The choice with this name.
fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    T::deserialize(name).ok()
}

fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The values that depend on two settings.
impl Settings {
    /// `llm.sync_concurrency`: maximum calls in flight at a provider; `None` if it is `auto` or not set.
    ///
    /// # Errors
    /// If the value in use cannot be used.
    pub fn sync_concurrency(&self) -> Result<Option<usize>, Error> {
        Ok(match self.given_concurrency()? {
            Some(NumberOrAuto::Number(calls)) => Some(calls),
            Some(NumberOrAuto::Auto) | None => None,
        })
    }

    /// Whether `llm.sync_concurrency` is `auto`.
    ///
    /// # Errors
    /// If the value in use cannot be used.
    pub fn finds_concurrency(&self) -> Result<bool, Error> {
        let given = self.given_concurrency()?;
        Ok(matches!(given, Some(NumberOrAuto::Auto)))
    }

    /// `llm.max_concurrent_requests`: maximum calls in flight of a queue worker, for all its providers together.
    /// Default: 10, or a larger `queue.max_workers`.
    ///
    /// # Errors
    /// If the value in use, or that of `queue.max_workers`, cannot be used.
    pub fn max_concurrent_requests(&self) -> Result<usize, Error> {
        let given = self.given_max_concurrent_requests()?;
        let from_workers = if given.is_default() {
            self.workers_set()?.unwrap_or_default()
        } else {
            0
        };
        Ok(given.value?.max(from_workers))
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

    /// `queue.worker_count`: slots of a queue worker at its start. Default: 5, or a smaller `queue.max_workers`.
    ///
    /// # Errors
    /// If the value in use, or that of `queue.max_workers`, cannot be used.
    pub fn worker_count(&self) -> Result<usize, Error> {
        let given = self.given_worker_count()?;
        if given.is_default() {
            Ok(given.value?.min(self.given_max_workers()?.value?))
        } else {
            given.value
        }
    }

    /// `queue.max_workers`: maximum slots of a queue worker. Default: 10. A larger `queue.worker_count` raises it.
    ///
    /// # Errors
    /// If the value in use, or that of `queue.worker_count`, cannot be used.
    pub fn max_workers(&self) -> Result<usize, Error> {
        Ok(self.given_max_workers()?.value?.max(self.worker_count()?))
    }

    /// [`max_workers`](Self::max_workers), if that or `queue.worker_count` is set.
    pub(crate) fn workers_set(&self) -> Result<Option<usize>, Error> {
        if self.given_max_workers()?.is_default() && self.given_worker_count()?.is_default() {
            Ok(None)
        } else {
            self.max_workers().map(Some)
        }
    }

    /// `exec.concurrency`: number of commands at once. Default: 5, or a smaller `exec.max_concurrency`.
    ///
    /// # Errors
    /// If the value in use cannot be used, or exceeds `exec.max_concurrency`.
    pub fn exec_concurrency(&self) -> Result<usize, Error> {
        let given = self.given_exec_concurrency()?;
        let (is_default, set_by) = (given.is_default(), given.set_by);
        let (number, most) = (given.value?, self.exec_max_concurrency()?);
        if number <= most || is_default {
            return Ok(number.min(most));
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{set_by} {number}: write a whole number from 1 to {most}; more are allowed by \
                 `batchwright config set exec.max_concurrency {number}`"
            ),
        ))
    }
}
