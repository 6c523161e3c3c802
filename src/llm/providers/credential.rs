//! What tells a provider who pays, and where the environment holds it.

use crate::base::secret::Secret;

use super::vendor::Vendor;

/// A variable's value; an empty one counts as unset.
pub(super) fn setting(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    env(name).filter(|value| !name.is_empty() && !value.trim().is_empty())
}

/// What tells the provider who pays.
pub(super) struct Credential {
    pub header: &'static str,
    pub key: Secret,
    /// The variable that holds it, or would.
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

/// The credential that the environment holds: a key, else a token.
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

/// That whoever listens on a usual port is sent no headers.
pub(super) fn withheld_headers(vendor: &Vendor) -> String {
    let named = vendor.url_var;
    format!("headers are sent only to an address that {named} or --base-url names")
}

/// That there is none, and what to do about it.
pub(super) fn no_key(vendor: &Vendor) -> String {
    let token = [vendor.token_var];
    let variables = vendor.key_vars.iter().chain(&token);
    let named: Vec<&str> = variables.copied().filter(|name| !name.is_empty()).collect();
    format!("no key: set {}", named.join(" or "))
}
