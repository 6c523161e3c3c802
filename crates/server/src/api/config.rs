//! Settings: read, changed and followed while the server runs.

use std::sync::Arc;

use batchwright::config::{ConfigStore, Setting, SettingKey, SettingSource, SettingsWatch};
use batchwright::{Error, Settings};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::events::Events;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::server::App;

/// Settings that may change while the server runs.
pub(crate) struct LiveSettings {
    store: Arc<dyn ConfigStore>,
    watch: Mutex<SettingsWatch>,
}

/// A setting as JSON.
fn shown(setting: &Setting) -> Value {
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
fn stored(setting: &Setting) -> Option<String> {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    value: Value,
}

fn settings(app: &App) -> Result<&LiveSettings, Problem> {
    let none = || Problem::not_found("this server has no settings");
    app.settings.as_ref().ok_or_else(none)
}

fn key(call: &Call<'_>) -> Result<&'static SettingKey, Problem> {
    let name: String = call.param("key")?;
    SettingKey::named(&name).map_err(|error| Problem::not_found(error.message()))
}

/// `GET /api/v1/config`.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let settings = settings(app)?.settings(&app.events)?;
    let mut all = Vec::new();
    for key in SettingKey::all() {
        all.push(shown(&settings.explain(key.name())?));
    }
    Ok(Response::json(200, &json!({"data": all})))
}

/// `GET /api/v1/config/{key}`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let key = key(call)?;
    let settings = settings(app)?.settings(&app.events)?;
    let setting = settings.explain(key.name())?;
    Ok(Response::json(200, &shown(&setting)))
}

/// `PUT /api/v1/config/{key}`.
pub(super) fn put(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let key = key(call)?;
    let value = match call.json::<NewValue>()?.value {
        Value::String(text) => text,
        value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
        _ => {
            let why = format!("value: write {}", key.accepts());
            return Err(Problem::invalid(why).param("value"));
        }
    };
    let value = key
        .check_stored(&value)
        .map_err(|error| Problem::invalid(error.message()).param("value"))?;
    change(app, key, Some(&value))
}

/// `DELETE /api/v1/config/{key}`: what is stored is forgotten.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let key = key(call)?;
    change(app, key, None)
}

fn change(app: &App, key: &'static SettingKey, value: Option<&str>) -> Result<Response, Problem> {
    if key.is_local() {
        let name = key.name();
        let why = format!(
            "{name} names files and addresses that this server reads: set it on the server's machine by \
             `batchwright config set {name} VALUE`"
        );
        return Err(Problem::new(403, "forbidden", why).param("key"));
    }
    let settings = settings(app)?;
    let before = settings.settings(&app.events)?;
    let before = stored(&before.explain(key.name())?);
    let now = settings.change(key, value, &app.events)?;
    // Settings that the worker cannot use would also prevent the next start of the server.
    if let Err(error) = app.overview.check_settings() {
        if error.is_storage() {
            return Err(error.into());
        }
        settings.change(key, before.as_deref(), &app.events)?;
        let why = format!(
            "{}: the value is unchanged: {}",
            key.name(),
            error.message()
        );
        return Err(Problem::invalid(why).param("value"));
    }
    Ok(Response::json(200, &now))
}
