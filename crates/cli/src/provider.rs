//! Which provider a run uses, and saying so.

use std::path::Path;
use std::time::{Duration, Instant};

use batchwright::LlmManager;
use batchwright::config::EffectiveStrategy;
use batchwright::files::RunPlan;
use batchwright::provider::{ProviderStatus, inspect, survey};
use batchwright::{Client, Context, Limits, LlmConfig, Settings, Strategy};

use super::args::shared::ProviderArgs;
use super::display;
use super::exit::{About, Refusal};
use super::format::span;
use super::settings::refused;

/// The providers of a run, some of which may still load their model.
pub struct Chosen {
    first: ProviderStatus,
    fallbacks: Vec<ProviderStatus>,
    /// The flag, variable or setting that names them.
    fallbacks_by: &'static str,
    timeout: Option<Duration>,
    max_reply: Option<u64>,
    max_replies: u64,
    calls: Option<usize>,
    /// Requests that name no model, if known.
    unnamed: Option<u64>,
    /// No model at all; by choice, or since nothing else was found.
    extract: Option<Extracting>,
}

/// The clients of a run.
pub struct Clients {
    pub first: Client,
    pub concurrency: usize,
    pub fallbacks: Vec<(Client, Limits)>,
}

/// Why `extract` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extracting {
    Named,
    /// With what was set up halfway, for whoever meant something else.
    NothingElse(Vec<String>),
}

const NO_MODEL: &str = "extract is no model: each answer is the first 300 characters of its text";
const TO_ASK_A_MODEL: &str = "To ask a model: set a provider's key, such as OPENAI_API_KEY, and name \
                              --model; or start a local server (llama.cpp, Ollama, LM Studio); or \
                              name one by --base-url. What each lacks: batchwright providers";

