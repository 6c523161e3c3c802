//! The parts that all clients of a provider share: address, credential, headers, model, and secrets to remove.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::base::json_text::hex;
use crate::base::secret::{redacted_url, secrets_in};
use crate::base::{Error, ErrorKind, Secret};
use crate::llm::params::RequestTask;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpReply, is_callable};

use super::headers::CallHeader;
use super::vendor::Vendor;

/// Reads an environment variable.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The value of a variable. An empty variable counts as unset.
pub(super) fn setting(name: &str, env: Env<'_>) -> Option<String> {
    env(name).filter(|value| !name.is_empty() && !value.trim().is_empty())
}

/// The address and the credential of a client.
#[derive(Default)]
pub(super) struct Access {
    pub base_url: String,
    /// The query of every address, such as `api-version=2024-10-21`; it may be empty.
    query: String,
    /// Whether the model is a part of the address of its calls.
    pub by_deployment: bool,
    /// The headers of every call.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The key, and those in the address and in the user's headers. They are removed from errors and answers.
    keys: Vec<Secret>,
    /// The values of the user's headers. They are removed from errors.
    values: Vec<Secret>,
    /// Advice if the provider rejects the credential.
    key_hint: String,
    /// Whether no credential is sent, although there are variables for one.
    has_no_key: bool,
    /// A name of the account; it is empty without a credential.
    pub account: String,
}

impl Access {
    /// The access to the API at this base URL, with this credential and the user's `own` headers.
    ///
    /// # Errors
    /// If there is no base URL, if calls cannot use it, or if a variable has characters that a header cannot contain.
    pub fn new(
        vendor: &Vendor,
        base_url: String,
        credential: Option<Credential>,
        own: &[CallHeader],
        key_hint: String,
        env: Env<'_>,
    ) -> Result<Self, Error> {
        let mut access = Self {
            base_url,
            headers: vec![("content-type".into(), "application/json".to_owned())],
            key_hint,
            ..Self::default()
        };
        if vendor.azure {
            access.choose_azures_api(setting("OPENAI_API_VERSION", env));
        }
        let checked = access.check_address(vendor);
        checked.map_err(|why| Error::new(ErrorKind::Invalid, format!("{}: {why}", vendor.name)))?;
        access.add_headers(vendor, credential.as_ref(), own, env)?;
        let pays = credential.is_some() || own.iter().any(CallHeader::pays);
        access.has_no_key = !pays && !vendor.key_vars.is_empty();
        let key = credential.map(|credential| credential.key);
        let keys = key.into_iter().chain(secrets_in(&access.base_url));
        access.keys = keys.chain(own.iter().flat_map(CallHeader::keys)).collect();
        access.values = own.iter().filter_map(CallHeader::secret).collect();
        Ok(access)
    }

    /// Azure has two APIs. The older one needs a version, as in OpenAI's SDK for it, and its address ends with
    /// `/openai`. That of the newer one ends with `/openai/v1`.
    fn choose_azures_api(&mut self, version: Option<String>) {
        if self.base_url.is_empty() || self.base_url.ends_with("/v1") {
            return;
        }
        match version.as_deref().map(str::trim) {
            None | Some("preview" | "latest" | "v1") => self.base_url += "/v1",
            Some(version) => {
                self.query = format!("api-version={version}");
                self.by_deployment = true;
            }
        }
    }

    fn check_address(&self, vendor: &Vendor) -> Result<(), String> {
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-.=".contains(&byte);
        if self.query.bytes().any(odd) {
            return Err("OPENAI_API_VERSION is a version such as 2024-10-21".to_owned());
        }
        let url = &self.base_url;
        if url.is_empty() {
            return Err(format!("no address: set {}", vendor.url_var));
        }
        if url.contains(['?', '#']) || !is_callable(url) {
            return Err(format!(
                "the base URL is http:// or https://, a host that can be called, and no query, unlike `{}`",
                redacted_url(url)
            ));
        }
        Ok(())
    }

