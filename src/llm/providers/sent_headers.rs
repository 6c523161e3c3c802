//! The headers of calls, and the account that they belong to.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::base::{Error, ErrorKind};
use crate::llm::hash::hex;

use super::credential::{Credential, account_of, setting};
use super::headers::CallHeader;
use super::vendor::Vendor;

/// The headers of every call.
pub(super) struct SentHeaders {
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The values of the headers that select an account.
    account: String,
}

impl SentHeaders {
    /// The headers of a vendor, with this credential and the user's `own` headers.
    ///
    /// # Errors
    /// If a variable has characters that a header cannot contain.
    pub fn of(
        vendor: &Vendor,
        credential: Option<&Credential>,
        own: &[CallHeader],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let mut sent = Self {
            headers: vec![("content-type".into(), "application/json".to_owned())],
            account: String::new(),
        };
        for header in own {
            if let Some(key) = header.credential() {
                sent.account += account_of(vendor, header.name(), key);
            }
        }
        if let Some(Credential { header, key, .. }) = credential {
            let value = match *header {
                "authorization" => format!("Bearer {}", key.expose()),
                _ => key.expose().to_owned(),
            };
            sent.headers.push(((*header).into(), value));
            sent.account += account_of(vendor, header, key.expose());
        }
        let own_value = |name: &str| own.iter().find(|header| header.name() == name);
        if let Some((header, version)) = vendor.version
            && own_value(header).is_none()
        {
            sent.headers.push((header.into(), version.to_owned()));
        }
        for (header, variable) in &vendor.identity {
            // One key may reach several projects, each with its own batches and limits.
            let of_account = |value: &str| format!("\n{header}: {value}");
            if let Some(own) = own_value(header) {
                sent.account += &of_account(own.value());
            } else if let Some(value) = setting(variable, env) {
                let value = plain(variable, value.trim())?;
                sent.account += &of_account(value);
                sent.headers.push(((*header).into(), value.to_owned()));
            }
        }
        sent.headers.extend(own.iter().map(CallHeader::sent));
        Ok(sent)
    }

    /// A name of the account; it is empty without a credential.
    pub fn account(&self) -> String {
        if self.account.is_empty() {
            String::new()
        } else {
            hex(&Sha256::digest(&self.account)[..8])
        }
    }
}

/// Checks that a value for a header is visible ASCII. The error does not show the value.
pub(super) fn plain<'v>(what: &str, value: &'v str) -> Result<&'v str, Error> {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(value)
    } else {
        Err(Error::new(
            ErrorKind::Auth,
            format!(
                "{what} contains a blank, a line break or another character that no header takes"
            ),
        ))
    }
}
