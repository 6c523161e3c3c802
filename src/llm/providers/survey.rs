//! Which providers can be used here, and why the others cannot.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::secret::{Address, Secret, redacted_url};
use crate::engine::loading::MAX_LOADING;

use super::config::{LlmConfig, known};
use super::credential::{key_from, no_key, setting, withheld_headers};
use super::headers::CallHeader;
use super::local::{self, LocalServer, ServerState};
use super::vendor::{Dialect, VENDORS, Vendor};

/// How often a server that loads its model is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One provider, as it can be used here and now.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub provider: &'static str,
    /// Whether a run could use it.
    pub usable: bool,
    /// Why, or why not, and what to do about it.
    pub reason: String,
    /// The model it would use for requests that name none.
    pub model: Option<String>,
    /// Where it is reached, without credentials.
    pub base_url: Option<String>,
    /// Whether it has a Batch API.
    pub batch_api: bool,
    /// Whether it makes embeddings.
    pub embeddings: bool,
    /// Calls in flight when no number is named.
    pub default_concurrency: usize,
    /// The local servers that answered; the first is the one that a run takes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<LocalServer>,
    /// What the user wants to be sent along.
    #[serde(skip)]
    headers: Vec<CallHeader>,
    #[serde(skip)]
    address: Option<Address>,
    /// The address was looked at unasked: no key was sent there.
    #[serde(skip)]
    unnamed: bool,
    #[serde(skip)]
    half_configured: bool,
    #[serde(skip)]
    lacks_model: bool,
    #[serde(skip)]
    lacks_key: bool,
}

impl ProviderStatus {
    /// True when it is not usable although something was set for it: a key without a model, an
    /// address without a server.
    pub fn half_configured(&self) -> bool {
        self.half_configured
    }

    /// True when it is not usable for want of a model alone.
    pub fn lacks_model(&self) -> bool {
        self.lacks_model
    }

    /// True when it is not usable for want of a key alone.
    pub fn lacks_key(&self) -> bool {
        self.lacks_key
    }

    /// Whether it makes embeddings.
    ///
    /// # Errors
    /// When it does not, with the names of those that do.
    pub fn check_embeddings(&self) -> Result<(), Error> {
        known(self.provider)?.check_embeddings()
    }

    /// Whether it takes this word as the tier of its service.
    ///
    /// # Errors
    /// When it is known to have no tiers, or none by that name; with those that it has.
    pub fn check_service_tier(&self, tier: &str) -> Result<(), Error> {
        let vendor = known(self.provider)?;
        if vendor.dialect == Dialect::Extract {
            return Ok(());
        }
        vendor
            .fields
            .check(vendor.name, "service_tier", &tier.into())
    }

    /// The same with this model for requests that name none.
    pub(crate) fn with_model(&self, model: &str) -> Self {
        Self {
            usable: self.usable || self.lacks_model,
            model: Some(model.to_owned()),
            lacks_model: false,
            ..self.clone()
        }
    }

    /// Settings for this provider as it was found.
    pub fn config(&self) -> LlmConfig {
        let mut config = LlmConfig::new(self.provider).headers(&self.headers);
        if let Some(model) = &self.model {
            config = config.model(model);
        }
        config = match &self.address {
            Some(address) if self.unnamed => config.found_at(&address.0),
            Some(address) => config.at(&address.0),
            None => config,
        };
        config.concurrency(self.default_concurrency)
    }

    /// True when the server that a run would take is still loading its model.
    pub fn is_loading(&self) -> bool {
        let first = self.servers.first();
        first.is_some_and(|server| server.state == ServerState::Loading)
    }

    /// Waits for a server that is loading its model, up to ten minutes, and looks again: what it
    /// serves, and how many calls at once, is known only then.
    ///
    /// # Errors
    /// When the context ends the wait.
    pub fn once_loaded(mut self, ctx: &Context) -> Result<Self, Error> {
        let deadline = Instant::now() + MAX_LOADING;
        let cancelled = ctx.cancel_signal();
        while self.is_loading() && Instant::now() < deadline {
            ctx.check()?;
            let wait = ctx
                .remaining()
                .map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            cancelled.wait(wait);
            ctx.check()?;
            self = self.looked_at_again(&|name| std::env::var(name).ok())?;
        }
        Ok(self)
    }

    fn looked_at_again(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let vendor = known(self.provider)?;
        let look = Look {
            model: self.model.as_deref(),
            models_named: false,
            headers: &self.headers,
            env: &|name| match &self.address {
                Some(address) if name == vendor.url_var => Some(address.0.clone()),
                _ if self.unnamed && vendor.key_vars.contains(&name) => None,
                _ => env(name),
            },
        };
        Ok(Self {
            unnamed: self.unnamed,
            ..look.at(vendor)
        })
    }
}

