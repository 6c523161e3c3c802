//! `batchwright config`: shows settings and their sources, and changes stored ones.

use batchwright::config::{ConfigStore, Setting, SettingKey, SettingSource, SqliteConfig};
use batchwright::{Settings, Strategy};
use serde_json::{Value, json};

use crate::args::config::{ConfigAction, ConfigArgs};
use crate::display;
use crate::exit::{Early, Exit, Refusal, could_not_run};
use crate::logging::is_json;
use crate::settings::{data_dir, in_folder, refused, settings};
use crate::stdout;
use crate::table::Table;

pub fn execute(args: &ConfigArgs) -> Result<Exit, Early> {
    let text = carry_out(args)?;
    Ok(stdout::print(&text, Exit::Success))
}

/// The text for standard output.
fn carry_out(args: &ConfigArgs) -> Result<String, Refusal> {
    match &args.action {
        ConfigAction::List => list(&settings()?, is_json()),
        ConfigAction::Get { key } => {
            known(key)?;
            get(&settings()?, key, is_json())
        }
        ConfigAction::Set { key, value } => {
            let store = stored_at()?;
            refuse_unusable(key, value)?;
            change(&store, key, Some(value))?;
            changed(&store, key, false)
        }
        ConfigAction::Unset { key } => {
            let store = stored_at()?;
            let before = store.get(key).map_err(could_not_run)?;
            change(&store, key, None)?;
            changed(&store, key, before.is_some())
        }
    }
}

fn known(key: &str) -> Result<&'static SettingKey, Refusal> {
    SettingKey::named(key).map_err(refused)
}

fn stored_at() -> Result<SqliteConfig, Refusal> {
    data_dir().map(|folder| in_folder(&folder)).ok_or_else(|| {
        Refusal::could_not_run(
            "there is no folder for settings: use --data-dir or BATCHWRIGHT_HOME",
        )
    })
}

/// Refuses what a command would refuse later, for example a file of prices that does not exist.
fn refuse_unusable(key: &str, value: &str) -> Result<(), Refusal> {
    known(key)?.check_stored(value).map_err(refused)?;
    let given = Some(value.trim().to_owned());
    let settings = settings()?.flag(key, "config set", given);
    let prices = settings.and_then(|settings| settings.model_prices());
    match (key, prices) {
        ("llm.prices", Err(error)) => Err(refused(error.context("llm.prices"))),
        _ => Ok(()),
    }
}

fn change(store: &SqliteConfig, key: &str, value: Option<&str>) -> Result<(), Refusal> {
    let value = match value {
        Some(value) => Some(known(key)?.check_stored(value).map_err(refused)?),
        // A key of another version can be removed.
        None if store.get(key).map_err(could_not_run)?.is_some() => None,
        None => known(key).map(|_| None)?,
    };
    store.write(key, value.as_deref()).map_err(could_not_run)
}

/// Which value applies after a change, and what overrides it. `before`: whether a deleted key was stored.
fn changed(store: &SqliteConfig, key: &str, before: bool) -> Result<String, Refusal> {
    let settings = settings()?;
    let Ok(setting) = settings.explain(key) else {
        display::say(&format!("{key} is deleted"));
        return Ok(String::new());
    };
    display::say(&match store.get(key).map_err(could_not_run)? {
        Some(value) => format!("{key}={value} is stored in {}", store.path().display()),
        None => {
            let was = if before {
                "is deleted"
            } else {
                "was not stored"
            };
            let default = setting.key.default_text();
            format!("{key} {was}; the default is used: {default}")
        }
    });
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

fn get(settings: &Settings, key: &str, json: bool) -> Result<String, Refusal> {
    let setting = settings.explain(key).map_err(refused)?;
    if json {
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

fn list(settings: &Settings, json: bool) -> Result<String, Refusal> {
    let all = SettingKey::all().iter();
    let all = all.map(|key| settings.explain(key.name()));
    let all: Vec<Setting> = all.collect::<Result<_, _>>().map_err(refused)?;
    let unknown: Vec<&str> = settings.unknown().collect();
    if json {
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
