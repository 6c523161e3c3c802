//! Which provider a run uses, and saying so.

use std::path::{Path, PathBuf};
use std::time::Instant;

use batchwright::LlmManager;
use batchwright::files::RunPlan;
use batchwright::plan::{
    Concurrency, EffectiveStrategy, ProviderChoice, ProviderChoiceError, ProviderQuery,
};
use batchwright::provider::{CallHeader, ProviderStatus};
use batchwright::{Context, LlmConfig, Settings, Strategy};

use super::args::shared::{BatchProviderArgs, DataArgs, ProviderArgs};
use super::exit::{About, Refusal};
use super::format::span;
use super::settings::refused;

/// The providers of a run, some of which may still load their model.
pub struct Chosen {
    choice: ProviderChoice,
    settings: Settings,
    beside: Beside,
    /// Requests that name no model, if known.
    unnamed: Option<u64>,
}

/// What flags add to the settings.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    pub fallback_blocked: bool,
    /// Retries at each provider, in place of the setting.
    pub max_retries: Option<u8>,
    /// Where limits are shared.
    pub data_dir: Option<PathBuf>,
    /// Exactly as many slots as calls.
    pub fixed_slots: bool,
}

impl Beside {
    pub fn given_to(&self, manager: LlmManager) -> LlmManager {
        let mut manager = manager
            .fall_back_when_blocked(self.fallback_blocked)
            .fixed_slots(self.fixed_slots);
        if let Some(retries) = self.max_retries {
            manager = manager.max_retries(retries);
        }
        match &self.data_dir {
            Some(folder) => manager.data_dir(folder),
            None => manager,
        }
    }
}

const NO_MODEL: &str =
    "extract is a placeholder without a model: each answer is the first 300 characters of its text";
/// What to do if no provider can be used.
const A_MODEL: &str = "use one of these:\n  a key and a model: set OPENAI_API_KEY or another provider's key, and add --model NAME\
                       \n  a local model: start llama.cpp, Ollama or LM Studio, or add --base-url URL";
const NO_MODEL_NEEDED: &str =
    "\n  no model, only the first 300 characters of each text: add --provider extract";
const WHAT_EACH_LACKS: &str = "\nWhat each provider lacks: batchwright providers";

impl Chosen {
    /// The name of the first provider.
    pub fn name(&self) -> &'static str {
        self.choice.first.provider
    }

    /// What a strategy comes to with the first provider.
    pub fn effective(&self, asked: Strategy) -> EffectiveStrategy {
        EffectiveStrategy::new(asked, self.choice.first.provider)
    }

    /// False when `extract` comes first.
    pub fn asks_a_model(&self) -> bool {
        self.choice.first.provider != "extract"
    }

    /// For answers in JSON: `extract` has none to give, and as a fallback it would only put its own
    /// failure in the place of the model's.
    pub fn for_json(mut self, say: &dyn Fn(String)) -> Result<Self, Refusal> {
        if !self.asks_a_model() {
            return Err(Refusal::could_not_run(
                "extract has no model and cannot answer in JSON: name another provider",
            ));
        }
        let before = self.choice.fallbacks.len();
        self.choice
            .fallbacks
            .retain(|status| status.provider != "extract");
        if self.choice.fallbacks.len() < before {
            say("extract cannot answer in JSON: removed from the fallbacks".to_owned());
        }
        Ok(self)
    }

    /// Says that no model answers.
    pub fn warn_of_extract(&self, say: &dyn Fn(String)) {
        if !self.asks_a_model() {
            say(NO_MODEL.to_owned());
        }
    }

    /// Says which fallbacks add nothing.
    pub fn warn_of_fallbacks(&self, say: &dyn Fn(String)) {
        let mut steps = Vec::from([&self.choice.first]);
        for status in &self.choice.fallbacks {
            if steps.iter().any(|step| step.provider == "extract") {
                say("extract answers everything: providers after it are never called".to_owned());
                return;
            }
            let same = |step: &&ProviderStatus| {
                let of = |status: &ProviderStatus| (status.provider, status.model.clone());
                of(step) == of(status) && step.base_url == status.base_url
            };
            if steps.iter().any(same) {
                let model = status.model.as_deref();
                let model = model.map_or_else(String::new, |model| format!("/{model}"));
                let name = status.provider;
                say(format!("{name}{model} is in the route twice"));
            }
            steps.push(status);
        }
    }

    /// What makes clients, routes and workers of it.
    pub fn manager(&self) -> Result<LlmManager, Refusal> {
        let manager = LlmManager::with(self.settings.clone(), self.choice.clone());
        Ok(self.beside.given_to(manager.map_err(refused)?))
    }

    /// True while the first provider's server loads its model.
    pub fn is_loading(&self) -> bool {
        self.choice.first.is_loading()
    }

    /// The model for requests that name none.
    pub fn default_model(&self) -> Option<&str> {
        self.choice.first.model.as_deref()
    }

    /// Waits for servers that load their model.
    pub fn once_loaded(mut self, ctx: &Context, say: &dyn Fn(String)) -> Result<Self, Refusal> {
        for status in self.choice.loading() {
            *status = once_loaded(status.clone(), ctx, say)?;
        }
        Ok(self)
    }

    /// Refuses what cannot work. What a server that still loads its model will serve is not known yet, and no
    /// reason to refuse. Returns the calls in flight at the first provider.
    pub fn check(&self) -> Result<Concurrency, Refusal> {
        let status = &self.choice.first;
        let has_model =
            status.provider == "extract" || status.model.is_some() || status.is_loading();
        if let Some(n) = self.unnamed.filter(|n| *n > 0)
            && !has_model
        {
            return Err(Refusal::usage(format!(
                "{n} requests name no model, and {} has no default: use --model, \
                 BATCHWRIGHT_MODEL or the setting llm.model",
                status.provider
            ))
            .about(About::Provider));
        }
        let manager = self.manager()?;
        let plan = manager.route_plan().map_err(refused)?;
        plan.check()
            .map_err(|error| Refusal::could_not_run(error.message()).about(About::Provider))?;
        manager.concurrency().map_err(refused)
    }

    /// Who is called, where, for which model.
    pub fn line(&self, calls: Concurrency) -> String {
        line(&self.choice, calls)
    }

    /// The provider of each step, with the model that it alone is asked for.
    pub fn steps(&self) -> Vec<(&'static str, Option<String>)> {
        let first = (self.choice.first.provider, None);
        let fallbacks = self.choice.fallbacks.iter();
        let fallbacks = fallbacks.map(|status| (status.provider, status.model.clone()));
        [first].into_iter().chain(fallbacks).collect()
    }
}

