//! Which providers can be used on this machine, and why the others cannot.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Optional, Secret};
use crate::llm::transport::{
    HttpReply, HttpRequest, HttpTransport, ReplyShare, Transport, is_loopback_url,
};

use super::access::{Access, Env, key_from};
use super::config::{LlmConfig, known};
use super::errors::failure;
use super::headers::CallHeader;
use super::remote::MAX_REPLY;
use super::vendor::{Dialect, VENDORS, Vendor};

/// The usual addresses of local servers: llama.cpp, Ollama, LM Studio.
const USUAL_ADDRESSES: [&str; 3] = [
    "http://127.0.0.1:8080/v1",
    "http://127.0.0.1:11434/v1",
    "http://127.0.0.1:1234/v1",
];
/// How long servers are waited for that nobody named.
const BRIEF: Duration = Duration::from_millis(900);
/// How long a server that the user named is waited for: one that is busy may reply late.
const PATIENT: Duration = Duration::from_secs(5);

/// A higher number of slots that a server reports is ignored.
const MOST_SLOTS: usize = 1024;

/// The headers of the requests.
type Headers = Vec<(Cow<'static, str>, String)>;

/// The status of one provider on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub provider: &'static str,
    /// Whether a run can use it.
    pub usable: bool,
    /// Why it can or cannot be used, and what to do if it cannot.
    pub reason: String,
    /// The model for requests without a model.
    pub model: Option<String>,
    /// Its address, without credentials.
    pub base_url: Option<String>,
    /// Whether it has a Batch API.
    pub batch_api: bool,
    /// Whether it supports embeddings.
    pub embeddings: bool,
    /// The number of calls in flight if none is set: what suits the provider, or the slots of a llama.cpp server.
    pub default_concurrency: usize,
    /// The number of calls that a local server answers at once, if it reports that (llama.cpp).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// The models that a local server lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// The settings without a model and without a number of calls.
    #[serde(skip)]
    config: LlmConfig,
    /// Whether it cannot be used although something is set for it: a key without a model, or an address without a
    /// server.
    #[serde(skip)]
    pub half_configured: bool,
    /// Whether it cannot be used only because no model is set.
    #[serde(skip)]
    pub lacks_model: bool,
}

impl ProviderStatus {
    /// Checks that it supports embeddings.
    ///
    /// # Errors
    /// If it does not. The error names the providers that do.
    pub fn check_embeddings(&self) -> Result<(), Error> {
        known(self.provider)?.embedding_limits().map(drop)
    }

    fn with_slots(self, slots: Option<usize>) -> Self {
        Self {
            slots,
            default_concurrency: slots.unwrap_or(self.default_concurrency),
            ..self
        }
    }

    /// The status with this model for requests without a model.
    pub(crate) fn with_model(&self, model: &str) -> Self {
        Self {
            usable: self.usable || self.lacks_model,
            model: Some(model.to_owned()),
            lacks_model: false,
            ..self.clone()
        }
    }

    /// The settings for this provider.
    pub fn config(&self) -> LlmConfig {
        let config = self.config.clone();
        let config = config.concurrency(self.default_concurrency);
        config.set(self.model.as_ref(), LlmConfig::model)
    }
}

/// The status of every provider, in the order in which a run chooses. `model` is the model that the user names;
/// `every_request_names_one` means that none is required. It asks each local server, for at most one second.
pub fn survey(model: Option<&str>, every_request_names_one: bool) -> Vec<ProviderStatus> {
    let given = Given {
        model,
        models_named: every_request_names_one,
        ..Given::default()
    };
    let look = Look {
        given: &given,
        patience: BRIEF,
        env: &|name| std::env::var(name).ok(),
    };
    VENDORS.iter().map(|vendor| look.at(vendor)).collect()
}

/// The status of one provider, at `base_url` if it is given. A local server that is slow has 5 seconds to reply.
///
/// # Errors
/// If there is no provider of that name.
pub fn inspect(
    provider: &str,
    base_url: Option<&str>,
    model: Option<&str>,
    every_request_names_one: bool,
) -> Result<ProviderStatus, Error> {
    let given = Given {
        base_url,
        model,
        models_named: every_request_names_one,
        ..Given::default()
    };
    inspect_with(provider, &given)
}

/// The user's settings for one provider.
#[derive(Default)]
pub(crate) struct Given<'a> {
    pub base_url: Option<&'a str>,
    /// Replaces the key in the environment.
    pub api_key: Option<&'a Secret>,
    pub model: Option<&'a str>,
    /// Whether every request names a model, so that none is required.
    pub models_named: bool,
    /// Headers for every call.
    pub headers: &'a [CallHeader],
    /// Whether a server is asked for its model if only its address is given.
    pub asks_models: bool,
}

/// The provider at an address for which none is named: a server on this machine is `local`, any other `custom`.
pub(crate) fn provider_at(url: &str) -> &'static str {
    if is_loopback_url(url.trim()) {
        "local"
    } else {
        "custom"
    }
}