impl Chosen {
    /// The name of the first provider.
    pub fn name(&self) -> &'static str {
        self.first.provider
    }

    /// What a strategy comes to with the first provider.
    pub fn effective(&self, asked: Strategy) -> EffectiveStrategy {
        EffectiveStrategy::new(asked, self.first.provider)
    }

    /// False when `extract` comes first.
    pub fn asks_a_model(&self) -> bool {
        self.extract.is_none()
    }

    /// True when `extract` answers since no model can be asked.
    pub fn fell_to_extract(&self) -> bool {
        matches!(self.extract, Some(Extracting::NothingElse(_)))
    }

    /// For answers in JSON: `extract` has none to give, and as a fallback it would only put its own
    /// failure in the place of the model's.
    pub fn for_json(mut self, say: &dyn Fn(String)) -> Result<Self, Refusal> {
        if !self.asks_a_model() {
            return Err(Refusal::could_not_run(
                "extract is no model and cannot answer in JSON: name another provider",
            ));
        }
        let before = self.fallbacks.len();
        self.fallbacks.retain(|status| status.provider != "extract");
        if self.fallbacks.len() < before {
            say("extract cannot answer in JSON: left out of the fallbacks".to_owned());
        }
        Ok(self)
    }

    /// Says that no model answers; who asked for quiet may have meant something else, and hears
    /// it too.
    pub fn warn_of_extract(&self, quiet: bool) {
        match &self.extract {
            Some(Extracting::NothingElse(halfway)) => {
                let unheard = halfway.iter().filter(|_| quiet);
                unheard.for_each(|line| display::say(line));
                display::say(&format!("{NO_MODEL}. {TO_ASK_A_MODEL}"));
            }
            Some(Extracting::Named) if !quiet => display::say(NO_MODEL),
            Some(Extracting::Named) | None => {}
        }
    }

    /// Says which fallbacks add nothing.
    pub fn warn_of_fallbacks(&self, say: &dyn Fn(String)) {
        let mut steps = Vec::from([&self.first]);
        for status in &self.fallbacks {
            if steps.iter().any(|step| step.provider == "extract") {
                say("extract answers everything: what stands after it is never asked".to_owned());
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
                say(format!("{name}{model} stands in the route twice"));
            }
            steps.push(status);
        }
    }

    /// What carries bulk work out with the first provider.
    pub fn manager(&self, settings: &Settings) -> Result<LlmManager, Refusal> {
        LlmManager::of(settings.clone(), self.first.clone()).map_err(refused)
    }

    /// True when the first provider makes vectors.
    pub fn embeds(&self) -> bool {
        self.first.embeddings
    }

    /// True while the first provider's server loads its model.
    pub fn is_loading(&self) -> bool {
        self.first.is_loading()
    }

    /// Whether a provider's allowance is worth sharing with other runs; a local server has none.
    pub fn shares_limits(&self) -> bool {
        !matches!(self.first.provider, "local" | "extract")
    }

    /// The model for requests that name none.
    pub fn default_model(&self) -> Option<&str> {
        self.first.model.as_deref()
    }

    /// Waits for servers that load their model. A fallback whose model was named needs no wait: its
    /// calls wait, if there are any.
    pub fn once_loaded(mut self, ctx: &Context, say: &dyn Fn(String)) -> Result<Self, Refusal> {
        self.first = once_loaded(self.first, ctx, say)?;
        let statuses = self.fallbacks.into_iter();
        self.fallbacks = statuses
            .map(|status| match status.model {
                Some(_) => Ok(status),
                None => once_loaded(status, ctx, say),
            })
            .collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The clients. What a server that still loads its model will serve is not known yet, and no
    /// reason to refuse.
    pub fn clients(&self) -> Result<Clients, Refusal> {
        let status = &self.first;
        if let Some(n) = self.unnamed.filter(|n| *n > 0)
            && lacks_model(status)
        {
            return Err(Refusal::usage(format!(
                "{n} requests name no model, and {} has no default: use --model, \
                 BATCHWRIGHT_MODEL or the setting llm.model",
                status.provider
            ))
            .about(About::Provider));
        }
        let first = self.build(status.config(), self.calls)?;
        let concurrency = self.calls.unwrap_or_else(|| first.default_concurrency());
        let fallbacks = self.fallbacks.iter();
        let fallbacks = fallbacks.map(|status| self.fallback(status, concurrency));
        Ok(Clients {
            fallbacks: fallbacks.collect::<Result<_, _>>()?,
            first,
            concurrency,
        })
    }

    fn build(&self, config: LlmConfig, calls: Option<usize>) -> Result<Client, Refusal> {
        let mut config = config.max_replies_bytes(self.max_replies);
        if let Some(timeout) = self.timeout {
            config = config.request_timeout(timeout);
        }
        if let Some(bytes) = self.max_reply {
            config = config.max_reply_bytes(bytes);
        }
        if let Some(calls) = calls {
            config = config.concurrency(calls);
        }
        config
            .client()
            .map_err(|error| Refusal::could_not_run(error.message()).about(About::Provider))
    }

    /// The client of a fallback: the first provider's models mean nothing to it, nor does the number of
    /// calls that the first one takes at once, where it has slots of its own.
    fn fallback(&self, status: &ProviderStatus, calls: usize) -> Result<(Client, Limits), Refusal> {
        let (by, name) = (self.fallbacks_by, status.provider);
        if lacks_model(status) {
            return Err(Refusal::usage(format!(
                "{by} {name}: name its model: {name}:MODEL"
            )));
        }
        let own = (name == "local").then_some(status.default_concurrency);
        let config = status.config().only_model(true);
        let client = self.build(config, Some(own.unwrap_or(calls)))?;
        let slots = own.and_then(|slots| u32::try_from(slots).ok());
        let limits = slots.map_or_else(Limits::default, |n| Limits::default().in_flight(n));
        Ok((client, limits))
    }

    /// Who is called, where, for which model.
    pub fn line(&self, clients: &Clients) -> String {
        let status = &self.first;
        let part = |before: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map_or_else(String::new, |text| format!("{before}{text}"))
        };
        let at = part(" at ", &status.base_url);
        let with = part(", model ", &status.model);
        let then = self.fallbacks.iter().map(|status| {
            let model = part("/", &status.model);
            format!(", then {}{model}", status.provider)
        });
        let then: String = then.collect();
        let calls = clients.concurrency;
        format!(
            "provider {}{at}{with}{then}, {calls} in flight",
            status.provider
        )
    }

    /// The provider of each step, with the model that it alone is asked for.
    pub fn steps(&self) -> Vec<(&'static str, Option<String>)> {
        let first = (self.first.provider, None);
        let fallbacks = self.fallbacks.iter();
        let fallbacks = fallbacks.map(|status| (status.provider, status.model.clone()));
        [first].into_iter().chain(fallbacks).collect()
    }
}

/// True for a server that is ready and lists no model, if none was named.
fn lacks_model(status: &ProviderStatus) -> bool {
    status.provider != "extract" && status.model.is_none() && !status.is_loading()
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
}

