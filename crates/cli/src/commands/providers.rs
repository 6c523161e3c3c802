//! `batchwright providers`: which providers can be used here, and what the others lack.

use batchwright::Settings;
use batchwright::provider::{ProviderStatus, survey};

use crate::display;
use crate::exit::{Exit, Refusal};
use crate::format::Table;
use crate::sanitize;
use crate::settings::{refused, settings};
use crate::stderr::is_json;
use crate::stdout;

pub fn execute(model: Option<String>) -> Result<Exit, Refusal> {
    let settings = settings()?
        .flag("llm.model", "--model", model)
        .map_err(refused)?;
    let list = survey(settings.model().map_err(refused)?.as_deref(), false);
    let star = taken(&settings, &list);
    let text = if is_json() {
        sanitize::json(&format!("{:#}\n", serde_json::json!({ "providers": list })))
    } else {
        table(&list, star)
    };
    Ok(stdout::print(&text, Exit::Success))
}

/// The provider that a run would use: the configured one, otherwise the first usable one.
fn taken(settings: &Settings, list: &[ProviderStatus]) -> Option<usize> {
    let named = match settings.provider() {
        Ok(Some(named)) => named,
        Ok(None) => {
            let taken = |status: &ProviderStatus| status.usable && status.provider != "extract";
            return list.iter().position(taken);
        }
        Err(error) => {
            display::say(error.message());
            return None;
        }
    };
    let place = list.iter().position(|status| status.provider == named)?;
    let status = &list[place];
    if !status.usable {
        let set = settings.explain("llm.provider");
        let set = set.map_or("llm.provider", |setting| setting.set_by());
        display::say(&format!("{set}={named}: {}", status.reason));
    }
    status.usable.then_some(place)
}

fn table(list: &[ProviderStatus], star: Option<usize>) -> String {
    let mut table = Table::new([
        "  provider",
        "usable",
        "model",
        "embed",
        "batch",
        "calls",
        "why",
    ]);
    for (i, status) in list.iter().enumerate() {
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let mut row = |mark, model, calls: usize, why: &str| {
            let (usable, embeds) = (yes(status.usable), yes(status.embeddings));
            let (batch, calls) = (yes(status.batch_api), calls.to_string());
            let name = format!("{mark} {}", status.provider);
            table.row([&name, usable, model, embeds, batch, &calls, why]);
        };
        let mut why = status.reason.clone();
        if let Some(url) = status.base_url.as_deref().filter(|_| status.usable) {
            why = format!("{why} ({url})");
        }
        let mark = if star == Some(i) { "*" } else { " " };
        let model = status.model.as_deref().unwrap_or("-");
        row(mark, model, status.default_concurrency, &why);
    }
    let mut out = table.lines();
    out.push_str("* default of `batchwright run`\n");
    out
}