/// The status of one provider with these settings.
pub(crate) fn inspect_with(provider: &str, given: &Given<'_>) -> Result<ProviderStatus, Error> {
    let vendor = known(provider)?;
    let look = Look {
        given,
        patience: PATIENT,
        env: &|name| match (given.base_url, given.api_key) {
            (Some(url), _) if name == vendor.url_var => Some(vendor.normalise(url)),
            (_, Some(key)) if vendor.key_vars.contains(&name) => Some(key.expose().to_owned()),
            _ => std::env::var(name).ok(),
        },
    };
    Ok(look.at(vendor))
}

/// All providers that require a key, each with the environment variable that contains one or names its file, if any. No
/// key is checked with its provider.
pub fn api_keys_set() -> Vec<(&'static str, Option<&'static str>)> {
    let env = |name: &str| std::env::var(name).ok();
    let keyed = VENDORS.iter().filter(|vendor| vendor.needs_key);
    let found = keyed.map(|vendor| {
        let key = key_from(vendor, &env).ok().flatten();
        (vendor.name, key.map(|credential| credential.variable))
    });
    found.collect()
}

/// The settings of a survey.
struct Look<'a> {
    given: &'a Given<'a>,
    /// How long a local server may take to reply.
    patience: Duration,
    /// Reads a variable.
    env: Env<'a>,
}

impl Look<'_> {
    fn at(&self, vendor: &'static Vendor) -> ProviderStatus {
        if vendor.dialect == Dialect::Extract {
            let always = "always: the first 300 characters of the text, no model".to_owned();
            return status(vendor, self.config(vendor), Ok(always));
        }
        if vendor.probed {
            self.local(vendor, &USUAL_ADDRESSES)
        } else {
            self.remote(vendor)
        }
    }

    fn config(&self, vendor: &Vendor) -> LlmConfig {
        LlmConfig::new(vendor.name).headers(self.given.headers)
    }

    /// The address and the credential, or the reason why a run would reject these settings.
    fn access(&self, vendor: &Vendor, config: &LlmConfig) -> Result<Access, String> {
        let access = config.access(vendor, self.env);
        access.map_err(|error| {
            let (own, why) = (format!("{}: ", vendor.name), error.message());
            why.strip_prefix(&own).unwrap_or(why).to_owned()
        })
    }

    fn remote(&self, vendor: &'static Vendor) -> ProviderStatus {
        let config = self.config(vendor);
        let key = key_from(vendor, self.env);
        let has_key = config.pays_by_header() || !matches!(key, Ok(None));
        let address = config.given_address(vendor, self.env);
        let address = address.unwrap_or_else(|| vendor.normalise(vendor.base_url));
        let config = config.at(&address);
        let access = self.access(vendor, &config);
        let is_named = self.given.models_named;
        let mut model = self.given.model.map(str::to_owned);
        if let Ok(access) = &access
            && model.is_none()
            && self.given.asks_models
            && !is_named
        {
            // Which of several is meant, and what it costs, only the user knows.
            let models = models_at(vendor, &address, &access.headers, self.patience);
            let mut models = models.unwrap_or_default();
            model = models.pop().filter(|_| models.is_empty());
        }
        let lacks_model = access.is_ok() && model.is_none() && !is_named;
        let set = if vendor.needs_key || has_key {
            "a key is set"
        } else {
            "an address is set"
        };
        let verdict = match access {
            Err(_) if address.is_empty() => {
                let why = format!("no address: use --base-url or {}", vendor.url_var);
                Err(why)
            }
            Err(why) => Err(why),
            Ok(_) if lacks_model => Err(format!(
                "{set}, but no model is named: --model, BATCHWRIGHT_MODEL or the setting llm.model"
            )),
            Ok(_) => {
                let found = key.ok().flatten();
                Ok(found.map_or_else(|| set.to_owned(), |found| found.found()))
            }
        };
        let configured = has_key || !vendor.needs_key && !address.is_empty();
        ProviderStatus {
            model: model.filter(|_| configured),
            base_url: Some(redacted_url(&address)).filter(|url| !url.is_empty()),
            half_configured: configured && verdict.is_err(),
            lacks_model: configured && lacks_model,
            ..status(vendor, config, verdict)
        }
    }

    fn local(&self, vendor: &'static Vendor, usual: &[&str]) -> ProviderStatus {
        let given = self.config(vendor).given_address(vendor, self.env);
        let model = self.given.model.map(str::to_owned);
        if given.is_some() && model.is_some() {
            let status = self.remote(vendor);
            let access = self.access(vendor, &status.config).ok();
            let access = access.filter(|_| status.usable);
            let slots = access.and_then(|access| slots_at(&access.base_url, &access.headers));
            return status.with_slots(slots);
        }
        // An unknown server on a usual port must not get the key.
        let at = |address: &str| match given {
            Some(_) => self.config(vendor).at(address),
            None => self.config(vendor).found_at(address),
        };
        let addresses = given.as_deref().map_or(usual.to_vec(), |url| vec![url]);
        let unusable = |half_configured, why| ProviderStatus {
            half_configured,
            ..status(vendor, self.config(vendor), Err(why))
        };
        let headers = match self.access(vendor, &at(addresses[0])) {
            Ok(access) => access.headers,
            Err(why) => return unusable(given.is_some(), why),
        };
        let mut trouble = String::new();
        let mut wants_key = false;
        let mut servers = Vec::new();
        for address in addresses {
            match models_at(vendor, address, &headers, self.patience) {
                Ok(models) => servers.push((address, models)),
                Err(error) => {
                    wants_key |= error.status() == Some(401);
                    if trouble.is_empty() || error.status().is_some() {
                        trouble = format!("{}: {}", redacted_url(address), error.message());
                    }
                }
            }
        }
        // One that serves the model, else the first.
        let serves = |models: &[String]| model.as_ref().is_none_or(|own| models.contains(own));
        servers.sort_by_key(|(_, models)| !serves(models));
        let Some((address, models)) = servers.into_iter().next() else {
            let why = match given {
                Some(_) => format!("no usable server at {trouble}"),
                None => format!(
                    "no usable server on this machine's usual ports ({trouble}); set {}",
                    vendor.url_var
                ),
            };
            let has_key = || !matches!(key_from(vendor, self.env), Ok(None));
            return unusable(given.is_some() || wants_key && has_key(), why);
        };
        let slots = slots_at(address, &headers);
        ProviderStatus {
            base_url: Some(redacted_url(address)),
            model: model.or_else(|| models.first().cloned()),
            models: models.clone(),
            ..status(vendor, at(address), Ok(described(&models, slots)))
        }
        .with_slots(slots)
    }
}

