//! `batchwright config`: shows settings and their sources, and changes stored ones.

use batchwright::config::{ConfigStore, FileConfig, Setting, SettingKey, SettingSource};
use batchwright::{Settings, Strategy};
use serde_json::{Value, json};

use crate::args::ConfigAction;
use crate::display;
use crate::exit::{Exit, Refusal, could_not_run};
use crate::format::Table;
use crate::queue::folder;
use crate::settings::{in_folder, refused, settings};
use crate::stderr::is_json;
use crate::stdout;

pub fn execute(action: &ConfigAction) -> Result<Exit, Refusal> {
    let text = match action {
        ConfigAction::List => list(&settings()?),
        ConfigAction::Get { key } => get(&settings()?, key),
        ConfigAction::Set { key, value } => set(&in_folder(&folder()?), key, value),
        ConfigAction::Unset { key } => unset(&in_folder(&folder()?), key),
    };
    Ok(stdout::print(&text?, Exit::Success))
}

/// Stores a value, unless a command would refuse it later, for example a file of prices that does not exist.
fn set(store: &FileConfig, key: &str, value: &str) -> Result<String, Refusal> {
    let known = SettingKey::named(key).map_err(refused)?;
    let value = known.check_stored(value).map_err(refused)?;
    let with_it = settings()?.flag(key, "config set", Some(value.clone()));
    if key == "llm.prices" {
        let prices = with_it.and_then(|settings| settings.model_prices());
        prices.map_err(|error| refused(error.context("llm.prices")))?;
    }
    store.write(key, Some(&value)).map_err(could_not_run)?;
    let place = store.path().display();
    changed(key, &format!("{key}={value} is stored in {place}"))
}

/// Deletes a stored value, also of a key that this version does not know.
fn unset(store: &FileConfig, key: &str) -> Result<String, Refusal> {
    let was = match store.get(key).map_err(could_not_run)? {
        Some(_) => "is deleted",
        None => {
            SettingKey::named(key).map_err(refused)?;
            "was not stored"
        }
    };
    store.write(key, None).map_err(could_not_run)?;
    let Ok(known) = SettingKey::named(key) else {
        display::say(&format!("{key} {was}"));
        return Ok(String::new());
    };
    let default = known.default_text();
    changed(key, &format!("{key} {was}; the default is used: {default}"))
}

/// Says what was changed, and what overrides it.
fn changed(key: &str, what: &str) -> Result<String, Refusal> {
    let setting = settings()?.explain(key).map_err(refused)?;
    display::say(what);
    if let SettingSource::Environment(variable) = setting.source {
        let value = setting.value.as_deref().unwrap_or_default();
        display::say(&format!(
            "but {variable}={value} is set here and overrides it"
        ));
    }
    Ok(if is_json() {
        line(&as_json(&setting))
    } else {
        String::new()
    })
}

fn get(settings: &Settings, key: &str) -> Result<String, Refusal> {
    let setting = settings.explain(key).map_err(refused)?;
    if is_json() {
        return Ok(line(&as_json(&setting)));
    }
    if let Some(problem) = &setting.problem {
        return Err(Refusal::usage(problem));
    }
    Ok(match &setting.value {
        Some(value) => format!("{value}\n"),
        None => {
            let default = setting.key.default_text();
            display::say(&format!("{key} is not set; its default: {default}"));
            String::new()
        }
    })
}

fn list(settings: &Settings) -> Result<String, Refusal> {
    let all = SettingKey::all().iter();
    let all = all.map(|key| settings.explain(key.name()));
    let all: Vec<Setting> = all.collect::<Result<_, _>>().map_err(refused)?;
    let unknown: Vec<&str> = settings.unknown().collect();
    if is_json() {
        let all: Vec<Value> = all.iter().map(as_json).collect();
        return Ok(line(&json!({ "settings": all, "unknown": unknown })));
    }
    let mut table = Table::new([
        "setting",
        "value",
        "source",
        "default, or what it overrides",
    ]);
    for setting in &all {
        let overrides = setting.overrides.iter();
        let mut overrides: Vec<String> = overrides
            .map(|(by, value)| format!("{by}: {value}"))
            .collect();
        if setting.value.is_none() {
            overrides.push(setting.key.default_text().to_owned());
        }
        let (key, source) = (setting.key.name(), setting.source.to_string());
        let value = setting.value.as_deref().unwrap_or("-");
        table.row([key, value, &source, &overrides.join(", ")]);
    }
    let mut out = table.lines();
    if settings
        .bulk_strategy()
        .is_ok_and(|strategy| strategy == Strategy::Batch)
    {
        out.push_str(
            "! llm.sync_concurrency is not used for prompts that go to the provider in batches \
             (llm.bulk_strategy=batch)\n",
        );
    }
    for problem in all.iter().filter_map(|setting| setting.problem.as_deref()) {
        out.push_str(&format!("! {problem}\n"));
    }
    for name in unknown {
        out.push_str(&format!("! {name} is stored and unknown to this version\n"));
    }
    Ok(out)
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn as_json(setting: &Setting) -> Value {
    let key = setting.key;
    let overrides = setting.overrides.iter();
    let overrides = overrides.map(
        |(by, value)| json!({ "source": by.as_str(), "set_by": by.to_string(), "value": value }),
    );
    json!({
        "key": key.name(),
        "value": setting.value,
        "source": setting.source.as_str(),
        "set_by": setting.source.to_string(),
        "overrides": overrides.collect::<Vec<_>>(),
        "problem": setting.problem,
        "default": key.default_text(),
        "accepts": key.accepts(),
        "variables": key.variables(),
        "doc": key.doc(),
    })
}
