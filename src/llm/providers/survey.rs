//! Which providers can be used on this machine, and why the others cannot.

use std::time::Duration;

use serde::Serialize;

use crate::base::secret::{Address, redacted_url};
use crate::base::{Error, Optional, Secret};
use crate::llm::transport::is_loopback_url;

use super::access::{Env, key_from, no_key, setting, withheld_headers};
use super::config::{LlmConfig, known};
use super::headers::CallHeader;
use super::local::{self, LocalServer};
use super::vendor::{Dialect, VENDORS, Vendor};

/// The status of one provider on this machine.
#[derive(Debug, Clone, Default, Serialize)]
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
    /// The local servers that replied; a run uses the first one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<LocalServer>,
    /// The user's headers for every call.
    #[serde(skip)]
    headers: Vec<CallHeader>,
    #[serde(skip)]
    address: Option<Address>,
    /// Whether the address was found and not named by the user. No key was sent there.
    #[serde(skip)]
    unnamed: bool,
    /// Whether the server has reported how many calls it answers at once.
    #[serde(skip)]
    reports_slots: bool,
    #[serde(skip)]
    half_configured: bool,
    #[serde(skip)]
    lacks_model: bool,
    #[serde(skip)]
    lacks_key: bool,
}

impl ProviderStatus {
    /// True if it cannot be used although something is set for it: a key without a model, or an address without a
    /// server.
    pub fn half_configured(&self) -> bool {
        self.half_configured
    }

    /// True if it cannot be used only because no model is set.
    pub fn lacks_model(&self) -> bool {
        self.lacks_model
    }

    /// True if it cannot be used only because no key is set.
    pub fn lacks_key(&self) -> bool {
        self.lacks_key
    }

    /// Checks that it supports embeddings.
    ///
    /// # Errors
    /// If it does not. The error names the providers that do.
    pub fn check_embeddings(&self) -> Result<(), Error> {
        known(self.provider)?.check_embeddings()
    }

    /// Whether the server has reported how many calls it answers at once, so that no other number is looked for.
    pub(crate) fn reports_slots(&self) -> bool {
        self.reports_slots
    }

