//! Which providers can be used here, and why the others cannot.

use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::secret::shown_url;
use crate::llm::transport::{HttpRequest, HttpTransport, Transport};

use super::config::{LlmConfig, key_from, known, setting};
use super::vendor::{Dialect, VENDORS, Vendor};

/// Where local servers usually listen: llama.cpp (new and old port), Ollama, LM Studio, vLLM.
const LOCAL_ADDRESSES: [&str; 5] = [
    "http://127.0.0.1:9931/v1",
    "http://127.0.0.1:8080/v1",
    "http://127.0.0.1:11434/v1",
    "http://127.0.0.1:1234/v1",
    "http://127.0.0.1:8000/v1",
];
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);

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
    #[serde(skip)]
    address: Option<Address>,
    #[serde(skip)]
    half_configured: bool,
}

/// A URL that may hold credentials.
#[derive(Clone)]
struct Address(String);

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown_url(&self.0))
    }
}

impl ProviderStatus {
    /// True when it is not usable although something was set for it: a key without a model, an
    /// address without a server.
    pub fn half_configured(&self) -> bool {
        self.half_configured
    }

    /// Settings for this provider as it was found.
    pub fn config(&self) -> LlmConfig {
        let mut config = LlmConfig::new(self.provider);
        if let Some(model) = &self.model {
            config = config.model(model);
        }
        if let Some(address) = &self.address {
            config = config.base_url(&address.0);
        }
        config
    }
}

/// Looks at every provider, in the order in which a run would choose. `model` is the one named by
/// the user; `every_request_names_one` says that none is needed. Local servers are asked for
/// their models, all at once, within a second.
pub fn survey(model: Option<&str>, every_request_names_one: bool) -> Vec<ProviderStatus> {
    survey_with(model, every_request_names_one, &|name| {
        std::env::var(name).ok()
    })
}

/// Looks at one provider, at another address than its own if one is given.
///
/// # Errors
/// When there is no provider of that name.
pub fn inspect(
    provider: &str,
    base_url: Option<&str>,
    model: Option<&str>,
    every_request_names_one: bool,
) -> Result<ProviderStatus, Error> {
    let vendor = known(provider)?;
    Ok(look(
        vendor,
        model,
        every_request_names_one,
        &|name| match base_url {
            Some(url) if name == vendor.url_var => Some(url.to_owned()),
            _ => std::env::var(name).ok(),
        },
    ))
}

