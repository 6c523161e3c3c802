//! The settings while the server runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::config::{ConfigStore, Setting, SettingKey, SettingSource, SettingsWatch};
use batchwright::{Error, Settings};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::events::Events;

/// Settings that may change while the server runs.
pub(crate) struct LiveSettings {
    store: Arc<dyn ConfigStore>,
    watched: Mutex<Watched>,
}

struct Watched {
    watch: SettingsWatch,
    /// What was stored at the last look.
    stored: BTreeMap<&'static str, String>,
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

fn all_stored(settings: &Settings) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut all = BTreeMap::new();
    for key in SettingKey::all() {
        if let Some(value) = stored(&settings.explain(key.name())?) {
            all.insert(key.name(), value);
        }
    }
    Ok(all)
}

impl LiveSettings {
    pub fn new(watch: SettingsWatch, store: Arc<dyn ConfigStore>) -> Result<Self, Error> {
        let stored = all_stored(watch.settings())?;
        Ok(Self {
            store,
            watched: Mutex::new(Watched { watch, stored }),
        })
    }

    /// The settings as they are now.
    pub fn settings(&self, events: &Events) -> Result<Settings, Error> {
        let mut watched = self.watched.lock();
        watched.look(events)?;
        Ok(watched.watch.settings().clone())
    }

    /// Looks whether somebody else has changed them.
    pub fn look(&self, events: &Events) -> Result<(), Error> {
        self.watched.lock().look(events)
    }

    /// Stores a value, or forgets it. Returns the setting as it is now.
    pub fn change(
        &self,
        key: &'static SettingKey,
        value: Option<&str>,
        events: &Events,
    ) -> Result<Value, Error> {
        let mut watched = self.watched.lock();
        match value {
            Some(value) => self.store.set(key.name(), value)?,
            None => self.store.unset(key.name())?,
        }
        watched.look(events)?;
        Ok(shown(&watched.watch.settings().explain(key.name())?))
    }
}

impl Watched {
    /// Tells what is stored otherwise than at the last look.
    fn look(&mut self, events: &Events) -> Result<(), Error> {
        if !self.watch.refresh()? {
            return Ok(());
        }
        let stored = all_stored(self.watch.settings())?;
        for key in SettingKey::all().iter().map(SettingKey::name) {
            let (before, after) = (self.stored.get(key), stored.get(key));
            if before != after {
                let change = json!({"key": key, "before": before, "after": after});
                events.publish("config", &change);
            }
        }
        self.stored = stored;
        Ok(())
    }
}