    fn with_slots(self, slots: Option<usize>) -> Self {
        Self {
            reports_slots: slots.is_some(),
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
        let config = LlmConfig::new(self.provider)
            .headers(&self.headers)
            .set(self.model.as_ref(), LlmConfig::model);
        let config = match &self.address {
            Some(address) if self.unnamed => config.found_at(&address.0),
            Some(address) => config.at(&address.0),
            None => config,
        };
        config.concurrency(self.default_concurrency)
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
        patience: local::BRIEF,
        env: &|name| std::env::var(name).ok(),
    };
    look.at_all()
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
        patience: local::PATIENT,
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
    fn at_all(&self) -> Vec<ProviderStatus> {
        VENDORS.iter().map(|vendor| self.at(vendor)).collect()
    }

    fn at(&self, vendor: &'static Vendor) -> ProviderStatus {
        let found = match vendor.dialect {
            Dialect::Extract => status(
                vendor,
                Ok("always: the first 300 characters of the text, no model".into()),
            ),
            _ if vendor.probed => self.local(vendor, &local::USUAL_ADDRESSES),
            _ => self.remote(vendor),
        };
        ProviderStatus {
            headers: self.given.headers.to_vec(),
            ..found
        }
    }

    /// The reason why a run would reject these settings, if it would.
    fn refused(&self, vendor: &Vendor, address: &str) -> Option<String> {
        let config = LlmConfig::new(vendor.name)
            .at(address)
            .headers(self.given.headers);
        let error = config.access(vendor, self.env).err()?;
        let own = format!("{}: ", vendor.name);
        let why = error.message();
        Some(why.strip_prefix(&own).unwrap_or(why).to_owned())
    }

    fn remote(&self, vendor: &'static Vendor) -> ProviderStatus {
        let credential = key_from(vendor, self.env);
        let key =
            !matches!(credential, Ok(None)) || self.given.headers.iter().any(CallHeader::pays);
        let address = match setting(vendor.url_var, self.env) {
            Some(url) => vendor.base_from_variable(&url),
            None => vendor.normalise(vendor.base_url),
        };
        if address.is_empty() {
            let why = format!("no address: use --base-url or {}", vendor.url_var);
            return status(vendor, Err(why));
        }
        let refused = self.refused(vendor, &address);
        let given = self.given.model.map(str::to_owned);
        let is_asked = self.given.asks_models && refused.is_none() && !self.given.models_named;
        let listed = || self.only_model(vendor, &address);
        let model = given.or_else(|| is_asked.then(listed).flatten());
        let lacks_model = refused.is_none() && model.is_none() && !self.given.models_named;
        let (a, set) = if vendor.needs_key || key {
            ("a", "key")
        } else {
            ("an", "address")
        };
        let lacks_key = refused.as_ref() == Some(&no_key(vendor));
        let verdict = match refused {
            Some(why) => Err(why),
            None if lacks_model => Err(format!(
                "{a} {set} is set, but no model is named: --model, BATCHWRIGHT_MODEL or the setting llm.model"
            )),
            None => {
                let found = credential.ok().flatten().map(|found| found.found());
                Ok(found.unwrap_or_else(|| format!("{set} set")))
            }
        };
        let configured = key || !vendor.needs_key;
        ProviderStatus {
            model: model.filter(|_| configured),
            base_url: Some(redacted_url(&address)),
            address: Some(Address(address)),
            half_configured: configured && verdict.is_err(),
            lacks_model: configured && lacks_model,
            lacks_key,
            ..status(vendor, verdict)
        }
    }

    /// The model that the server at this address lists, if it lists only one: which of several is meant, and what it
    /// costs, only the user knows.
    fn only_model(&self, vendor: &Vendor, address: &str) -> Option<String> {
        let address = [address.to_owned()];
        let headers = self.sent_with(vendor).ok()?;
        let found = local::find(&address, &headers, self.patience);
        let mut models = found.into_iter().next()?.ok()?.models;
        models.pop().filter(|_| models.is_empty())
    }

    /// The headers of a request to the server that the user named.
    fn sent_with(&self, vendor: &Vendor) -> Result<local::Headers, Error> {
        let credential = key_from(vendor, self.env)?;
        let credential = credential.filter(|_| !self.given.headers.iter().any(CallHeader::pays));
        let key = credential.map(|credential| format!("Bearer {}", credential.key.expose()));
        let key = key.map(|key| ("authorization".into(), key));
        let headers = self.given.headers.iter().map(CallHeader::sent);
        Ok(headers.chain(key).collect())
    }

    /// The status of a local server whose address and model are set.
    fn named(&self, vendor: &'static Vendor, url: &str, model: &str) -> ProviderStatus {
        let address = vendor.normalise(url);
        let refused = self.refused(vendor, &address);
        let slots = match refused {
            None => self
                .sent_with(vendor)
                .ok()
                .and_then(|headers| local::slots(&address, &headers)),
            Some(_) => None,
        };
        let verdict = refused.map_or_else(|| Ok("address and model named".to_owned()), Err);
        ProviderStatus {
            base_url: Some(redacted_url(&address)),
            address: Some(Address(address)),
            model: Some(model.to_owned()),
            ..status(vendor, verdict)
        }
        .with_slots(slots)
    }

    fn local(&self, vendor: &'static Vendor, usual: &[&str]) -> ProviderStatus {
        let given = setting(vendor.url_var, self.env);
        if given.is_none() && !self.given.headers.is_empty() {
            return status(vendor, Err(withheld_headers(vendor)));
        }
        if let (Some(url), Some(model)) = (&given, self.given.model) {
            return self.named(vendor, url, model);
        }
        // An unknown server on a usual port must not get the key.
        let asked_with = match &given {
            Some(_) => self.sent_with(vendor),
            None => Ok(local::Headers::new()),
        };
        let asked_with = match asked_with {
            Ok(headers) => headers,
            Err(error) => {
                return ProviderStatus {
                    half_configured: true,
                    ..status(vendor, Err(error.message().to_owned()))
                };
            }
        };
        let addresses: Vec<String> = match &given {
            Some(url) => vec![vendor.normalise(url)],
            None => usual.iter().map(|url| (*url).to_owned()).collect(),
        };
        let mut trouble = String::new();
        let mut wants_key = false;
        let mut servers = Vec::new();
        for (address, answer) in
            addresses
                .iter()
                .zip(local::find(&addresses, &asked_with, self.patience))
        {
            match answer {
                Ok(server) => servers.push(server),
                Err(error) => {
                    wants_key |= error.status() == Some(401);
                    if trouble.is_empty() || error.status().is_some() {
                        trouble = format!("{}: {}", redacted_url(address), error.message());
                    }
                }
            }
        }
        let serves = |server: &LocalServer, model| server.models.iter().any(|own| own == model);
        servers.sort_by_key(|server| self.given.model.is_some_and(|model| !serves(server, model)));
        let Some(first) = servers.first() else {
            let why = match given {
                Some(_) => format!("no usable server at {trouble}"),
                None => format!(
                    "no usable server on this machine's usual ports ({trouble}); set {}",
                    vendor.url_var
                ),
            };
            let has_key = || !matches!(key_from(vendor, self.env), Ok(None));
            return ProviderStatus {
                half_configured: given.is_some() || wants_key && has_key(),
                ..status(vendor, Err(why))
            };
        };
        let mut found = ProviderStatus {
            base_url: Some(first.base_url.clone()),
            address: Some(first.address.clone()),
            model: self
                .given
                .model
                .map(str::to_owned)
                .or_else(|| first.models.first().cloned()),
            unnamed: given.is_none(),
            ..status(vendor, Ok(first.description()))
        }
        .with_slots(first.slots);
        found.servers = servers;
        found
    }
}

fn status(vendor: &'static Vendor, verdict: Result<String, String>) -> ProviderStatus {
    ProviderStatus {
        provider: vendor.name,
        usable: verdict.is_ok(),
        reason: verdict.unwrap_or_else(|why| why),
        batch_api: vendor.batches.is_some(),
        embeddings: vendor.embeds.is_some(),
        default_concurrency: vendor.concurrency,
        ..ProviderStatus::default()
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
pub(super) mod tests;