/// Takes the provider that was named, else the first usable one.
pub fn choose(
    asked: &Asked<'_>,
    settings: &Settings,
    say: &dyn Fn(String),
) -> Result<Chosen, Refusal> {
    let Asked {
        provider: args,
        embed,
        unnamed,
    } = *asked;
    let provider = settings.provider().map_err(refused)?;
    let model = settings.model().map_err(refused)?;
    let base_url = args.base_url.clone();
    let timeout = settings.request_timeout().map_err(refused)?;
    let max_reply = settings.max_reply_bytes().map_err(refused)?;
    let max_replies = settings.max_replies_bytes().map_err(refused)?;
    let calls = settings.sync_concurrency().map_err(refused)?;
    let all_named = unnamed == Some(0);

    let mut halfway = None;
    let status = match (provider, &base_url) {
        (Some(name), url) => named(&name, url.as_deref(), model.as_deref(), all_named)?,
        (None, Some(url)) => {
            say(
                "--base-url without --provider: taking an OpenAI-compatible server (local)"
                    .to_owned(),
            );
            named("local", Some(url), model.as_deref(), all_named)?
        }
        (None, None) => {
            let (status, half) = first_usable(model.as_deref(), all_named, embed, say)?;
            halfway = Some(half);
            status
        }
    };
    if embed {
        let checked = status.check_embeddings();
        checked.map_err(|error| Refusal::usage(error.message()))?;
    }
    let extract = (status.provider == "extract")
        .then(|| halfway.map_or(Extracting::Named, Extracting::NothingElse));
    let fallbacks_by = settings.explain("llm.fallback").map_err(refused)?.set_by();
    let fallbacks = match embed {
        // Vectors of two models cannot be compared.
        true => Vec::new(),
        false => fallbacks(settings, fallbacks_by)?,
    };
    if args.fallback_blocked && fallbacks.is_empty() {
        return Err(Refusal::usage(
            "--fallback-blocked needs --fallback: there is no provider to ask next",
        ));
    }
    let chosen = Chosen {
        first: status,
        fallbacks,
        fallbacks_by,
        timeout,
        max_reply,
        max_replies,
        calls,
        unnamed,
        extract,
    };
    // What cannot work is refused before anything is touched.
    chosen.clients()?;
    Ok(chosen)
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

fn named(
    name: &str,
    base_url: Option<&str>,
    model: Option<&str>,
    all_named: bool,
) -> Result<ProviderStatus, Refusal> {
    let status = inspect(name, base_url, model, all_named)
        .map_err(|error| Refusal::usage(error.message()))?;
    // A missing model is told apart later, with the number of requests that need one.
    if !status.usable && !status.lacks_model() {
        let why = format!("{name}: {}", status.reason);
        return Err(Refusal::could_not_run(why).about(About::Provider));
    }
    Ok(status)
}

fn first_usable(
    model: Option<&str>,
    all_named: bool,
    embed: bool,
    say: &dyn Fn(String),
) -> Result<(ProviderStatus, Vec<String>), Refusal> {
    let mut list = survey(model, all_named);
    let fits = |status: &ProviderStatus| status.embeddings || !embed;
    let Some(at) = list.iter().position(|status| status.usable && fits(status)) else {
        let what = if embed { " that makes embeddings" } else { "" };
        let why = format!("no provider{what} can be used: {}", lacks(&list, embed));
        return Err(Refusal::could_not_run(why)
            .about(About::Provider)
            .hint(TO_ASK_A_MODEL));
    };
    let mut halfway = Vec::new();
    for passed in list[..at].iter().filter(|passed| passed.half_configured()) {
        let why = match fits(passed) {
            true => &passed.reason,
            false => "it makes no embeddings",
        };
        let line = format!("not {}: {why}", passed.provider);
        halfway.push(line.clone());
        say(line);
    }
    let lacks = lacks(&list[..at], embed);
    let chosen = list.swap_remove(at);
    // What extract gives is told in a warning of its own.
    let taking = match chosen.provider {
        "extract" => "taking extract".to_owned(),
        name => format!("taking {name}: {}", chosen.reason),
    };
    say(match lacks.is_empty() {
        true => taking,
        false => format!("{lacks} (see batchwright providers); {taking}"),
    });
    Ok((chosen, halfway))
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

/// The fallback list: `name` or `name:model`.
fn fallbacks(settings: &Settings, by: &str) -> Result<Vec<ProviderStatus>, Refusal> {
    let entries = settings.fallback().map_err(refused)?;
    entries
        .iter()
        .map(|entry| {
            let (name, model) = match entry.split_once(':') {
                Some((name, model)) => (name.trim(), Some(model.trim())),
                None => (entry.as_str(), None),
            };
            let model = model.filter(|model| !model.is_empty());
            let status = inspect(name, None, model, false)
                .map_err(|error| Refusal::usage(format!("{by}: {error}")))?;
            if status.usable || status.lacks_model() {
                return Ok(status);
            }
            // The client knows no --base-url, which would be the first provider's.
            let why = match status.config().client() {
                Err(error) => format!("{by} {}", error.message()),
                Ok(_) => format!("{by} {name}: {}", status.reason),
            };
            Err(Refusal::usage(why).about(About::Provider))
        })
        .collect()
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
        let provider = self.first.provider;
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
            "{} holds vectors by {by}/{model}, and this run's would be by {provider}{now}; vectors of \
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
    fn a_dated_version_is_the_same_model_and_another_model_is_not() {
        assert!(answers_to("gpt-x", "gpt-x"));
        assert!(answers_to("gpt-x-2026-01-01", "gpt-x"));
        assert!(answers_to("vendor/gpt-x", "gpt-x"));
        assert!(!answers_to("gpt-4o", "gpt-4"));
        assert!(!answers_to("gpt-x-mini", "gpt-x"));
    }
}