/// Who is called, where, for which model.
pub fn line(choice: &ProviderChoice, calls: Concurrency) -> String {
    let status = &choice.first;
    let part = |before: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map_or_else(String::new, |text| format!("{before}{text}"))
    };
    let at = part(" at ", &status.base_url);
    let with = part(", model ", &status.model);
    let then = choice.fallbacks.iter().map(|status| {
        let model = part("/", &status.model);
        format!(", then {}{model}", status.provider)
    });
    let then: String = then.collect();
    format!(
        "provider {}{at}{with}{then}, {}",
        status.provider,
        in_flight(calls)
    )
}

/// How many calls are made at once.
pub fn in_flight(calls: Concurrency) -> String {
    let start = calls.start();
    match calls {
        Concurrency::Auto { most, .. } => {
            format!("{start} in flight, up to {most} while that helps")
        }
        _ => format!("{start} in flight"),
    }
}

/// The flags that name providers, above the other settings.
pub fn with_flags(mut settings: Settings, args: &ProviderArgs) -> Result<Settings, Refusal> {
    let fallback = args.fallback.as_ref().map(|names| names.join(","));
    for (key, flag, words) in [
        ("llm.provider", "--provider", &args.provider),
        ("llm.model", "--model", &args.model),
        ("llm.fallback", "--fallback", &fallback),
    ] {
        settings = settings.flag(key, flag, words.clone()).map_err(refused)?;
    }
    Ok(settings)
}

/// What is asked of a provider beside the settings.
pub struct Asked<'a> {
    pub provider: &'a ProviderArgs,
    /// Vectors and no answers.
    pub embed: bool,
    /// Requests that name no model, if known.
    pub unnamed: Option<u64>,
    /// The tier that every request asks for.
    pub service_tier: Option<&'a str>,
    pub beside: Beside,
}

/// Takes the provider that was named, else the first usable one.
pub fn choose(
    asked: Asked<'_>,
    settings: &Settings,
    say: &dyn Fn(String),
) -> Result<Chosen, Refusal> {
    let Asked {
        provider: args,
        embed,
        unnamed,
        service_tier,
        beside,
    } = asked;
    let query = with_headers(ProviderQuery::new(), args, settings)?
        .base_url(args.base_url.clone())
        .embeddings(embed)
        .every_request_names_a_model(unnamed == Some(0));
    let choice = query.choose(settings);
    let choice = choice.map_err(|error| not_chosen(error, embed))?;
    if let Some(tier) = service_tier {
        let checked = choice.first.check_service_tier(tier);
        checked.map_err(|error| Refusal::usage(format!("--service-tier: {}", error.message())))?;
    }
    tell_choice(&choice, args, embed, say);
    if args.fallback_blocked && choice.fallbacks.is_empty() {
        return Err(Refusal::usage(
            "--fallback-blocked needs --fallback with the next provider",
        ));
    }
    let chosen = Chosen {
        choice,
        settings: settings.clone(),
        beside,
        unnamed,
    };
    // What cannot work is refused before anything is touched.
    chosen.check()?;
    Ok(chosen)
}

