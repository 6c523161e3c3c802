//! The plan of a command's providers and its strategy, and lines about them.

use std::path::Path;

use batchwright::client::RequestTask;
use batchwright::config::SettingSource;
use batchwright::files::RunPlan;
use batchwright::plan::{
    Concurrency, EffectiveStrategy, ProviderOptions, ProviderPlan, ProviderPlanError,
};
use batchwright::provider::{CallHeader, ProviderStatus};
use batchwright::{ErrorKind, Secret, Settings, Strategy};

use super::args::run::RunArgs;
use super::args::shared::{PaceArgs, ProviderArgs};
use super::args::values::read_text;
use super::display;
use super::exit::{About, Refusal};
use super::format::number_of;
use super::settings::{data_dir, refused};
use batchwright::unstable::Optional;

pub const NO_MODEL: &str =
    "extract is a placeholder without a model: each answer is the first 300 characters of its text";
/// What to do if no provider can be used.
const A_MODEL: &str = "use one of these:\n  a key and a model: set OPENAI_API_KEY or another provider's key, and add --model NAME\
                       \n  a local model: start llama.cpp, Ollama or LM Studio, or add --base-url URL";
const NO_MODEL_NEEDED: &str =
    "\n  no model, only the first 300 characters of each text: add --provider extract";
const WHAT_EACH_LACKS: &str = "\nWhat each provider lacks: batchwright providers";

/// Removes `extract` from a plan for answers in JSON: it cannot return JSON, and as a fallback it would only replace
/// the model's failure by its own.
pub fn for_json(plan: &mut ProviderPlan) -> Result<(), Refusal> {
    if !asks_a_model(plan) {
        return Err(Refusal::could_not_run(
            "extract has no model and cannot answer in JSON: name another provider",
        ));
    }
    if plan.remove_extract() {
        display::note("extract cannot answer in JSON: removed from the fallbacks");
    }
    Ok(())
}

/// False if `extract` comes first.
pub fn asks_a_model(plan: &ProviderPlan) -> bool {
    plan.first.provider != "extract"
}

/// Rejects a plan that cannot work. The model of a server that is still loading is unknown, and is not rejected.
/// `unnamed` is the number of requests without a model.
pub fn check(plan: &ProviderPlan, unnamed: u64) -> Result<(), Refusal> {
    if unnamed > 0 && plan.lacks_model() {
        return Err(Refusal::usage(format!(
            "{} no model, and {} has no default: use --model, BATCHWRIGHT_MODEL or the setting llm.model",
            number_of(unnamed, "request|requests names|name"),
            plan.first.provider
        ))
        .about(About::Provider));
    }
    let checked = plan.check();
    checked.map_err(|error| Refusal::could_not_run(error.message()).about(About::Provider))
}

/// Which providers are called, at which address, for which model, how many calls or jobs run at once, and the limits
/// per minute.
pub fn line(plan: &ProviderPlan, at_once: &str) -> String {
    let status = &plan.first;
    let part = |before: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map_or_else(String::new, |text| format!("{before}{text}"))
    };
    let at = part(" at ", &status.base_url);
    let with = part(", model ", &status.model);
    let then = plan.fallbacks.iter().map(|status| {
        let model = part("/", &status.model);
        format!(", then {}{model}", status.provider)
    });
    let then: String = then.collect();
    format!(
        "provider {}{at}{with}{then}, {at_once}{}{}",
        status.provider,
        set_by(plan, "llm.sync_concurrency"),
        per_minute(plan)
    )
}

/// What sets this setting, in parentheses; empty if nothing does.
fn set_by(plan: &ProviderPlan, key: &str) -> String {
    let setting = plan.settings().explain(key).ok();
    let setting = setting.filter(|setting| setting.source != SettingSource::Default);
    setting.map_or_else(String::new, |setting| format!(" ({})", setting.set_by()))
}

/// The limits per minute at the first provider, and where they come from.
fn per_minute(plan: &ProviderPlan) -> String {
    let units = [
        ("llm.requests_per_minute", "requests"),
        ("llm.tokens_per_minute", "tokens"),
    ];
    let set = units.into_iter().filter_map(|(key, unit)| {
        let number = plan.settings().explain(key).ok()?.value?;
        Some(format!(", {number} {unit}/min{}", set_by(plan, key)))
    });
    let set: String = set.collect();
    let limits_by_itself = !matches!(plan.first.provider, "local" | "extract");
    if set.is_empty() && limits_by_itself {
        ", limits per minute learned from replies".to_owned()
    } else {
        set
    }
}

/// Number of concurrent calls.
pub fn in_flight(calls: Concurrency) -> String {
    let start = calls.start();
    match calls {
        Concurrency::Auto { most, .. } => {
            format!("{start} in flight, up to {most} while that helps")
        }
        _ => format!("{start} in flight"),
    }
}