/// Looks at every provider, in the order in which a run would choose. `model` is the one that the user names;
/// `every_request_names_one` says that none is needed. It asks all local servers for their models at once, within a
/// second.
pub fn survey(model: Option<&str>, every_request_names_one: bool) -> Vec<ProviderStatus> {
    let look = Look {
        model,
        models_named: every_request_names_one,
        headers: &[],
        env: &|name| std::env::var(name).ok(),
    };
    look.at_all()
}

/// Looks at one provider, at another address than its own if one is given.
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

/// What the user gives for one provider.
#[derive(Default)]
pub(crate) struct Given<'a> {
    pub base_url: Option<&'a str>,
    /// Instead of the one in the environment.
    pub api_key: Option<&'a Secret>,
    pub model: Option<&'a str>,
    /// Every request names a model, so that none is needed.
    pub models_named: bool,
    /// Headers for every call.
    pub headers: &'a [CallHeader],
}

/// The same with these headers in every call.
pub(crate) fn inspect_with(provider: &str, given: &Given<'_>) -> Result<ProviderStatus, Error> {
    let vendor = known(provider)?;
    let look = Look {
        model: given.model,
        models_named: given.models_named,
        headers: given.headers,
        env: &|name| match (given.base_url, given.api_key) {
            (Some(url), _) if name == vendor.url_var => Some(vendor.normalise(url)),
            (_, Some(key)) if vendor.key_vars.contains(&name) => Some(key.expose().to_owned()),
            _ => std::env::var(name).ok(),
        },
    };
    Ok(look.at(vendor))
}

/// Each provider that takes a key, with the environment variable that holds one, if any does. Nobody
/// is asked whether it is valid.
pub fn api_keys_set() -> Vec<(&'static str, Option<&'static str>)> {
    let env = |name: &str| std::env::var(name).ok();
    let keyed = VENDORS.iter().filter(|vendor| vendor.needs_key);
    let found = keyed.map(|vendor| (vendor.name, key_from(vendor, &env).map(|c| c.variable)));
    found.collect()
}

