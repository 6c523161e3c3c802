//! `batchwright providers`: what could be used here, and what is missing for the rest.

use std::io::Write;

use batchwright::{ProviderStatus, inspect, survey};

use super::args::ProvidersArgs;
use super::display;
use super::exit::Exit;
use super::values::or_env;

pub fn execute(args: &ProvidersArgs) -> Exit {
    let model = or_env(
        args.model.clone(),
        "BATCHWRIGHT_MODEL",
        |m| Ok(m.to_owned()),
    );
    let model = model.unwrap_or_default();
    let list = survey(model.as_deref(), false);
    let star = taken(&list);
    let text = if args.json {
        serde_json::to_string_pretty(&serde_json::json!({ "providers": list })).map(|t| t + "\n")
    } else {
        Ok(table(&list, star))
    };
    match text {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Exit::Success
        }
        Err(error) => {
            display::error(&error.to_string());
            Exit::CouldNotRun
        }
    }
}

/// The one that a run would take: what the environment names, else the first usable one.
fn taken(list: &[ProviderStatus]) -> Option<usize> {
    let variable = "BATCHWRIGHT_PROVIDER";
    let named = or_env(None, variable, |name| Ok(name.trim().to_owned())).unwrap_or_default();
    let Some(named) = named else {
        return list.iter().position(|status| status.usable);
    };
    let Some(place) = list.iter().position(|status| status.provider == named) else {
        if let Err(error) = inspect(&named, None, None, false) {
            display::say(&format!("{variable}: {error}"));
        }
        return None;
    };
    let status = &list[place];
    if !status.usable {
        display::say(&format!("{variable}={named}: {}", status.reason));
    }
    status.usable.then_some(place)
}

fn table(list: &[ProviderStatus], star: Option<usize>) -> String {
    let mut out = row([" ", "provider", "usable", "model", "embed", "calls", "why"]);
    for (i, status) in list.iter().enumerate() {
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let mut why = status.reason.clone();
        if let Some(url) = status.base_url.as_deref().filter(|_| status.usable) {
            why = format!("{why} ({url})");
        }
        out.push_str(&row([
            if star == Some(i) { "*" } else { " " },
            status.provider,
            yes(status.usable),
            status.model.as_deref().unwrap_or("-"),
            yes(status.embeddings),
            &status.default_concurrency.to_string(),
            &why,
        ]));
        for other in status.servers.iter().skip(1) {
            let what = other.description();
            out.push_str(&row([
                " ",
                status.provider,
                yes(status.usable),
                other.models.first().map_or("-", String::as_str),
                yes(status.embeddings),
                &other.slots.unwrap_or(1).to_string(),
                &format!("{what}; --base-url {} takes it", other.base_url),
            ]));
        }
    }
    out.push_str("* the one that `batchwright run` takes unless told otherwise\n");
    out
}

fn row([mark, provider, usable, model, embed, calls, why]: [&str; 7]) -> String {
    format!("{mark} {provider:<10} {usable:<7} {model:<22} {embed:<6} {calls:>5}  {why}\n")
}
