//! `batchwright prices`: the prices of models, their sources, and the prices that the user sets.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use batchwright::provider::{ModelPrices, Price, PriceEntry};
use batchwright::unstable::AtomicFile;
use batchwright::{Error, Prices};
use serde_json::{Value, json};

use crate::args::prices::{PricesAction, PricesArgs};
use crate::data_dir::data_dir;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::prices;
use crate::settings::refused;
use crate::stdout;
use crate::table::{Table, width};

pub fn execute(args: &PricesArgs) -> Exit {
    let done = match &args.action {
        None => show(args),
        Some(action) => change(args, action).map(|()| String::new()),
    };
    match done {
        Ok(text) => stdout::print(&text, Exit::Success),
        Err(refusal) => refusal.end(args.json, false),
    }
}

fn folder(args: &PricesArgs) -> Result<PathBuf, Refusal> {
    data_dir(args.data_dir.as_deref()).ok_or_else(|| {
        Refusal::could_not_run("there is no folder for prices: use --data-dir or BATCHWRIGHT_HOME")
    })
}

fn show(args: &PricesArgs) -> Result<String, Refusal> {
    let of_folder = match data_dir(args.data_dir.as_deref()) {
        Some(folder) => Prices::of_folder(&folder).map_err(refused)?,
        None => Prices::default(),
    };
    let all = prices::of_file(args.prices.as_deref())?.or(of_folder);
    let named = args.model.as_deref().unwrap_or_default();
    let names = names(&all, named, args.provider.as_deref());
    let found = names.iter().filter_map(|(provider, name)| {
        let model = all.of_model(provider, name)?;
        Some((provider.as_str(), name.as_str(), model))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        let why = format!("no price of {named:?} is known, so the cost of its calls is unknown");
        let how = format!("batchwright prices set {named} --input USD --output USD");
        return Err(Refusal::usage(why).hint(how));
    }
    Ok(if args.json {
        let models: Vec<Value> = found.iter().map(as_json).collect();
        format!("{:#}\n", json!({ "models": models }))
    } else {
        as_table(&found)
    })
}

/// The models of exactly this name, at each provider that has prices for it; otherwise those whose names contain it.
fn names(all: &Prices, named: &str, provider: Option<&str>) -> Vec<(String, String)> {
    let wanted = |(of, _): &(String, String)| provider.is_none_or(|name| name == of || of == "*");
    let known: Vec<_> = all.names("").into_iter().filter(wanted).collect();
    let mut providers: Vec<&str> = known.iter().map(|(of, _)| of.as_str()).collect();
    providers.dedup();
    let origin = |of: &str| all.of_model(of, named).map(|model| model.origin());
    // Prices that are set for all providers are shown once.
    let for_all = origin("*");
    providers.retain(|of| match origin(of) {
        Some(found) => *of == "*" || for_all != Some(found),
        None => false,
    });
    if providers.is_empty() {
        return all.names(named).into_iter().filter(wanted).collect();
    }
    let exact = providers.into_iter();
    exact.map(|of| (of.to_owned(), named.to_owned())).collect()
}

type Row<'p> = (&'p str, &'p str, ModelPrices<'p>);

fn as_json((provider, name, model): &Row<'_>) -> Value {
    let entries = model.entries().iter();
    let entries: Vec<&PriceEntry> = entries.filter(|entry| is_sold(model, entry)).collect();
    json!({
        "provider": provider,
        "model": name,
        "origin": model.origin(),
        "source": model.source(),
        "date": model.date(),
        "max_output_tokens": model.max_output_tokens(),
        "prices": entries,
    })
}

fn as_table(found: &[Row<'_>]) -> String {
    let mut table = Table::default();
    let head = ["provider", "model", "tier", "input", "cached", "output"];
    table.row(head, "origin");
    for (provider, name, model) in found {
        for entry in in_force(model) {
            let tier = if entry.tier.is_empty() {
                "standard"
            } else {
                &entry.tier
            };
            let date = model
                .date()
                .map_or_else(String::new, |date| format!(" of {date}"));
            let source = model
                .source()
                .map_or_else(String::new, |source| format!(", {source}"));
            let note = format!("{}{date}{source}", model.origin());
            let mut add = |tier: &str, prices: &PriceEntry, note: &str| {
                let cached = prices.cached_input.map_or_else(|| "-".to_owned(), usd);
                let output = prices.output.map_or_else(|| "-".to_owned(), usd);
                let cells = [*provider, *name, tier, &usd(prices.input), &cached, &output];
                table.row(cells, note);
            };
            add(tier, entry, &note);
            for longer in &entry.above {
                let tier = format!("{tier}, above {} tokens", longer.tokens);
                add(&tier, longer, "");
            }
        }
    }
    table.below("US dollars per million tokens; --json shows earlier prices and all fields");
    table.lines(width())
}

/// Whether the provider has this tier; Azure does not have all of OpenAI's.
fn is_sold(model: &ModelPrices<'_>, entry: &PriceEntry) -> bool {
    model.entry(&entry.tier, SystemTime::now().into()).is_some()
}

/// The prices of today, one entry per tier.
fn in_force<'p>(model: &ModelPrices<'p>) -> Vec<&'p PriceEntry> {
    let now = SystemTime::now().into();
    let mut entries: Vec<&PriceEntry> = Vec::new();
    for entry in model.entries() {
        let today = model.entry(&entry.tier, now);
        entries.extend(today.filter(|today| !entries.iter().any(|known| known.tier == today.tier)));
    }
    entries
}

