//! `batchwright providers`: what could be used here, and what is missing for the rest.

use std::io::Write;

use batchwright::{ProviderStatus, survey};

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
    let text = if args.json {
        serde_json::to_string_pretty(&serde_json::json!({ "providers": list })).map(|t| t + "\n")
    } else {
        Ok(table(&list))
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

fn table(list: &[ProviderStatus]) -> String {
    let chosen = list.iter().position(|status| status.usable);
    let mut out = row([" ", "provider", "usable", "model", "batch", "calls", "why"]);
    for (i, status) in list.iter().enumerate() {
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let mut why = status.reason.clone();
        if let Some(url) = status.base_url.as_deref().filter(|_| status.usable) {
            why = format!("{why} ({url})");
        }
        out.push_str(&row([
            if chosen == Some(i) { "*" } else { " " },
            status.provider,
            yes(status.usable),
            status.model.as_deref().unwrap_or("-"),
            yes(status.batch_api),
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
                yes(status.batch_api),
                &other.slots.unwrap_or(1).to_string(),
                &format!("{what}; --base-url {} takes it", other.base_url),
            ]));
        }
    }
    out.push_str("* the one that `batchwright run` takes unless told otherwise\n");
    out
}

fn row([mark, provider, usable, model, batch, calls, why]: [&str; 7]) -> String {
    format!("{mark} {provider:<10} {usable:<7} {model:<22} {batch:<6} {calls:>5}  {why}\n")
}
