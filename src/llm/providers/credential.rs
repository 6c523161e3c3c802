//! Credentials, and the environment variables that contain them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::base::Secret;

use super::vendor::Vendor;

/// The value of a variable. An empty variable counts as unset.
pub(super) fn setting(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    env(name).filter(|value| !name.is_empty() && !value.trim().is_empty())
}

/// A credential for the calls of a provider.
pub(super) struct Credential {
    pub header: &'static str,
    pub key: Secret,
    /// The variable that contains it, or could.
    pub variable: &'static str,
}

impl Credential {
    pub fn given(vendor: &Vendor, key: &Secret) -> Self {
        Self {
            header: vendor.key_header,
            key: key.clone(),
            variable: vendor.key_vars.first().copied().unwrap_or("the key"),
        }
    }
}

/// The credential in the environment: a key, or else a token.
pub(super) fn key_from(
    vendor: &Vendor,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<Credential> {
    let keys = vendor
        .key_vars
        .iter()
        .map(|name| (vendor.key_header, *name));
    let mut all = keys.chain([("authorization", vendor.token_var)]);
    all.find_map(|(header, variable)| {
        let key = Secret::new(setting(variable, env)?.trim());
        Some(Credential {
            header,
            key,
            variable,
        })
    })
}

/// The text that identifies the account of a credential: the credential itself, or the owner of a token of Microsoft
/// Entra at Azure. Such a token changes every hour, but batches last for days. They belong to the Azure resource, which
/// is the address.
pub(super) fn account_of<'k>(vendor: &Vendor, header: &str, key: &'k str) -> Cow<'k, str> {
    if vendor.azure && header == "authorization" {
        principal(key).map_or(Cow::Borrowed(key), Cow::Owned)
    } else {
        Cow::Borrowed(key)
    }
}

/// The directory, the user or service, and the application of a token.
fn principal(token: &str) -> Option<String> {
    let mut parts = token.split('.').skip(1);
    let (claims, _signature) = (parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let of = |names: [&str; 2]| {
        let mut claims = names
            .into_iter()
            .filter_map(|name| claims.get(name)?.as_str());
        claims.find(|claim| !claim.is_empty())
    };
    let (tenant, whose) = (of(["tid", "iss"])?, of(["oid", "sub"])?);
    let application = of(["appid", "azp"]).unwrap_or_default();
    Some(format!("{tenant}\n{whose}\n{application}"))
}

/// The reason why headers are not sent to a server that was found on a usual port.
pub(super) fn withheld_headers(vendor: &Vendor) -> String {
    let named = vendor.url_var;
    format!("headers are sent only to an address that {named} or --base-url names")
}

/// The message for a missing key, with the variables to set.
pub(super) fn no_key(vendor: &Vendor) -> String {
    let token = [vendor.token_var];
    let variables = vendor.key_vars.iter().chain(&token);
    let named: Vec<&str> = variables.copied().filter(|name| !name.is_empty()).collect();
    format!("no key: set {}", named.join(" or "))
}
