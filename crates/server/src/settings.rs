//! The settings while the server runs: what they are, who changes them, and the log of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::config::{ConfigStore, Setting, SettingKey, SettingSource, SettingsWatch};
use batchwright::{Error, Settings};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::events::Events;
use crate::records::{Change, ELSEWHERE, Records};
use crate::shapes::now;

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
    /// Logs what was changed since the last server of this folder looked.
    pub fn new(
        watch: SettingsWatch,
        store: Arc<dyn ConfigStore>,
        records: &Records,
        events: &Events,
    ) -> Result<Self, Error> {
        let mut before = all_stored(watch.settings())?;
        let known = match records.check() {
            Ok(()) => records.last_values()?,
            Err(_) => BTreeMap::new(),
        };
        for (key, value) in known {
            let Ok(key) = SettingKey::named(&key) else {
                continue;
            };
            match value {
                Some(value) => before.insert(key.name(), value),
                None => before.remove(key.name()),
            };
        }
        let mut watched = Watched {
            watch,
            stored: before,
        };
        watched.note(None, records, events)?;
        Ok(Self {
            store,
            watched: Mutex::new(watched),
        })
    }

    /// The settings as they are now.
    pub fn settings(&self, records: &Records, events: &Events) -> Result<Settings, Error> {
        let mut watched = self.watched.lock();
        watched.look(records, events)?;
        Ok(watched.watch.settings().clone())
    }

    /// Looks whether somebody else has changed them.
    pub fn look(&self, records: &Records, events: &Events) -> Result<(), Error> {
        self.watched.lock().look(records, events)
    }

    /// Stores a value, or forgets it, on behalf of somebody. Returns the setting as it is now.
    pub fn change(
        &self,
        key: &'static SettingKey,
        value: Option<&str>,
        by: &str,
        records: &Records,
        events: &Events,
    ) -> Result<Value, Error> {
        let mut watched = self.watched.lock();
        // What others have done before is theirs.
        watched.look(records, events)?;
        match value {
            Some(value) => self.store.set(key.name(), value)?,
            None => self.store.unset(key.name())?,
        }
        watched.watch.refresh()?;
        watched.note(Some((key.name(), by)), records, events)?;
        Ok(shown(&watched.watch.settings().explain(key.name())?))
    }
}

impl Watched {
    fn look(&mut self, records: &Records, events: &Events) -> Result<(), Error> {
        if self.watch.refresh()? {
            self.note(None, records, events)
        } else {
            Ok(())
        }
    }

    /// Logs and tells what is stored otherwise than at the last look.
    fn note(
        &mut self,
        ours: Option<(&str, &str)>,
        records: &Records,
        events: &Events,
    ) -> Result<(), Error> {
        let stored = all_stored(self.watch.settings())?;
        for key in SettingKey::all().iter().map(SettingKey::name) {
            let (before, after) = (self.stored.get(key), stored.get(key));
            if before == after {
                continue;
            }
            let ours = ours.filter(|(changed, _)| *changed == key);
            let change = Change {
                at: now(),
                key: key.to_owned(),
                before: before.cloned(),
                after: after.cloned(),
                source: ours.map_or(ELSEWHERE, |(_, by)| by).to_owned(),
            };
            records.add_change(&change, ours.is_some())?;
            events.publish("config", &change);
        }
        self.stored = stored;
        Ok(())
    }
}