fn status(
    vendor: &'static Vendor,
    config: LlmConfig,
    verdict: Result<String, String>,
) -> ProviderStatus {
    ProviderStatus {
        provider: vendor.name,
        usable: verdict.is_ok(),
        reason: verdict.unwrap_or_else(|why| why),
        model: None,
        base_url: None,
        batch_api: vendor.batches.is_some(),
        embeddings: vendor.embeds.is_some(),
        default_concurrency: vendor.concurrency,
        slots: None,
        models: Vec::new(),
        config,
        half_configured: false,
        lacks_model: false,
    }
}

/// What a local server does.
fn described(models: &[String], slots: Option<usize>) -> String {
    let serves = match models {
        [] => "answers, but lists no model".to_owned(),
        [one] => format!("serves {one}"),
        [first, others @ ..] => format!("serves {first} and {} more", others.len()),
    };
    match slots {
        None => serves,
        Some(1) => format!("{serves}, 1 slot"),
        Some(slots) => format!("{serves}, {slots} slots"),
    }
}

/// The models that the server at this address lists, in its order.
///
/// # Errors
/// If there is no server, or it lists none.
fn models_at(
    vendor: &Vendor,
    address: &str,
    headers: &Headers,
    timeout: Duration,
) -> Result<Vec<String>, Error> {
    listed(vendor, &get(address, "/models", headers, timeout)?)
}

/// The number of calls that a server answers at once. llama.cpp reports it; others do not know the address.
fn slots_at(address: &str, headers: &Headers) -> Option<usize> {
    let root = address.strip_suffix("/v1").unwrap_or(address);
    let reply = get(root, "/props", headers, BRIEF).ok()?;
    let props: Value = serde_json::from_slice(&reply.body).ok()?;
    let slots = usize::try_from(props.get("total_slots")?.as_u64()?).ok()?;
    (reply.status == 200 && (1..=MOST_SLOTS).contains(&slots)).then_some(slots)
}

fn get(
    address: &str,
    path: &str,
    headers: &Headers,
    timeout: Duration,
) -> Result<HttpReply, Error> {
    let request = HttpRequest {
        url: &format!("{address}{path}"),
        headers,
        body: None,
        timeout,
        reply_limit: MAX_REPLY,
        memory: &ReplyShare::of_process(),
    };
    let transport = HttpTransport::new(address, 1, timeout)?;
    transport.send(&request, &Context::new())
}

/// The names in a list of models.
fn listed(vendor: &Vendor, reply: &HttpReply) -> Result<Vec<String>, Error> {
    let status = reply.status;
    if status == 503 && failure(vendor, reply).is_not_ready() {
        let why = "it is still loading its model; try again, or name the model";
        return Err(Error::new(ErrorKind::Transient, why).with_status(status));
    }
    let no_list = || {
        let hint = match status {
            401 | 403 => "; check LOCAL_LLM_API_KEY",
            _ => "",
        };
        let why = format!("GET /models answered {status}, which is not a list of models{hint}");
        Error::new(ErrorKind::Malformed, why).with_status(status)
    };
    let value: Value = serde_json::from_slice(&reply.body).map_err(|_| no_list())?;
    let list = value.get("data").and_then(Value::as_array);
    let ids = list.ok_or_else(no_list)?.iter();
    let ids = ids.filter_map(|model| model.get("id")?.as_str());
    Ok(ids.map(str::to_owned).collect())
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