/// The flags that name providers and their limits, above the other settings.
pub fn with_flags(
    settings: Settings,
    args: &ProviderArgs,
    pace: &PaceArgs,
) -> Result<Settings, Refusal> {
    let fallback = args.fallback.as_ref().map(|names| names.join(","));
    let flags = [
        ("llm.provider", "--provider", &args.provider),
        ("llm.model", "--model", &args.model),
        ("llm.fallback", "--fallback", &fallback),
        ("llm.prices", "--prices", &args.prices),
        ("llm.bulk_strategy", "--strategy", &pace.strategy),
        ("llm.sync_concurrency", "--concurrency", &pace.concurrency),
        ("llm.requests_per_minute", "--rpm", &pace.rpm),
        ("llm.tokens_per_minute", "--tpm", &pace.tpm),
        ("llm.request_timeout", "--timeout", &pace.timeout),
    ];
    let mut flags = flags.into_iter();
    let settings = flags.try_fold(settings, |settings, (key, flag, value)| {
        settings.flag(key, flag, value.clone())
    });
    settings.map_err(refused)
}

/// The options of these flags.
pub fn options(args: &ProviderArgs) -> ProviderOptions {
    ProviderOptions::new()
        .base_url(args.base_url.clone())
        .set(data_dir(), ProviderOptions::data_dir)
}

/// The plan of these settings and options, if it can work. `embed` requests embeddings instead of answers; `unnamed` is
/// as in [`check`].
pub fn plan(
    args: &ProviderArgs,
    settings: &Settings,
    options: ProviderOptions,
    embed: bool,
    unnamed: u64,
) -> Result<ProviderPlan, Refusal> {
    let options = with_headers_and_key(options, args, settings)?
        .embeddings(embed)
        .every_request_names_a_model(unnamed == 0);
    let plan = ProviderPlan::new(settings.clone(), options);
    let plan = plan.map_err(|error| not_planned(error, embed))?;
    // A plan that cannot work is rejected before anything is changed.
    check(&plan, unnamed)?;
    Ok(plan)
}

/// Adds the headers and the key of the flags, for the named provider.
fn with_headers_and_key(
    options: ProviderOptions,
    args: &ProviderArgs,
    settings: &Settings,
) -> Result<ProviderOptions, Refusal> {
    let headers = read_headers(&args.header)?;
    let bad = |flag: &str, why: &str| Refusal::usage(format!("{flag}: {why}"));
    let key = args.api_key_file.as_ref().map(Secret::from_file);
    let key = key.transpose();
    let key = key.map_err(|error| bad("--api-key-file", error.message()))?;
    // A provider that is only selected by default gets nothing that is meant for another one.
    let named = settings.provider().map_err(refused)?;
    let local = || args.base_url.as_ref().map(|_| "local".to_owned());
    let Some(name) = named.or_else(local) else {
        let why = "it applies to one provider only: add --provider NAME";
        return match key {
            Some(_) => Err(bad("--api-key-file", why)),
            None if headers.is_empty() => Ok(options),
            None => Err(bad("--header", why)),
        };
    };
    let options = options.set(key, |options, key| options.api_key(name.clone(), key));
    Ok(if headers.is_empty() {
        options
    } else {
        options.headers(name, headers)
    })
}

fn read_headers(given: &[String]) -> Result<Vec<CallHeader>, Refusal> {
    let mut headers = Vec::new();
    for given in given {
        let lines = match given.strip_prefix('@') {
            None => given.clone(),
            Some(path) => read_text(path)
                .map_err(|error| bad_header(&format!("cannot read {path}: {error}")))?,
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let header = CallHeader::parse(line).map_err(|error| bad_header(error.message()))?;
            headers.push(header);
        }
    }
    if headers.is_empty() && !given.is_empty() {
        Err(bad_header("found no header, such as 'Name: value'"))
    } else {
        Ok(headers)
    }
}

fn bad_header(why: &str) -> Refusal {
    Refusal::usage(format!("--header: {why}"))
}

/// Why there is no plan, for people.
fn not_planned(error: ProviderPlanError, embed: bool) -> Refusal {
    let message = error.to_string();
    match error {
        ProviderPlanError::Setting(error) if error.kind() == ErrorKind::Invalid => {
            Refusal::usage(message)
        }
        ProviderPlanError::Setting(_) => Refusal::could_not_run(message),
        ProviderPlanError::Fallback(_) => Refusal::usage(message).about(About::Provider),
        ProviderPlanError::Nobody(all) => {
            let (what, without) = if embed {
                (" that makes embeddings", "")
            } else {
                ("", NO_MODEL_NEEDED)
            };
            let why: Vec<String> = half_configured(&all).collect();
            let why = match why.join("; ") {
                none if none.is_empty() => {
                    "no key is set, and no server answers on this machine".to_owned()
                }
                why => why,
            };
            Refusal::usage(format!("no provider{what} can be used: {why}"))
                .about(About::Provider)
                .hint(format!("{A_MODEL}{without}{WHAT_EACH_LACKS}"))
        }
        _ => Refusal::could_not_run(message).about(About::Provider),
    }
}