pub(crate) fn survey_with(
    model: Option<&str>,
    every_request_names_one: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Vec<ProviderStatus> {
    VENDORS
        .iter()
        .map(|vendor| look(vendor, model, every_request_names_one, env))
        .collect()
}

fn look(
    vendor: &'static Vendor,
    model: Option<&str>,
    every_request_names_one: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> ProviderStatus {
    match vendor.dialect {
        Dialect::Extract => status(
            vendor,
            Ok("always: the first 300 characters of the text, no model".into()),
        ),
        _ if vendor.probed => local(vendor, model, env),
        _ => remote(vendor, model, every_request_names_one, env),
    }
}

fn status(vendor: &'static Vendor, verdict: Result<String, String>) -> ProviderStatus {
    ProviderStatus {
        provider: vendor.name,
        usable: verdict.is_ok(),
        reason: verdict.unwrap_or_else(|why| why),
        model: None,
        base_url: None,
        batch_api: vendor.has_batches,
        embeddings: vendor.embeds.is_some(),
        default_concurrency: vendor.concurrency,
        address: None,
        half_configured: false,
    }
}

fn remote(
    vendor: &'static Vendor,
    model: Option<&str>,
    every_request_names_one: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> ProviderStatus {
    let key = key_from(vendor, env).is_some();
    let unnamed = model.is_none() && !every_request_names_one;
    let given = setting(vendor.url_var, env);
    let address = vendor.normalise(given.as_deref().unwrap_or(vendor.base_url));
    let reachable = !address.is_empty();
    let set = if vendor.needs_key || key {
        "key"
    } else {
        "address"
    };
    let verdict = if !reachable {
        Err(format!("no address: use --base-url or {}", vendor.url_var))
    } else if vendor.needs_key && !key {
        Err(format!("no key: set {}", vendor.key_vars.join(" or ")))
    } else if unnamed {
        let fix = "--model or BATCHWRIGHT_MODEL";
        Err(format!("a {set} is set, but no model is named: {fix}"))
    } else {
        Ok(format!("{set} set"))
    };
    let configured = reachable && (key || !vendor.needs_key);
    ProviderStatus {
        model: model.map(str::to_owned).filter(|_| configured),
        base_url: reachable.then(|| shown_url(&address)),
        address: reachable.then_some(Address(address)),
        half_configured: configured && unnamed,
        ..status(vendor, verdict)
    }
}

fn local(
    vendor: &'static Vendor,
    model: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> ProviderStatus {
    let given = setting(vendor.url_var, env);
    // Who names both needs nothing looked up: not every server lists its models.
    if let (Some(url), Some(model)) = (&given, model) {
        let address = vendor.normalise(url);
        return ProviderStatus {
            base_url: Some(shown_url(&address)),
            address: Some(Address(address)),
            model: Some(model.to_owned()),
            ..status(vendor, Ok("address and model named".to_owned()))
        };
    }
    let addresses: Vec<String> = match &given {
        Some(url) => vec![vendor.normalise(url)],
        None => LOCAL_ADDRESSES.iter().map(|&a| a.to_owned()).collect(),
    };
    let key = key_from(vendor, env).map(|(_, key)| key);
    let found: Vec<_> = thread::scope(|scope| {
        let probes: Vec<_> = addresses
            .iter()
            .map(|address| {
                let key = key.as_ref().map(|k| k.expose().to_owned());
                scope.spawn(move || models_at(address, key))
            })
            .collect();
        probes.into_iter().map(|probe| probe.join()).collect()
    });
    let mut trouble = String::new();
    for (address, answer) in addresses.iter().zip(found) {
        let models = match answer {
            Ok(Ok(models)) => models,
            Ok(Err(error)) => {
                trouble = error.message().to_owned();
                continue;
            }
            Err(_) => continue,
        };
        let chosen = model.map(str::to_owned).or_else(|| models.first().cloned());
        return ProviderStatus {
            base_url: Some(shown_url(address)),
            address: Some(Address(address.clone())),
            model: chosen,
            ..status(
                vendor,
                Ok(format!("a server answers, serving {}", shown_list(&models))),
            )
        };
    }
    let half_configured = given.is_some();
    let tried = match given {
        Some(url) => format!("no usable server at {}: {trouble}", shown_url(&url)),
        None => format!(
            "no server answers on this machine's usual ports; set {}",
            vendor.url_var
        ),
    };
    ProviderStatus {
        half_configured,
        ..status(vendor, Err(tried))
    }
}

fn shown_list(models: &[String]) -> String {
    match models {
        [] => "no model".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn models_at(address: &str, key: Option<String>) -> Result<Vec<String>, Error> {
    if !address.starts_with("http://") && !address.starts_with("https://") {
        let why = "the address must start with http:// or https://";
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let headers: Vec<_> = key
        .into_iter()
        .map(|key| ("authorization", format!("Bearer {key}")))
        .collect();
    let reply = HttpTransport::new(address, 1, PROBE_TIMEOUT).send(
        &HttpRequest {
            url: &format!("{address}/models"),
            headers: &headers,
            body: None,
            timeout: PROBE_TIMEOUT,
        },
        &Context::new().with_timeout(PROBE_TIMEOUT),
    )?;
    parse_models(reply.status, &reply.body)
}

fn parse_models(status: u16, body: &[u8]) -> Result<Vec<String>, Error> {
    let no_list = || {
        let hint = match status {
            401 | 403 => "; set LOCAL_LLM_API_KEY",
            _ => "",
        };
        Error::new(
            ErrorKind::Malformed,
            format!("GET /models answered {status}, which is no list of models{hint}"),
        )
    };
    // A server that is still loading its model is there all the same.
    if status == 503 {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| no_list())?;
    let models = value
        .get("data")
        .and_then(Value::as_array)
        .ok_or_else(no_list)?;
    Ok(models
        .iter()
        .filter_map(|model| Some(model.get("id")?.as_str()?.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(vars: &[(&str, &str)], model: Option<&str>) -> Vec<ProviderStatus> {
        let vars: std::collections::HashMap<_, _> = vars.iter().copied().collect();
        // Port 9 (discard) answers nobody: the probe stays off whatever runs on this machine.
        let mut vars = vars;
        vars.entry("LOCAL_LLM_BASE_URL")
            .or_insert("http://127.0.0.1:9");
        survey_with(model, false, &|name| {
            vars.get(name).map(|v| (*v).to_owned())
        })
    }

    fn first_usable(list: &[ProviderStatus]) -> &str {
        list.iter().find(|s| s.usable).unwrap().provider
    }

    #[test]
    fn without_any_key_the_extract_is_what_is_left() {
        let list = found(&[], None);
        assert_eq!(first_usable(&list), "extract");
        assert!(
            list.iter()
                .filter(|s| !s.usable)
                .all(|s| !s.reason.is_empty())
        );
    }

    #[test]
    fn a_stray_key_without_a_model_spends_nothing() {
        let list = found(&[("OPENAI_API_KEY", "sk-x")], None);
        assert_eq!(first_usable(&list), "extract");
        let openai = list.iter().find(|s| s.provider == "openai").unwrap();
        assert!(openai.reason.contains("no model"), "{}", openai.reason);
    }

    #[test]
    fn key_and_model_make_the_first_of_the_list() {
        let keys = [("OPENAI_API_KEY", "sk-x"), ("XAI_API_KEY", "sk-y")];
        assert_eq!(first_usable(&found(&keys, Some("m"))), "openai");
        assert_eq!(first_usable(&found(&keys[1..], Some("m"))), "xai");
    }

    #[test]
    fn a_list_of_models_is_read_and_anything_else_is_no_server() {
        let list = br#"{"object":"list","data":[{"id":"a"},{"id":"b"},{"no":"id"}]}"#;
        assert_eq!(parse_models(200, list).unwrap(), ["a", "b"]);
        assert!(parse_models(200, b"<html>").is_err());
        assert!(parse_models(200, b"{}").is_err());
        assert!(parse_models(503, b"").unwrap().is_empty());
    }
}