/// With the headers of the flags, for the provider that is named.
fn with_headers(
    query: ProviderQuery,
    args: &ProviderArgs,
    settings: &Settings,
) -> Result<ProviderQuery, Refusal> {
    let headers = read_headers(&args.header)?;
    if headers.is_empty() {
        return Ok(query);
    }
    // Whoever comes first by chance is not told what was meant for another.
    let named = settings.provider().map_err(refused)?;
    let local = || args.base_url.as_ref().map(|_| "local".to_owned());
    let name = named.or_else(local).ok_or_else(headers_of_nobody)?;
    Ok(query.headers(name, headers))
}

/// How the provider is called that batches were made at, where flags say so.
pub fn own_of_batches(
    args: &BatchProviderArgs,
    data: &DataArgs,
) -> Result<Option<LlmConfig>, Refusal> {
    if args.is_empty() {
        return Ok(None);
    }
    let headers = read_headers(&args.header)?;
    let settings = data.settings()?;
    let named = settings.flag("llm.provider", "--provider", args.provider.clone());
    let named = named.and_then(|settings| settings.provider());
    let nobody = || {
        if headers.is_empty() {
            Refusal::usage("--base-url: it is one provider's: name that with --provider")
        } else {
            headers_of_nobody()
        }
    };
    let name = named.map_err(refused)?.ok_or_else(nobody)?;
    let config = LlmConfig::new(name).headers(&headers);
    Ok(Some(match &args.base_url {
        Some(url) => config.base_url(url),
        None => config,
    }))
}