/// Why providers with a partial configuration cannot be used, one line each.
fn half_configured(all: &[ProviderStatus]) -> impl Iterator<Item = String> {
    let halfway = all.iter().filter(|status| status.half_configured);
    halfway.map(|status| format!("not {}: {}", status.provider, status.reason))
}

/// Which provider was selected by default, and why not earlier ones that are half configured.
pub fn choice(plan: &ProviderPlan, args: &ProviderArgs) -> Vec<String> {
    let (first, Some(passed)) = (&plan.first, &plan.passed) else {
        return Vec::new();
    };
    if args.base_url.is_some() {
        return vec![format!(
            "--base-url without --provider: taking an OpenAI-compatible server ({})",
            first.provider
        )];
    }
    let taking = format!(
        "taking {}: {} (see batchwright providers)",
        first.provider, first.reason
    );
    half_configured(passed).chain([taking]).collect()
}

/// Rejects embeddings of another model next to existing ones. A model that the input or `--model` names is part of the
/// request, so an item that another model answered is not finished.
pub fn fits_vectors(
    plan: &ProviderPlan,
    unnamed: u64,
    run: &RunPlan,
    output: &Path,
) -> Result<(), Refusal> {
    let provider = plan.first.provider;
    let default = plan.first.model.as_deref();
    let used = default.filter(|_| unnamed == run.total);
    let other = run.vectors_before.iter().find(|(by, model)| {
        let same = |name| answers_to(model, name) || answers_to(name, model);
        by != provider || !used.is_none_or(same)
    });
    let Some((by, model)) = other else {
        return Ok(());
    };
    let now = default.map_or_else(String::new, |name| format!("/{name}"));
    Err(Refusal::usage(format!(
        "{} has embeddings of {by}/{model}, but this run uses {provider}{now}; embeddings of \
         two models cannot be compared: name a new output, or use the same model",
        output.display()
    ))
    .about(About::Output))
}

/// Providers reply with the requested name, or with a dated version of it.
pub fn answers_to(model: &str, name: &str) -> bool {
    let own = model.rsplit('/').next().unwrap_or(model);
    let name = name.rsplit('/').next().unwrap_or(name);
    own.strip_prefix(name).is_some_and(|rest| {
        let mut rest = rest.chars();
        match rest.next() {
            None => true,
            Some('-' | '@' | ':') => rest.next().is_some_and(|c| c.is_ascii_digit()),
            Some(_) => false,
        }
    })
}

/// Rejects a flag that requests half the price if only the full price is possible. A setting that was stored for other
/// providers falls back instead.
pub fn refuse_full_price(
    effective: &EffectiveStrategy,
    settings: &Settings,
) -> Result<(), Refusal> {
    let setting = settings.explain("llm.bulk_strategy").map_err(refused)?;
    match (setting.source, effective.check_price()) {
        (SettingSource::Flag(flag), Err(error)) => Err(Refusal::usage(format!(
            "{flag} {}: {}",
            effective.asked,
            error.message()
        ))
        .about(About::Provider)
        .hint(format!(
            "use {flag} sync to pay the full price, or --provider NAME for one that has it"
        ))),
        _ => Ok(()),
    }
}

/// The strategy of a run with this plan, if there is one.
pub fn strategy(
    args: &RunArgs,
    settings: &Settings,
    plan: Option<&ProviderPlan>,
) -> Result<EffectiveStrategy, Refusal> {
    let asked = settings.bulk_strategy().map_err(refused)?;
    let mut effective = match plan {
        _ if args.prompt.task == RequestTask::Embed => EffectiveStrategy::possible(Strategy::Sync),
        Some(plan) => plan.strategy(),
        // The key may be available where the real run will take place.
        None if args.dry_run => EffectiveStrategy::expected(settings),
        // There is no provider.
        None => EffectiveStrategy::possible(Strategy::Sync),
    };
    if asked == Strategy::Batch && args.prompt.task == RequestTask::Embed {
        let why = "embeddings are not made in batches: uses strategy sync";
        effective.fallback_reason = Some(why.to_owned());
    }
    refuse_full_price(&effective, settings)?;
    if args.no_wait && asked != Strategy::Batch {
        return Err(Refusal::usage("--no-wait applies only to --strategy batch"));
    }
    Ok(effective)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_version_is_the_same_model_and_another_model_is_not() {
        assert!(answers_to("gpt-x", "gpt-x"));
        assert!(answers_to("gpt-x-2026-01-01", "gpt-x"));
        assert!(answers_to("vendor/gpt-x", "gpt-x"));
        assert!(!answers_to("gpt-4o", "gpt-4"));
        assert!(!answers_to("gpt-x-mini", "gpt-x"));
    }
}