/// How providers are looked at.
struct Look<'a> {
    /// The model that the user names.
    model: Option<&'a str>,
    /// Every request names a model, so that none is needed.
    models_named: bool,
    /// The user's headers for every call.
    headers: &'a [CallHeader],
    /// Reads a variable.
    env: &'a dyn Fn(&str) -> Option<String>,
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
            headers: self.headers.to_vec(),
            ..found
        }
    }

    /// Why a run would refuse these settings, if it would.
    fn refused(&self, vendor: &Vendor, address: &str) -> Option<String> {
        let config = LlmConfig::new(vendor.name)
            .at(address)
            .headers(self.headers);
        let error = config.access(vendor, self.env).err()?;
        let own = format!("{}: ", vendor.name);
        let why = error.message();
        Some(why.strip_prefix(&own).unwrap_or(why).to_owned())
    }

    fn remote(&self, vendor: &'static Vendor) -> ProviderStatus {
        let credential = key_from(vendor, self.env);
        let key = credential.is_some() || self.headers.iter().any(CallHeader::pays);
        let unnamed = self.model.is_none() && !self.models_named;
        let given = setting(vendor.url_var, self.env);
        let address = match &given {
            Some(url) => vendor.base_from_variable(url),
            None => vendor.normalise(vendor.base_url),
        };
        let reachable = !address.is_empty();
        let (a, set) = if vendor.needs_key || key {
            ("a", "key")
        } else {
            ("an", "address")
        };
        let refused = self.refused(vendor, &address);
        let lacks_key = refused.as_ref() == Some(&no_key(vendor));
        let configured = reachable && (key || !vendor.needs_key);
        let unnamed = unnamed && refused.is_none();
        let verdict = if !reachable {
            Err(format!("no address: use --base-url or {}", vendor.url_var))
        } else if let Some(why) = refused {
            Err(why)
        } else if unnamed {
            let fix = "--model, BATCHWRIGHT_MODEL or the setting llm.model";
            Err(format!("{a} {set} is set, but no model is named: {fix}"))
        } else {
            let variable = credential.map_or(set, |credential| credential.variable);
            Ok(format!("{variable} set"))
        };
        let stopped = configured && verdict.is_err();
        ProviderStatus {
            model: self.model.map(str::to_owned).filter(|_| configured),
            base_url: reachable.then(|| redacted_url(&address)),
            address: reachable.then_some(Address(address)),
            half_configured: stopped,
            lacks_model: configured && unnamed,
            lacks_key,
            ..status(vendor, verdict)
        }
    }

    /// A local server whose address and model are named: only its slots are unknown.
    fn named(
        &self,
        vendor: &'static Vendor,
        url: &str,
        model: &str,
        headers: &local::Headers,
    ) -> ProviderStatus {
        let address = vendor.normalise(url);
        let refused = self.refused(vendor, &address);
        let verdict = refused.map_or_else(|| Ok("address and model named".to_owned()), Err);
        let server = verdict
            .is_ok()
            .then(|| local::slots(&address, headers))
            .flatten();
        ProviderStatus {
            base_url: Some(redacted_url(&address)),
            address: Some(Address(address)),
            model: Some(model.to_owned()),
            default_concurrency: slots_of(server.as_ref(), vendor),
            servers: server.into_iter().collect(),
            ..status(vendor, verdict)
        }
    }

    fn local(&self, vendor: &'static Vendor, usual: &[&str]) -> ProviderStatus {
        let given = setting(vendor.url_var, self.env);
        if given.is_none() && !self.headers.is_empty() {
            return status(vendor, Err(withheld_headers(vendor)));
        }
        // Whatever listens on a usual port has no claim to it.
        let credential = given.as_ref().and_then(|_| key_from(vendor, self.env));
        let credential = credential.filter(|_| !self.headers.iter().any(CallHeader::pays));
        let key = credential.map(|credential| format!("Bearer {}", credential.key.expose()));
        let key = key.map(|key| ("authorization".into(), key));
        let asked_with = self
            .headers
            .iter()
            .map(CallHeader::sent)
            .chain(key)
            .collect();
        if let (Some(url), Some(model)) = (&given, self.model) {
            return self.named(vendor, url, model, &asked_with);
        }
        let addresses: Vec<String> = match &given {
            Some(url) => vec![vendor.normalise(url)],
            None => usual.iter().map(|url| (*url).to_owned()).collect(),
        };
        let mut trouble = String::new();
        let mut wants_key = None;
        let mut servers = Vec::new();
        for (address, answer) in addresses.iter().zip(local::find(&addresses, &asked_with)) {
            match answer {
                Ok(server) => servers.push(server),
                Err(error) => {
                    wants_key = wants_key.or((error.status() == Some(401)).then_some(address));
                    trouble = error.message().to_owned();
                }
            }
        }
        local::best_first(&mut servers, self.model);
        let Some(first) = servers.first() else {
            let tried = match (&given, wants_key) {
                (Some(url), _) => format!("no usable server at {}: {trouble}", redacted_url(url)),
                (None, Some(url)) => format!(
                    "{url} answers 401 and was sent no key; name it with --base-url or {}, and it is \
                 sent {}",
                    vendor.url_var,
                    vendor.key_vars.join(" or ")
                ),
                (None, None) => format!(
                    "no server answers on this machine's usual ports; set {}",
                    vendor.url_var
                ),
            };
            return ProviderStatus {
                half_configured: given.is_some()
                    || wants_key.is_some_and(|_| key_from(vendor, self.env).is_some()),
                ..status(vendor, Err(tried))
            };
        };
        let mut found = ProviderStatus {
            base_url: Some(first.base_url.clone()),
            address: Some(first.address.clone()),
            model: self
                .model
                .map(str::to_owned)
                .or_else(|| first.models.first().cloned()),
            default_concurrency: slots_of(Some(first), vendor),
            unnamed: given.is_none(),
            ..status(vendor, Ok(first.description()))
        };
        found.servers = servers;
        found
    }
}

fn status(vendor: &'static Vendor, verdict: Result<String, String>) -> ProviderStatus {
    ProviderStatus {
        provider: vendor.name,
        usable: verdict.is_ok(),
        reason: verdict.unwrap_or_else(|why| why),
        model: None,
        base_url: None,
        batch_api: vendor.batches.is_some(),
        embeddings: vendor.embeds.is_some(),
        default_concurrency: vendor.concurrency,
        servers: Vec::new(),
        headers: Vec::new(),
        address: None,
        unnamed: false,
        half_configured: false,
        lacks_model: false,
        lacks_key: false,
    }
}

fn slots_of(server: Option<&LocalServer>, vendor: &Vendor) -> usize {
    let slots = server.and_then(|server| server.slots);
    slots.unwrap_or(vendor.concurrency)
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
