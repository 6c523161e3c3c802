//! Which provider a run uses, and saying so.

use std::time::{Duration, Instant};

use batchwright::{Client, Context, LlmClient, LlmConfig, Plan, ProviderStatus, inspect, survey};

use super::args::{RunArgs, TaskArg};
use super::display;
use super::exit::Refusal;
use super::values::{calls, or_env, some_seconds};

/// The clients of a run.
pub struct Chosen {
    pub client: Client,
    pub concurrency: usize,
    pub fallbacks: Vec<Client>,
    /// The model for requests that name none, if it was not named on the command line.
    pub default_model: Option<String>,
    /// Whether a provider's allowance is worth sharing with other runs; a local server has none.
    pub shares_limits: bool,
    /// No model at all; by choice, or since nothing else was found.
    extract: Option<Extracting>,
}

/// Why `extract` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extracting {
    Named,
    /// With what was set up halfway, for whoever meant something else.
    NothingElse(Vec<String>),
}

const NO_MODEL: &str = "extract is no model: each answer is the first 300 characters of its text";

impl Chosen {
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
        self.fallbacks
            .retain(|client| client.provider() != "extract");
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
                display::say(NO_MODEL);
            }
            Some(Extracting::Named) if !quiet => display::say(NO_MODEL),
            Some(Extracting::Named) | None => {}
        }
    }
}

/// Takes the provider that was named, else the first usable one. `unnamed` counts the requests
/// that name no model. A server that is loading its model is waited for.
pub fn choose(
    args: &RunArgs,
    unnamed: Option<u64>,
    ctx: &Context,
    say: &dyn Fn(String),
) -> Result<Chosen, Refusal> {
    let text = |value: &str| Ok(value.to_owned());
    let env = |flag: &Option<String>, name| or_env(flag.clone(), name, text).unwrap_or_default();
    let provider = env(&args.provider.provider, "BATCHWRIGHT_PROVIDER");
    let model = env(&args.provider.model, "BATCHWRIGHT_MODEL");
    let base_url = args.provider.base_url.clone();
    let pace = &args.pace;
    let timeout =
        or_env(pace.timeout, "AI_REQUEST_TIMEOUT", some_seconds).map_err(Refusal::usage)?;
    let calls =
        or_env(pace.concurrency, "BATCHWRIGHT_SYNC_CONCURRENCY", calls).map_err(Refusal::usage)?;
    let all_named = unnamed == Some(0);
    let embed = args.prompt.task == TaskArg::Embed;

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
    if embed && !status.embeddings {
        return Err(Refusal::usage(format!(
            "{} makes no embeddings; batchwright providers --json shows which providers do",
            status.provider
        )));
    }
    let status = once_loaded(status, ctx, args.show.quiet)?;
    if status.provider != "extract" && status.model.is_none() && unnamed.is_some_and(|n| n > 0) {
        return Err(Refusal::usage(format!(
            "{} requests name no model, and {} has no default: use --model or BATCHWRIGHT_MODEL",
            unnamed.unwrap_or(0),
            status.provider
        )));
    }
    let extract = (status.provider == "extract")
        .then(|| halfway.map_or(Extracting::Named, Extracting::NothingElse));
    let client = build(status.config(), timeout, calls)?;
    let concurrency = calls.unwrap_or_else(|| client.default_concurrency());
    let at = status
        .base_url
        .as_deref()
        .map_or_else(String::new, |url| format!(" at {url}"));
    let with = status
        .model
        .as_deref()
        .map_or_else(String::new, |model| format!(", model {model}"));
    say(format!(
        "provider {}{at}{with}, {concurrency} in flight",
        status.provider
    ));
    Ok(Chosen {
        extract,
        shares_limits: !matches!(status.provider, "local" | "extract"),
        client,
        concurrency,
        fallbacks: match embed {
            // Vectors of two models cannot be compared.
            true => Vec::new(),
            false => fallbacks(args, timeout, concurrency)?,
        },
        default_model: status.model.filter(|_| args.provider.model.is_none()),
    })
}

