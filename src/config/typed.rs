//! The getters of [`Settings`]: one per row of the table, and those whose value depends on two settings.

use std::time::Duration;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::base::Error;

use super::choices::{CachePrompt, OnUnknown, Strategy};
use super::settings::{Given, SettingSource, Settings};
use super::table::with_settings;
use super::value::{ArticleSource, Value};

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
    /// `llm.sync_concurrency`: the number of calls or jobs at once; `None` if it is `auto` or not set.
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

    /// `queue.worker_count`: the jobs that a worker runs at once when it starts, while `llm.sync_concurrency` is not
    /// set. Default: 5.
    ///
    /// # Errors
    /// If the value in use cannot be used.
    pub fn worker_count(&self) -> Result<usize, Error> {
        self.given_worker_count()?.value
    }
}
