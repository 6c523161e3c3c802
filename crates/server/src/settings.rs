//! Settings that may change while the server runs, and how they are shown.

use std::sync::Arc;

use batchwright::config::{ConfigStore, Setting, SettingKey, SettingSource, SettingsWatch};
use batchwright::{Error, Settings};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::events::Events;

/// Settings that may change while the server runs.
pub(crate) struct LiveSettings {
    store: Arc<dyn ConfigStore>,
    watch: Mutex<SettingsWatch>,
}

/// A setting as JSON.
pub(crate) fn shown(setting: &Setting) -> Value {
    let key = setting.key;
    let set_by = match setting.source {
        SettingSource::Flag(name) | SettingSource::Environment(name) => Some(name),
        _ => None,
    };
    json!({
        "key": key.name(),
        "value": setting.value,
        "default": key.default_text(),
        "source": setting.source.as_str(),
        "set_by": set_by,
        "accepts": key.accepts(),
        "doc": key.doc(),
        "stored": stored(setting),
        "live": is_live(key.name()),
        "settable": !key.is_local(),
        "problem": setting.problem,
    })
}

/// Whether a running worker takes a change over. The others are for the next run of a command.
fn is_live(key: &str) -> bool {
    let of_a_worker = ["llm.", "queue.", "batch.", "serve."];
    of_a_worker.iter().any(|part| key.starts_with(part))
}

/// What is stored for a key, in force or not; nothing that looks like a credential.
pub(crate) fn stored(setting: &Setting) -> Option<String> {
    if setting.source == SettingSource::Store {
        return setting.value.clone();
    }
    let overridden = setting.overrides.iter();
    let mut stored = overridden.filter(|(by, _)| *by == SettingSource::Store);
    stored.next().map(|(_, value)| value.clone())
}

impl LiveSettings {
    pub fn new(watch: SettingsWatch, store: Arc<dyn ConfigStore>) -> Self {
        let watch = Mutex::new(watch);
        Self { store, watch }
    }

    /// The settings as they are now.
    pub fn settings(&self, events: &Events) -> Result<Settings, Error> {
        let mut watch = self.watch.lock();
        // Somebody else may have changed them.
        if watch.refresh()? {
            events.publish("config", None, &json!({}));
        }
        Ok(watch.settings().clone())
    }

    /// Stores a value, or forgets it. Returns the setting as it is now.
    pub fn change(
        &self,
        key: &'static SettingKey,
        value: Option<&str>,
        events: &Events,
    ) -> Result<Value, Error> {
        match value {
            Some(value) => self.store.set(key.name(), value)?,
            None => self.store.unset(key.name())?,
        }
        Ok(shown(&self.settings(events)?.explain(key.name())?))
    }
}