fn usd(price: Price) -> String {
    price.dollars().to_string()
}

fn change(args: &PricesArgs, action: &PricesAction) -> Result<(), Refusal> {
    let folder = folder(args)?;
    let own = folder.join(Prices::OWN_FILE);
    let provider = args.provider.as_deref().unwrap_or("*");
    match action {
        PricesAction::Update { file } => {
            let text = prices::read(file)?;
            let table = Prices::none().with_table("the file", &text);
            table.map_err(refused)?;
            write(&folder, &folder.join(Prices::TABLE_FILE), &text)?;
            display::say("the table of prices is replaced");
        }
        PricesAction::Set {
            model,
            input,
            output,
            cached_input,
            cache_write,
            cache_write_1h,
            tier,
        } => {
            let mut stored = stored(&own)?;
            let mut entry = json!({ "input": input, "output": output });
            for (name, price) in [
                ("cached_input", cached_input),
                ("cache_write", cache_write),
                ("cache_write_1h", cache_write_1h),
            ] {
                if let Some(price) = price {
                    entry[name] = json!(price);
                }
            }
            let tier = tier.as_deref().unwrap_or_default();
            if !tier.is_empty() {
                entry["tier"] = json!(tier);
            }
            let entries = entries(&mut stored, provider, model);
            entries.retain(|entry| entry["tier"].as_str().unwrap_or_default() != tier);
            entries.push(entry);
            replace(&folder, &own, &stored)?;
            display::say(&format!(
                "the price of {model} is stored in {}",
                own.display()
            ));
        }
        PricesAction::Unset { model } => {
            let mut stored = stored(&own)?;
            if !remove(&mut stored, args.provider.as_deref(), model) {
                return Err(Refusal::usage(format!(
                    "no price of {model:?} alone is stored"
                )));
            }
            replace(&folder, &own, &stored)?;
            display::say(&format!("the stored price of {model} is deleted"));
        }
    }
    Ok(())
}

/// Removes a model at this provider, or wherever it has prices. Returns whether it had any.
fn remove(stored: &mut Value, provider: Option<&str>, model: &str) -> bool {
    let mut any = false;
    for (name, of_provider) in stored["providers"].as_object_mut().into_iter().flatten() {
        if provider.is_none_or(|provider| provider == name) {
            let models = list(&mut of_provider["models"]);
            let before = models.len();
            models.retain(|known| known["models"] != json!([model]));
            any |= models.len() < before;
        }
    }
    any
}

/// The prices that are set, as JSON.
fn stored(path: &Path) -> Result<Value, Refusal> {
    if !path.exists() {
        return Ok(json!({ "providers": {} }));
    }
    let text = prices::read(path)?;
    Prices::none()
        .overridden("your setting", &text)
        .map_err(refused)?;
    serde_json::from_str(&text).map_err(|error| Refusal::could_not_run(error.to_string()))
}

/// The entries of a model, which is added if it is missing.
fn entries<'v>(stored: &'v mut Value, provider: &str, model: &str) -> &'v mut Vec<Value> {
    let of_provider = &mut stored["providers"][provider];
    if of_provider.is_null() {
        *of_provider = json!({ "models": [] });
    }
    let models = list(&mut of_provider["models"]);
    let at = models
        .iter()
        .position(|known| known["models"] == json!([model]));
    let at = at.unwrap_or_else(|| {
        models.push(json!({ "models": [model], "prices": [] }));
        models.len() - 1
    });
    list(&mut models[at]["prices"])
}

fn list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was just made")
}

/// Writes the prices, if they are valid.
fn replace(folder: &Path, path: &Path, stored: &Value) -> Result<(), Refusal> {
    let text = format!("{stored:#}\n");
    Prices::none()
        .overridden("prices", &text)
        .map_err(refused)?;
    write(folder, path, &text)
}

fn write(folder: &Path, path: &Path, text: &str) -> Result<(), Refusal> {
    let written = || -> Result<(), Error> {
        fs::create_dir_all(folder)?;
        let file = AtomicFile::create(path, fs::File::options().write(true))?;
        file.file().write_all(text.as_bytes())?;
        file.replace()?;
        Ok(())
    };
    written().map_err(|error| {
        Refusal::could_not_run(format!(
            "cannot write {}: {}",
            path.display(),
            error.message()
        ))
    })
}
