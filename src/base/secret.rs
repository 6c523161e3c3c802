//! A secret string: no `Display`, no `Serialize`, and a `Debug` that hides it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A credential, such as an API key.
///
/// ```
/// use batchwright::Secret;
/// let key = Secret::new("sk-very-secret");
/// assert_eq!(format!("{key:?}"), "Secret(***)");
/// ```
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
#[debug("Secret(***)")]
pub struct Secret {
    value: String,
    /// Other forms in which servers repeat it: escaped as in JSON, with and without `\\/`, and as in a URL; and the part of
    /// it that appears unchanged in any base64 text that contains it, whatever surrounds it.
    coded: Vec<String>,
}

/// Shorter secrets are not masked, because they occur in ordinary words.
const SHORTEST: usize = 4;
/// Length of a beginning of a secret that is masked too: more than what keys of a kind begin with, such as `sk-proj-`.
const BEGINNING: usize = 12;
/// A base64 form of this length is not an ordinary word.
const SHORTEST_FORM: usize = 8;

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        let value = value.into();
        let mut coded = base64_forms(value.as_bytes());
        let json = value.replace('\\', "\\\\").replace('"', "\\\"");
        let percent = utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string();
        let percent = percent
            .replace("%2D", "-")
            .replace("%5F", "_")
            .replace("%2E", ".");
        // .NET escapes the plus sign.
        let plus = json.replace('+', "\\u002B");
        coded.extend([json.replace('/', "\\/"), plus, json, percent]);
        coded.retain(|form| *form != value);
        Self { value, coded }
    }

    /// The credential itself, for the code that sends it.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Masks every occurrence of the secret in `text`: as it is, in base64, and escaped as in JSON or in a URL.
    ///
    /// Servers echo credentials in error texts, so every text that leaves a client passes through here. Secrets
    /// shorter than 4 bytes are not masked, because they occur in ordinary words.
    pub fn redact(&self, text: &str) -> Option<String> {
        let mut cleaned = Cow::Borrowed(text);
        for form in self.forms() {
            if cleaned.contains(form) {
                cleaned = Cow::Owned(cleaned.replace(form, "***"));
            }
        }
        if let Some(shown) = self.without_beginnings(&cleaned) {
            cleaned = Cow::Owned(shown);
        }
        match cleaned {
            Cow::Owned(cleaned) => Some(cleaned),
            Cow::Borrowed(_) => None,
        }
    }

    /// The text without long beginnings of the secret, which some servers show instead of the whole.
    fn without_beginnings(&self, text: &str) -> Option<String> {
        let long = self.value.get(..BEGINNING)?;
        let (mut shown, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(long) {
            let (before, echo) = rest.split_at(at);
            let same = echo.chars().zip(self.value.chars());
            let same = same.take_while(|(a, b)| a == b);
            let len: usize = same.map(|(c, _)| c.len_utf8()).sum();
            shown += before;
            shown += "***";
            rest = &echo[len..];
        }
        (rest.len() < text.len()).then(|| shown + rest)
    }

    /// As [`redact`](Self::redact), for a text that may be cut within the secret; a beginning of 4 bytes is
    /// recognised.
    pub(crate) fn redact_cut(&self, text: &str) -> Option<String> {
        let cleaned = self.redact(text);
        let shown = cleaned.as_deref().unwrap_or(text);
        let mut cut = self.forms().filter_map(|form| {
            let least = if *form == self.value {
                SHORTEST
            } else {
                SHORTEST_FORM
            };
            let mut ends = (least..form.len()).rev();
            ends.find_map(|end| shown.strip_suffix(form.get(..end)?))
        });
        match cut.next() {
            Some(rest) => Some(format!("{rest}***")),
            None => cleaned,
        }
    }

    fn forms(&self) -> impl Iterator<Item = &String> {
        let is_long = self.value.len() >= SHORTEST;
        let forms = [&self.value].into_iter().chain(&self.coded);
        forms.filter(move |_| is_long)
    }

    /// As [`redact`](Self::redact), for bytes that are not text.
    pub(crate) fn redact_bytes(&self, bytes: &mut Vec<u8>) {
        // Each byte becomes a character up to U+00FF, so ASCII stays the same.
        let text: String = bytes.iter().copied().map(char::from).collect();
        if let Some(cleaned) = self.redact(&text) {
            *bytes = cleaned.chars().map(|c| c as u8).collect();
        }
    }
}

