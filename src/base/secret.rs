//! A string that must not be seen: it has no `Display`, no `Serialize`, and a blind `Debug`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A credential, such as an API key.
///
/// ```
/// use batchwright::Secret;
/// let key = Secret::new("sk-very-secret");
/// assert_eq!(format!("{key:?}"), "Secret(***)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The credential itself, for the one place that puts it on the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Replaces every occurrence of the secret in `text`.
    ///
    /// Servers echo credentials in error texts; whatever leaves a client passes through here.
    /// Secrets shorter than 4 bytes are left alone: they would maim ordinary words.
    pub fn redact(&self, text: &str) -> Option<String> {
        (self.0.len() >= 4 && text.contains(&self.0)).then(|| text.replace(&self.0, "***"))
    }

    /// As [`redact`](Self::redact), for a text that may have been cut within the secret: of that,
    /// 4 bytes are recognised.
    pub(crate) fn redact_cut(&self, text: &str) -> Option<String> {
        let cleaned = self.redact(text);
        let shown = cleaned.as_deref().unwrap_or(text);
        let ends = (4..self.0.len()).rev();
        let mut kept = ends.filter_map(|end| shown.strip_suffix(self.0.get(..end)?));
        match kept.next() {
            Some(kept) => Some(format!("{kept}***")),
            None => cleaned,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A URL without its user name and password, fit to be shown.
///
/// ```
/// use batchwright::shown_url;
/// assert_eq!(shown_url("http://me:pw@proxy:3128/x"), "http://***@proxy:3128/x");
/// assert_eq!(shown_url("http://127.0.0.1:8080/v1"), "http://127.0.0.1:8080/v1");
/// ```
pub fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let shown = match rest[..authority_end].rfind('@') {
        Some(at) => format!("***@{}", &rest[at + 1..]),
        None => rest.to_owned(),
    };
    // A query string may carry a key; nothing here needs one to be recognised.
    let shown = match shown.find('?') {
        Some(at) => format!("{}?***", &shown[..at]),
        None => shown,
    };
    if scheme.is_empty() {
        shown
    } else {
        format!("{scheme}://{shown}")
    }
}

/// The password in a URL, and user and password as the header for them has both.
pub(crate) fn secrets_in(url: &str) -> Vec<Secret> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((pair, _)) = authority.rsplit_once('@') else {
        return Vec::new();
    };
    let password = pair.split_once(':').map(|(_, password)| password);
    let both = STANDARD.encode(pair);
    let secrets = password.into_iter().map(Secret::new);
    secrets.chain([Secret::new(both)]).collect()
}

/// A URL that may hold credentials.
#[derive(Clone)]
pub(crate) struct Address(pub String);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_its_credentials_away_in_two_forms() {
        let secrets = secrets_in("http://user:pass-word@host:1/v1");
        let exposed: Vec<&str> = secrets.iter().map(Secret::expose).collect();
        assert_eq!(exposed, ["pass-word", "dXNlcjpwYXNzLXdvcmQ="]);
        assert!(secrets_in("http://host/a@b").is_empty());
        assert!(secrets_in("").is_empty());
    }
}