fn read_headers(given: &[String]) -> Result<Vec<CallHeader>, Refusal> {
    let mut headers = Vec::new();
    for given in given {
        let lines = match given.strip_prefix('@') {
            None => given.clone(),
            Some(path) => std::fs::read_to_string(path)
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

fn headers_of_nobody() -> Refusal {
    bad_header("it applies to one provider only: add --provider NAME")
}

/// Why no provider was chosen, for people.
fn not_chosen(error: ProviderChoiceError, embed: bool) -> Refusal {
    let message = error.to_string();
    match error {
        ProviderChoiceError::Setting(_) => Refusal::usage(message),
        ProviderChoiceError::Fallback(_) => Refusal::usage(message).about(About::Provider),
        ProviderChoiceError::Nobody(all) => {
            let (what, without) = if embed {
                (" that makes embeddings", "")
            } else {
                ("", NO_MODEL_NEEDED)
            };
            let mut why: Vec<String> = half_configured(&all, embed).collect();
            why.push(lacks(&all, embed));
            why.retain(|part| !part.is_empty());
            let why = format!("no provider{what} can be used: {}", why.join("; "));
            Refusal::usage(why)
                .about(About::Provider)
                .hint(format!("{A_MODEL}{without}{WHAT_EACH_LACKS}"))
        }
        _ => Refusal::could_not_run(message).about(About::Provider),
    }
}

/// Why providers cannot be used for which something was set, a line for each.
fn half_configured(all: &[ProviderStatus], embed: bool) -> impl Iterator<Item = String> {
    let halfway = all.iter().filter(|status| status.half_configured());
    halfway.map(move |status| {
        let why = if status.embeddings || !embed {
            &status.reason
        } else {
            "it makes no embeddings"
        };
        format!("not {}: {why}", status.provider)
    })
}

/// Says which provider was taken where none was named, and why not those before it.
fn tell_choice(choice: &ProviderChoice, args: &ProviderArgs, embed: bool, say: &dyn Fn(String)) {
    let Some(passed) = &choice.passed else {
        return;
    };
    if args.base_url.is_some() {
        let who = "taking an OpenAI-compatible server (local)";
        return say(format!("--base-url without --provider: {who}"));
    }
    half_configured(passed, embed).for_each(say);
    let lacks = lacks(passed, embed);
    let chosen = &choice.first;
    let taking = format!("taking {}: {}", chosen.provider, chosen.reason);
    say(if lacks.is_empty() {
        taking
    } else {
        format!("{lacks} (see batchwright providers); {taking}")
    });
}

fn once_loaded(
    status: ProviderStatus,
    ctx: &Context,
    say: &dyn Fn(String),
) -> Result<ProviderStatus, Refusal> {
    if !status.is_loading() {
        return Ok(status);
    }
    let name = status.provider;
    say(format!(
        "{name}: the server is still loading its model; waiting"
    ));
    let start = Instant::now();
    let status = status
        .once_loaded(ctx)
        .map_err(|error| Refusal::could_not_run(error.message()))?;
    let took = span(start.elapsed());
    if status.is_loading() {
        let why = format!("{name}: the server is still loading its model after {took}");
        return Err(Refusal::could_not_run(why).about(About::Provider));
    }
    if !status.usable {
        let why = format!("{name}: {}", status.reason);
        return Err(Refusal::could_not_run(why).about(About::Provider));
    }
    say(format!("{name}: the server is ready after {took}"));
    Ok(status)
}

/// What providers for which nothing was set lack, all in one.
fn lacks(passed: &[ProviderStatus], embed: bool) -> String {
    let names = |what: &str, which: &dyn Fn(&ProviderStatus) -> bool| {
        let untouched = passed.iter().filter(|status| !status.half_configured());
        let names: Vec<_> = untouched.filter(|status| which(status)).collect();
        let names: Vec<&str> = names.iter().map(|status| status.provider).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let fits = |status: &ProviderStatus| status.embeddings || !embed;
    let server = |status: &ProviderStatus| status.provider == "local" && !status.half_configured();
    let parts = [
        names("no key for", &|status| fits(status) && status.lacks_key()),
        names("no embeddings from", &|status| {
            !fits(status) && status.provider != "extract"
        }),
        (passed.iter().any(server)).then(|| "no server answers on this machine".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A changed default reruns nothing; whoever expects otherwise is told.
pub fn note_changed_default(plan: &RunPlan, default: Option<&str>, say: &dyn Fn(String)) {
    let Some(default) = default else { return };
    let same = plan
        .models_before
        .iter()
        .any(|model| answers_to(model, default));
    if plan.done > 0 && !plan.models_before.is_empty() && !same {
        say(format!(
            "{} finished results came from {} and are kept; the default model is {default} now. \
             Name it with --model to run them again",
            plan.done,
            plan.models_before.join(", ")
        ));
    }
}

impl Chosen {
    /// Refuses to put vectors beside those of another model. A model that the input or `--model`
    /// names is part of the request: what another one made is not finished.
    pub fn fits_vectors(&self, plan: &RunPlan, output: &Path) -> Result<(), Refusal> {
        let provider = self.choice.first.provider;
        let default = self.default_model().filter(|_| self.unnamed == plan.total);
        let other = plan.vectors_before.iter().find(|(by, model)| {
            let same = |name| answers_to(model, name) || answers_to(name, model);
            by != provider || !default.is_none_or(same)
        });
        let Some((by, model)) = other else {
            return Ok(());
        };
        let now = self
            .default_model()
            .map_or_else(String::new, |name| format!("/{name}"));
        Err(Refusal::usage(format!(
            "{} has embeddings of {by}/{model}, but this run uses {provider}{now}; embeddings of \
             two models cannot be compared: name a new output, or use the same model",
            output.display()
        ))
        .about(About::Output))
    }
}

/// Providers answer with the name they were asked by, or with a dated version of it.
fn answers_to(model: &str, name: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_and_a_host_with_the_same_settings_come_to_the_same_route() {
        let args = ProviderArgs {
            provider: Some("custom".to_owned()),
            model: Some("m".to_owned()),
            header: Vec::new(),
            base_url: Some("http://127.0.0.1:9/v1".to_owned()),
            fallback: Some(vec!["extract".to_owned()]),
            fallback_blocked: true,
        };
        let set = |key, value: &str| {
            with_flags(Settings::new(), &args)
                .ok()
                .unwrap()
                .flag(key, "x", Some(value.to_owned()))
        };
        for (key, value) in [
            ("llm.requests_per_minute", "60"),
            ("llm.sync_concurrency", "9"),
            ("llm.max_retry_after", "5s"),
        ] {
            let settings = set(key, value).unwrap();
            let folder = Path::new("data");
            let asked = Asked {
                provider: &args,
                embed: false,
                unnamed: Some(1),
                service_tier: None,
                beside: Beside {
                    fallback_blocked: true,
                    data_dir: Some(folder.to_owned()),
                    ..Beside::default()
                },
            };
            let run = choose(asked, &settings, &|_| {}).ok().unwrap();
            let query = ProviderQuery::new().base_url(args.base_url.clone());
            let host = LlmManager::find(settings, query).unwrap();
            let host = host.data_dir(folder).fall_back_when_blocked(true);
            let plan = run.manager().ok().unwrap().route_plan().unwrap();
            assert_eq!(plan, host.route_plan().unwrap());
            assert_eq!(plan.shared_in, Some(folder.join("quotas")));
        }
    }

    #[test]
    fn a_dated_version_is_the_same_model_and_another_model_is_not() {
        assert!(answers_to("gpt-x", "gpt-x"));
        assert!(answers_to("gpt-x-2026-01-01", "gpt-x"));
        assert!(answers_to("vendor/gpt-x", "gpt-x"));
        assert!(!answers_to("gpt-4o", "gpt-4"));
        assert!(!answers_to("gpt-x-mini", "gpt-x"));
    }
}