/// How long a server may load its model before the run goes on without its word; the calls wait
/// as long again.
const PATIENCE: Duration = Duration::from_secs(600);

fn once_loaded(
    status: ProviderStatus,
    ctx: &Context,
    quiet: bool,
) -> Result<ProviderStatus, Refusal> {
    if !status.is_loading() {
        return Ok(status);
    }
    let say = |line: String| {
        if !quiet {
            display::say(&line);
        }
    };
    let name = status.provider;
    say(format!(
        "{name}: the server is still loading its model; waiting"
    ));
    let start = Instant::now();
    let status = status
        .once_loaded(ctx, PATIENCE)
        .map_err(|error| Refusal::could_not_run(error.message()))?;
    if !status.usable {
        let why = format!("{name}: {}", status.reason);
        return Err(Refusal::could_not_run(why));
    }
    if !status.is_loading() {
        let took = display::span(start.elapsed());
        say(format!("{name}: the server is ready after {took}"));
    }
    Ok(status)
}

fn build(
    config: LlmConfig,
    timeout: Option<Duration>,
    calls: Option<usize>,
) -> Result<Client, Refusal> {
    let mut config = config;
    if let Some(timeout) = timeout {
        config = config.request_timeout(timeout);
    }
    if let Some(calls) = calls {
        config = config.concurrency(calls);
    }
    config
        .client()
        .map_err(|error| Refusal::could_not_run(error.message()))
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
    if !status.usable && status.model.is_none() && !status.reason.contains("no model") {
        return Err(Refusal::could_not_run(format!("{name}: {}", status.reason)));
    }
    if !status.usable && name == "local" {
        return Err(Refusal::could_not_run(format!("{name}: {}", status.reason)));
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
        return Err(Refusal::could_not_run(match embed {
            true => "no provider that makes embeddings can be used; see batchwright providers",
            false => "no provider can be used; see batchwright providers",
        }));
    };
    let mut halfway = Vec::new();
    for passed in &list[..at] {
        let why = match fits(passed) {
            true => &passed.reason,
            false => "it makes no embeddings",
        };
        let line = format!("not {}: {why}", passed.provider);
        if passed.half_configured() {
            halfway.push(line.clone());
        }
        say(line);
    }
    let chosen = list.swap_remove(at);
    say(format!("taking {}: {}", chosen.provider, chosen.reason));
    Ok((chosen, halfway))
}

/// The fallback list: `name` or `name:model`. The first provider's models mean nothing to the
/// others, so each uses its own.
fn fallbacks(
    args: &RunArgs,
    timeout: Option<Duration>,
    calls: usize,
) -> Result<Vec<Client>, Refusal> {
    let list = |text: &str| Ok(text.split(',').map(str::to_owned).collect::<Vec<_>>());
    let names = or_env(args.provider.fallback.clone(), "BATCHWRIGHT_FALLBACK", list)
        .map_err(Refusal::usage)?
        .unwrap_or_default();
    names
        .iter()
        .map(|entry| entry.trim())
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (name, model) = match entry.split_once(':') {
                Some((name, model)) => (name, Some(model)),
                None => (entry, None),
            };
            let status = inspect(name, None, model, false)
                .map_err(|error| Refusal::usage(format!("--fallback: {error}")))?;
            if !status.usable {
                let hint = match (model, status.reason.contains("no model")) {
                    (None, true) => format!("; write it as {name}:MODEL"),
                    _ => String::new(),
                };
                return Err(Refusal::usage(format!(
                    "--fallback {name}: {}{hint}",
                    status.reason
                )));
            }
            build(status.config().only_model(true), timeout, Some(calls))
        })
        .collect()
}

/// The default model that the environment sets.
pub fn default_model() -> Option<String> {
    or_env(None, "BATCHWRIGHT_MODEL", |model| Ok(model.to_owned())).unwrap_or_default()
}

/// A changed default reruns nothing; whoever expects otherwise is told.
pub fn note_changed_default(plan: &Plan, default: Option<&str>, say: &dyn Fn(String)) {
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
