//! A secret string: no `Display`, no `Serialize`, and a `Debug` that hides it.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

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
    /// The part of the secret that appears unchanged in any base64 or hexadecimal text that contains it, whatever
    /// surrounds it.
    coded: Vec<String>,
}

/// Shorter secrets are not masked, because they occur in ordinary words.
const SHORTEST: usize = 4;
/// A base64 form of this length is not an ordinary word.
const SHORTEST_FORM: usize = 8;

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        let value = value.into();
        let mut coded = base64_forms(value.as_bytes());
        coded.extend(hex_forms(value.as_bytes()));
        Self { value, coded }
    }

    /// The credential itself, for the code that sends it.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Masks every occurrence of the secret in `text`: as it is, in base64, in hexadecimal digits, and with any of
    /// its characters percent-encoded or escaped as in JSON.
    ///
    /// Servers echo credentials in error texts, so every text that leaves a client passes through here. Secrets
    /// shorter than 4 bytes are not masked, because they occur in ordinary words.
    pub fn redact(&self, text: &str) -> Option<String> {
        let read = Unescaped::read(text);
        let found = self.found_in(&read.text);
        (!found.is_empty()).then(|| read.without(text, &found))
    }

    /// As [`redact`](Self::redact), for a text that may be cut within the secret; a beginning of 4 bytes is
    /// recognised.
    pub(crate) fn redact_cut(&self, text: &str) -> Option<String> {
        let cleaned = self.redact(text);
        let shown = cleaned.as_deref().unwrap_or(text);
        let read = Unescaped::read(shown);
        let plain = (self.value.as_str(), SHORTEST);
        let forms = self.coded.iter().map(|form| (form.as_str(), SHORTEST_FORM));
        let mut kept = [plain]
            .into_iter()
            .chain(forms)
            .filter_map(|(form, least)| {
                let mut ends = (least..form.len()).rev();
                let rest = ends.find_map(|end| read.text.strip_suffix(form.get(..end)?))?;
                Some(rest.len())
            });
        match kept.next() {
            Some(start) => {
                let end = start..read.text.len();
                Some(read.without(shown, std::slice::from_ref(&end)))
            }
            None => cleaned,
        }
    }

    /// As [`redact`](Self::redact), for bytes that are not text.
    pub(crate) fn redact_bytes(&self, bytes: &mut Vec<u8>) {
        // Each byte becomes a character up to U+00FF, so ASCII stays the same.
        let text: String = bytes.iter().copied().map(char::from).collect();
        if let Some(cleaned) = self.redact(&text) {
            *bytes = cleaned.chars().map(|c| c as u8).collect();
        }
    }

    /// Its positions, in order.
    fn found_in(&self, text: &str) -> Vec<Range<usize>> {
        if self.value.len() < SHORTEST {
            return Vec::new();
        }
        let forms = [&self.value].into_iter().chain(&self.coded);
        let places = forms.flat_map(|form| {
            let at = move |(at, _)| at..at + form.len();
            text.match_indices(form.as_str()).map(at)
        });
        let mut places: Vec<_> = places.collect();
        places.sort_by_key(|place| place.start);
        places
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

/// The value in hexadecimal digits, as in dumps of requests; in both cases.
fn hex_forms(value: &[u8]) -> impl Iterator<Item = String> {
    let lower: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [lower.to_uppercase(), lower];
    forms.into_iter().filter(|form| form.len() >= SHORTEST_FORM)
}

/// A text with its percent codes and JSON escapes decoded, and the position of each byte in the original.
struct Unescaped<'t> {
    text: Cow<'t, str>,
    /// Position of each byte in the original, and the end of the last one; empty if nothing is escaped.
    places: Vec<usize>,
}

impl<'t> Unescaped<'t> {
    fn read(text: &'t str) -> Self {
        let mut out = Unescaped {
            text: Cow::Borrowed(text),
            places: Vec::new(),
        };
        let Some(first) = memchr::memchr2(b'%', b'\\', text.as_bytes()) else {
            return out;
        };
        let mut plain = text[..first].to_owned();
        out.places.extend(0..first);
        let mut at = first;
        while let Some(next) = text[at..].chars().next() {
            let (read, length) = match next {
                '%' | '\\' => escape(&text[at..]).unwrap_or((next, 1)),
                _ => (next, next.len_utf8()),
            };
            plain.push(read);
            out.places.extend(std::iter::repeat_n(at, read.len_utf8()));
            at += length;
        }
        out.places.push(text.len());
        out.text = Cow::Owned(plain);
        out
    }

    /// The original text with these ranges of the decoded text masked.
    fn without(&self, text: &str, found: &[Range<usize>]) -> String {
        let place = |at: usize| self.places.get(at).copied().unwrap_or(at);
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        for range in found {
            let (from, to) = (place(range.start), place(range.end));
            if from >= end {
                out.push_str(&text[end..from]);
                out.push_str("***");
            }
            end = end.max(to);
        }
        out.push_str(&text[end..]);
        out
    }
}

/// The ASCII character of an escape at the start of a text, and its length. A text that was escaped more than once
/// has several backslashes.
fn escape(text: &str) -> Option<(char, usize)> {
    let code = |digits: &str| {
        let code = u8::from_str_radix(digits, 16).ok()?;
        code.is_ascii().then_some(char::from(code))
    };
    if let Some(rest) = text.strip_prefix('%') {
        return Some((code(rest.get(..2)?)?, 3));
    }
    let rest = text.trim_start_matches('\\');
    let slashes = text.len() - rest.len();
    match rest.as_bytes().first()? {
        b'/' => Some(('/', slashes + 1)),
        b'u' => Some((code(rest.get(1..5)?.strip_prefix("00")?)?, slashes + 5)),
        b'x' => Some((code(rest.get(1..3)?)?, slashes + 3)),
        _ => None,
    }
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

/// A URL that may contain credentials.
#[derive(Clone, derive_more::Debug)]
#[debug("{}", redacted_url(_0))]
pub(crate) struct Address(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-key+of/nobody=0123456789";

    #[test]
    fn a_key_is_recognised_in_every_encoding() {
        let secret = Secret::new(KEY);
        let percent: String = KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let json: String = KEY.bytes().map(|byte| format!("\\u{byte:04X}")).collect();
        let some = KEY.replace('+', "%2B").replace('/', "\\/");
        let twice = KEY.replace('k', "\\\\u006b");
        let hex: String = KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
        let upper = hex.to_uppercase();
        for form in [KEY, &percent, &json, &some, &twice, &hex, &upper] {
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
                    let left = cleaned.len() - "got *** from you".len();
                    assert!(
                        left <= 4 + (before.len() + after.len()) * 4 / 3 + 4,
                        "{cleaned}"
                    );
                }
            }
        }
        assert_eq!(
            secret.redact("100 % of a \\u00e4 and %41 are \"fine\""),
            None
        );
        assert_eq!(Secret::new("abc").redact("abc"), None);
        assert_eq!(
            Secret::new("abcd").redact("YWJjZA== abcd").as_deref(),
            Some("YWJjZA== ***")
        );
    }

    #[test]
    fn a_truncated_key_is_recognised_in_every_encoding() {
        let secret = Secret::new(KEY);
        let percent: String = KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let cut = secret.redact_cut(&format!("x {}", &percent[..18])).unwrap();
        assert_eq!(cut, "x ***");
        let base64 = STANDARD.encode(KEY);
        let cut = secret.redact_cut(&format!("x {}", &base64[..20])).unwrap();
        assert_eq!(cut, "x ***");
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
