//! Settings: read and changed while the server runs.

use batchwright::config::SettingKey;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::settings::{LiveSettings, shown, stored};

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
            "{name} says which files and addresses this server reads: set it on the server's machine by \
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
