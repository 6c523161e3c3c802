//! Credentials, and the environment variables and files that contain them.

use std::path::{Path, PathBuf};

use crate::base::{Error, Secret};

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
    /// The file that it was read from.
    pub file: Option<PathBuf>,
}

impl Credential {
    pub fn given(vendor: &Vendor, key: &Secret) -> Self {
        Self {
            header: vendor.key_header,
            key: key.clone(),
            variable: vendor.key_vars.first().copied().unwrap_or("the key"),
            file: None,
        }
    }

    /// Where it was found.
    pub fn found(&self) -> String {
        match &self.file {
            None => format!("{} set", self.variable),
            Some(file) => format!("{} in {}", self.variable, file.display()),
        }
    }

    /// What to check if the provider rejects it.
    pub fn place(&self) -> String {
        match &self.file {
            None => self.variable.to_owned(),
            Some(file) => file.display().to_string(),
        }
    }
}

/// The folder with the credentials that systemd gives a service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The credential in the environment, a key or else a token: in a variable, in the file that `<VARIABLE>_FILE` names, or
/// in a file of systemd's folder with the name of the variable, also in lower case.
///
/// # Errors
/// If there is such a file, and it contains no credential that can be read.
pub(super) fn key_from(
    vendor: &Vendor,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Credential>, Error> {
    let keys = vendor
        .key_vars
        .iter()
        .map(|name| (vendor.key_header, *name));
    let all = keys.chain([("authorization", vendor.token_var)]);
    let all: Vec<_> = all.filter(|(_, variable)| !variable.is_empty()).collect();
    for &(header, variable) in &all {
        if let Some(key) = setting(variable, env) {
            return Ok(Some(Credential {
                header,
                key: Secret::new(key.trim()),
                variable,
                file: None,
            }));
        }
    }
    let named = all.iter().filter_map(|&(header, variable)| {
        let file = setting(&format!("{variable}_FILE"), env)?;
        Some((header, variable, PathBuf::from(file)))
    });
    let folder = setting(CREDENTIALS, env);
    let given = all.iter().filter_map(|&(header, variable)| {
        Some((header, variable, given_file(folder.as_deref()?, variable)?))
    });
    let Some((header, variable, file)) = named.chain(given).next() else {
        return Ok(None);
    };
    Ok(Some(Credential {
        header,
        key: Secret::from_file(&file)?,
        variable,
        file: Some(file),
    }))
}

/// The file of this folder of credentials that belongs to a variable.
fn given_file(folder: &str, variable: &str) -> Option<PathBuf> {
    let names = [variable.to_owned(), variable.to_lowercase()];
    let mut files = names.iter().map(|name| Path::new(folder).join(name));
    files.find(|file| file.exists())
}

/// The text that identifies the account of a credential: the credential itself. A token of Microsoft Entra at Azure changes
/// every hour, but batches last for days; they belong to the Azure resource, which is the address.
pub(super) fn account_of<'k>(vendor: &Vendor, header: &str, key: &'k str) -> &'k str {
    if vendor.azure && header == "authorization" {
        "token"
    } else {
        key
    }
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