/// The base64 characters of a value after zero, one or two other bytes, without the characters at both ends that
/// depend on neighbours; in both alphabets.
fn base64_forms(value: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode([&vec![0; before][..], value].concat());
        let (start, end) = ((before * 8).div_ceil(6), (before + value.len()) * 8 / 6);
        if let Some(form) = text.get(start..end).filter(|f| f.len() >= SHORTEST_FORM) {
            forms.push(form.replace('+', "-").replace('/', "_"));
            forms.push(form.to_owned());
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

/// A URL without its user name and password, for display.
///
/// ```
/// use batchwright::provider::redacted_url;
///
/// assert_eq!(redacted_url("http://me:pw@proxy:3128/x"), "http://***@proxy:3128/x");
/// assert_eq!(redacted_url("http://127.0.0.1:8080/v1"), "http://127.0.0.1:8080/v1");
/// ```
pub fn redacted_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let shown = match rest[..authority_end].rfind('@') {
        Some(at) => format!("***@{}", &rest[at + 1..]),
        None => rest.to_owned(),
    };
    // A query string may contain a key, and is not needed to recognise the URL.
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

/// The password in a URL, and user and password as encoded in the header.
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-key+of/nobody=0123456789";

    #[test]
    fn a_key_is_recognised_as_servers_repeat_it() {
        let secret = Secret::new(KEY);
        let percent = "sk-key%2Bof%2Fnobody%3D0123456789";
        let json = KEY.replace('/', "\\/");
        for form in [KEY, percent, &json] {
            let echo = format!("ä 100% {form} \\n%zz {form}");
            let cleaned = secret.redact(&echo).unwrap();
            assert_eq!(cleaned, "ä 100% *** \\n%zz ***", "{form}");
        }
        for before in ["", "a", "ab", "Bearer ", "user:"] {
            for after in ["", "z", "zz"] {
                let text = format!("{before}{KEY}{after}");
                for engine in [&STANDARD, &base64::engine::general_purpose::URL_SAFE] {
                    let echo = format!("got {} from you", engine.encode(&text));
                    let cleaned = secret.redact(&echo).unwrap_or_else(|| panic!("{echo}"));
                    // The rest of it are the neighbouring words, and at most a character or two of the secret.
                    let most = 4 + (before.len() + after.len()) * 4 / 3 + 4;
                    assert!(
                        cleaned.len() <= "got *** from you".len() + most,
                        "{cleaned}"
                    );
                }
            }
        }
        for (echo, cleaned) in [
            (
                format!("{}…, {}xyz", &KEY[..20], &KEY[..12]),
                "***…, ***xyz",
            ),
            (format!("{}{KEY}", &KEY[..14]), "******"),
            (format!("a {}", &KEY[..BEGINNING]), "a ***"),
        ] {
            assert_eq!(secret.redact(&echo).as_deref(), Some(cleaned), "{echo}");
        }
        assert_eq!(secret.redact(&KEY[..BEGINNING - 1]), None);
        let harmless = "100 % of a \\u00e4 and %41 are \"fine\"";
        assert_eq!(secret.redact(harmless), None);
        assert_eq!(Secret::new("abc").redact("abc"), None);
        let short = Secret::new("abcd").redact("YWJjZA== abcd");
        assert_eq!(short.as_deref(), Some("YWJjZA== ***"));
    }

    #[test]
    fn a_truncated_key_is_recognised() {
        let secret = Secret::new(KEY);
        for end in [&KEY[..6], &STANDARD.encode(KEY)[..20]] {
            let cut = secret.redact_cut(&format!("x {end}"));
            assert_eq!(cut.as_deref(), Some("x ***"));
        }
    }

    #[test]
    fn credentials_of_an_address_are_recognised_in_both_forms() {
        let secrets = secrets_in("http://user:pass-word@host:1/v1");
        let exposed: Vec<&str> = secrets.iter().map(Secret::expose).collect();
        assert_eq!(exposed, ["pass-word", "dXNlcjpwYXNzLXdvcmQ="]);
        assert!(secrets_in("http://host/a@b").is_empty());
        assert!(secrets_in("").is_empty());
    }
}