    /// Adds the headers of every call, and names the account that they select.
    fn add_headers(
        &mut self,
        vendor: &Vendor,
        credential: Option<&Credential>,
        own: &[CallHeader],
        env: Env<'_>,
    ) -> Result<(), Error> {
        let mut account = String::new();
        for header in own {
            if let Some(key) = header.credential() {
                account += account_of(vendor, header.name(), key);
            }
        }
        if let Some(Credential { header, key, .. }) = credential {
            let key = key.expose();
            let value = match *header {
                "authorization" => format!("Bearer {key}"),
                _ => key.to_owned(),
            };
            self.headers.push(((*header).into(), value));
            account += account_of(vendor, header, key);
        }
        let own_value = |name: &str| own.iter().find(|header| header.name() == name);
        if let Some((header, version)) = vendor.version
            && own_value(header).is_none()
        {
            self.headers.push((header.into(), version.to_owned()));
        }
        for (header, variable) in &vendor.identity {
            // One key may reach several projects, each with its own batches and limits.
            if let Some(own) = own_value(header) {
                account += &format!("\n{header}: {}", own.value());
            } else if let Some(value) = setting(variable, env) {
                let value = plain(variable, value.trim())?;
                account += &format!("\n{header}: {value}");
                self.headers.push(((*header).into(), value.to_owned()));
            }
        }
        self.headers.extend(own.iter().map(CallHeader::sent));
        if !account.is_empty() {
            self.account = hex(&Sha256::digest(&account)[..8]);
        }
        Ok(())
    }

    /// The URL of a path below the base URL.
    pub fn url(&self, path: &str) -> String {
        let separator = match &*self.query {
            "" => "",
            _ if path.contains('?') => "&",
            _ => "?",
        };
        format!("{}{path}{separator}{}", self.base_url, self.query)
    }

    /// The URL for calls of a model.
    pub fn call_url(&self, path: &str, model: &str) -> String {
        if self.by_deployment {
            self.url(&format!("/deployments/{}{path}", escaped(model)))
        } else {
            self.url(path)
        }
    }

    /// Where a reply redirects to, with the base URL to set if that is at the same host. No call follows it: a POST would
    /// become a GET, and another host would get the key.
    pub fn redirect(&self, vendor: &Vendor, reply: &HttpReply) -> Option<String> {
        let location = reply.headers.get("location")?;
        let mut there = location.split(['?', '#']).next()?.to_owned();
        let here = origin(&self.base_url);
        if there.starts_with('/') {
            there.insert_str(0, here);
        }
        let host = |origin: &str| authority(origin).split(':').next().map(str::to_owned);
        let (base, there) = (vendor.normalise(&there), redacted_url(&there));
        let advice = if host(here) != host(origin(&there)) {
            "is the base URL right?".to_owned()
        } else if base == self.base_url {
            "the server, or a proxy before it, wants a slash at the end, which no call of this API has".to_owned()
        } else {
            format!("set the base URL to {base}")
        };
        let why = format!(
            "{} answered {}: a redirect to {there}; {advice}",
            vendor.name, reply.status
        );
        (300..400).contains(&reply.status).then_some(why)
    }

    /// The error with advice about a rejected credential or an exhausted account, and without secrets.
    pub fn explained(&self, error: Error) -> Error {
        // Some servers know no better word for a missing key.
        let may_lack_key = self.has_no_key
            && matches!(error.status(), Some(400 | 500))
            && (error.is_unclassified() || error.kind() == ErrorKind::Transient);
        let advice = match error.kind() {
            ErrorKind::Auth => &self.key_hint,
            ErrorKind::Quota if !error.is_model_only() => ACCOUNT_ADVICE,
            _ if may_lack_key => &self.key_hint,
            _ => return self.redacted(error),
        };
        let said = error.message().trim_end_matches('.');
        let message = format!("{said}; {advice}");
        self.redacted(error.reworded(message))
    }

    fn redacted(&self, error: Error) -> Error {
        let mut secrets: Vec<_> = self.values.iter().chain(&self.keys).collect();
        // One may be a part of another, whose rest would be left.
        secrets.sort_by_key(|secret| Reverse(secret.expose().len()));
        let secrets = secrets.into_iter();
        secrets.fold(error, |error, secret| error.redacted(secret))
    }

    /// An answer without keys. Some servers repeat the credential. This is done after decoding, because an escape such
    /// as `\/` hides a key in the bytes.
    pub fn remove_keys(&self, response: &mut Response) {
        self.real_keys().for_each(|key| response.redact(key));
    }

    /// A reply without keys.
    pub fn cleaned(&self, mut reply: RawJson) -> RawJson {
        self.real_keys()
            .for_each(|key| reply.without(&|text| key.redact(text)));
        reply
    }

    fn real_keys(&self) -> impl Iterator<Item = &Secret> {
        let keys = self.keys.iter();
        keys.filter(|key| key.expose().len() >= REAL_KEY)
    }
}

/// Advice for an account that has reached a limit.
const ACCOUNT_ADVICE: &str =
    "the prompts are valid: the account needs credit, a higher limit or the provider's support";

/// Scheme, host and port of a URL.
pub(super) fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..host + end])
}

/// An origin without its scheme.
pub(super) fn authority(origin: &str) -> &str {
    origin.split_once("://").map_or(origin, |(_, rest)| rest)
}

/// All characters except letters, digits, and these.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A text, escaped for a path or a query.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, SPECIAL).to_string()
}

