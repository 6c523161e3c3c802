//! The address of a provider's API.

use crate::base::secret::redacted_url;
use crate::base::{Error, ErrorKind};
use crate::llm::transport::is_callable;

use super::credential::setting;
use super::vendor::Vendor;

/// The address of a provider's API.
pub(super) struct ApiAddress {
    pub base_url: String,
    /// The query of every address, such as `api-version=2024-10-21`; it may be empty.
    pub query: String,
    /// Whether the model is a part of the address of its calls.
    pub by_deployment: bool,
}

impl ApiAddress {
    /// The API at this base URL.
    ///
    /// # Errors
    /// If there is no base URL, or calls cannot use it.
    pub fn of(
        vendor: &Vendor,
        base_url: String,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let address = if vendor.azure {
            Self::of_azure(base_url, setting("OPENAI_API_VERSION", env))
        } else {
            Self::plain(base_url)
        };
        let checked = address.check(vendor);
        checked.map_err(|why| Error::new(ErrorKind::Invalid, format!("{}: {why}", vendor.name)))?;
        Ok(address)
    }

    fn plain(base_url: String) -> Self {
        Self {
            base_url,
            query: String::new(),
            by_deployment: false,
        }
    }

    /// Azure has two APIs. The older one needs a version, as in OpenAI's SDK for it, and its address ends with
    /// `/openai`. That of the newer one ends with `/openai/v1`.
    fn of_azure(base_url: String, version: Option<String>) -> Self {
        let version = version.map(|version| version.trim().to_owned());
        let dated = version
            .as_ref()
            .filter(|version| !matches!(version.as_str(), "preview" | "latest" | "v1"));
        let newer = base_url.ends_with("/v1");
        match dated {
            _ if base_url.is_empty() => Self::plain(base_url),
            Some(version) if !newer => Self {
                base_url,
                query: format!("api-version={version}"),
                by_deployment: true,
            },
            _ if newer => Self::plain(base_url),
            _ => Self::plain(format!("{base_url}/v1")),
        }
    }

    fn check(&self, vendor: &Vendor) -> Result<(), String> {
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-.=".contains(&byte);
        if self.query.bytes().any(odd) {
            return Err("OPENAI_API_VERSION is a version such as 2024-10-21".to_owned());
        }
        let url = &self.base_url;
        if url.is_empty() {
            return Err(format!("no address: set {}", vendor.url_var));
        }
        let shown = redacted_url(url);
        let http = url.starts_with("http://") || url.starts_with("https://");
        if !http || url.contains(['?', '#']) {
            return Err(format!(
                "the base URL must start with http:// or https:// and have no query, found `{shown}`"
            ));
        }
        if !is_callable(url) {
            return Err(format!(
                "the base URL names no host and port to call: `{shown}`"
            ));
        }
        Ok(())
    }
}