/// The choice of the model of a request.
pub(super) struct ModelChoice {
    /// The configured model.
    pub model: Option<String>,
    /// Whether it is for all requests, not only for those without a model.
    pub only: bool,
}

impl ModelChoice {
    pub fn of_request<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        // The configured model is for answers, not for speech.
        let is_asked = !self.only || request.task == RequestTask::Speech;
        let own = request.model.as_deref().filter(|_| is_asked);
        own.or(self.model.as_deref())
    }
}

/// The minimum length of a key that is removed from answers. Keys of providers are longer. The key of a local server
/// may be any word, which must stay in answers.
const REAL_KEY: usize = 16;

/// A credential for the calls of a provider.
pub(super) struct Credential {
    header: &'static str,
    pub key: Secret,
    /// The variable that contains it, or could.
    pub variable: &'static str,
    /// What to check if the provider rejects it: the variable, or the file that it was read from.
    pub place: String,
}

impl Credential {
    pub fn given(vendor: &Vendor, key: &Secret) -> Self {
        let variable = vendor.key_vars.first().copied().unwrap_or("the key");
        Self {
            header: vendor.key_header,
            key: key.clone(),
            variable,
            place: variable.to_owned(),
        }
    }

    /// Where it was found.
    pub fn found(&self) -> String {
        if self.place == self.variable {
            format!("{} set", self.variable)
        } else {
            format!("{} in {}", self.variable, self.place)
        }
    }
}

/// The credential in the environment, a key or else a token: in a variable, in the file that `<VARIABLE>_FILE` names, or
/// in a file of systemd's folder with the name of the variable, also in lower case.
///
/// # Errors
/// If there is such a file, and it contains no credential that can be read.
pub(super) fn key_from(vendor: &Vendor, env: Env<'_>) -> Result<Option<Credential>, Error> {
    type Found = Option<Result<(String, Secret), Error>>;
    let keys = vendor.key_vars.iter();
    let keys = keys.map(|name| (vendor.key_header, *name));
    let all = keys.chain([("authorization", vendor.token_var)]);
    let all: Vec<_> = all.filter(|(_, variable)| !variable.is_empty()).collect();
    let folder = setting("CREDENTIALS_DIRECTORY", env);
    let read = |file: &Path| Ok((file.display().to_string(), Secret::from_file(file)?));
    let places: [&dyn Fn(&str) -> Found; 3] = [
        &|variable| {
            let key = setting(variable, env)?;
            Some(Ok((variable.to_owned(), Secret::new(key))))
        },
        &|variable| Some(read(setting(&format!("{variable}_FILE"), env)?.as_ref())),
        &|variable| {
            let folder = Path::new(folder.as_deref()?);
            let mut names = [variable.to_owned(), variable.to_lowercase()].into_iter();
            let file = names.find_map(|name| Some(folder.join(name)).filter(|file| file.exists()));
            file.map(|file| read(&file))
        },
    ];
    let pairs = places
        .iter()
        .flat_map(|place| all.iter().map(move |one| (place, *one)));
    let mut found = pairs.filter_map(|(place, (header, variable))| {
        Some(place(variable)?.map(|(place, key)| Credential {
            header,
            key: tidied(&place, key.expose()),
            variable,
            place,
        }))
    });
    found.next().transpose()
}

/// A key without what env files have around it: `export NAME=` before it, and quotation marks. This is said once for
/// each place.
fn tidied(place: &str, text: &str) -> Secret {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let text = text.trim();
    let is_name =
        |name: &str| name.trim_end().ends_with("_KEY") || name.trim_end().ends_with("_TOKEN");
    let assigned = text.split_once('=').filter(|(name, _)| is_name(name));
    let key = assigned.map_or(text, |(_, key)| key.trim());
    let key = key.trim_matches(['"', '\'']).trim();
    if key.len() < text.len() && TOLD.lock().insert(place.to_owned()) {
        log::warn!("{place} has quotation marks or a name around its key: only the key is used");
    }
    Secret::new(key)
}

/// The text that identifies the account of a credential: the credential itself. A token of Microsoft Entra at Azure changes
/// every hour, but batches last for days; they belong to the Azure resource, which is the address.
fn account_of<'k>(vendor: &Vendor, header: &str, key: &'k str) -> &'k str {
    if vendor.azure && header == "authorization" {
        "token"
    } else {
        key
    }
}

/// Checks that a value for a header is visible ASCII. The error does not show the value.
pub(super) fn plain<'v>(what: &str, value: &'v str) -> Result<&'v str, Error> {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(value);
    }
    let why =
        format!("{what} contains a blank, a line break or another character that no header takes");
    Err(Error::new(ErrorKind::Auth, why))
}
