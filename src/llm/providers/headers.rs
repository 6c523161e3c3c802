//! Headers that users add to every call of a provider: which are allowed, and which parts of them are secret.

use std::borrow::Cow;

use crate::base::{Error, ErrorKind, Secret};
use crate::config::credential;
use crate::llm::transport::is_header_name;

/// Headers with a credential, at any provider.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];

/// Headers of the protocol: with another value a call would fail, or its reply could not be read.
const PROTOCOL: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The shortest word in a header that may be a key.
const SHORTEST_KEY: usize = 8;

/// Replaces values in commands that are shown.
const HIDDEN: &str = "***";

/// The prefix of the headers of uploads.
const UPLOADS: &str = "x-goog-upload-";

/// A header for every call of a provider. Its `Debug` shows only the name.
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
#[debug("CallHeader({name:?})")]
pub struct CallHeader {
    /// In lower case.
    name: String,
    value: Secret,
}

impl CallHeader {
    /// A header with this name and value. White space around both is removed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name or value that no header has, for a name that belongs to
    /// the protocol, such as `content-length`, and for a value that was hidden by `***`. No error shows
    /// the value.
    pub fn new(name: &str, value: &str) -> Result<Self, Error> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        let name = name.trim().to_ascii_lowercase();
        if !is_header_name(name.as_bytes()) {
            // A value may stand in the place of the name.
            return Err(invalid(
                "a header has a name of letters, digits and `-` before its colon: 'Name: value'"
                    .to_owned(),
            ));
        }
        if PROTOCOL.contains(&name.as_str()) || name.starts_with(UPLOADS) {
            let why = format!("the header {name} is the protocol's own and cannot be set");
            return Err(invalid(why));
        }
        let value = value.trim();
        let shown = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        if value.is_empty() || !value.bytes().all(shown) {
            let why = format!("the header {name} needs a value of plain letters on one line");
            return Err(invalid(why));
        }
        if value.rsplit([' ', '\t']).next() == Some(HIDDEN) {
            let why = format!(
                "the header {name} has the {HIDDEN} that stands for a value which is not shown: put the \
                 value in again, or use --header @FILE"
            );
            return Err(invalid(why));
        }
        Ok(Self {
            name,
            value: Secret::new(value),
        })
    }

    /// A header as it is written, `Name: value`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// use batchwright::provider::CallHeader;
    /// let header = CallHeader::parse("X-Team: maps")?;
    /// assert_eq!(format!("{header:?}"), "CallHeader(\"x-team\")");
    /// assert!(CallHeader::parse("content-length: 7").is_err());
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    pub fn parse(line: &str) -> Result<Self, Error> {
        let (name, value) = line.split_once(':').unwrap_or_default();
        Self::new(name, value)
    }

    /// The name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn sent(&self) -> (Cow<'static, str>, String) {
        (
            Cow::Owned(self.name.clone()),
            self.value.expose().to_owned(),
        )
    }

    /// The credential in this header, if it is such a header, without the name of its scheme.
    pub(super) fn credential(&self) -> Option<&str> {
        let value = self.value.expose();
        CREDENTIALS.contains(&self.name.as_str()).then(|| {
            let scheme = value
                .split_once(' ')
                .filter(|_| self.name == "authorization");
            scheme.map_or(value, |(_, token)| token.trim())
        })
    }

    /// Whether it replaces the key.
    pub(super) fn pays(&self) -> bool {
        self.credential().is_some()
    }

    pub(super) fn value(&self) -> &str {
        self.value.expose()
    }

    /// The value, if it is to be removed from errors. A short word is not a key and occurs in many errors.
    pub(super) fn secret(&self) -> Option<Secret> {
        Some(self.value.clone()).filter(|value| value.expose().len() >= SHORTEST_KEY)
    }

    /// The keys in it, to remove from errors and answers. The name or version of an application is not a key and stays in answers.
    pub(super) fn keys(&self) -> Vec<Secret> {
        let named = credential::in_name(&self.name).is_some()
            || self.name.contains("auth")
            || self.name.contains("cookie");
        let words = self.value.expose().split([' ', ',', ';', '=']);
        // `Bearer` and the like are not hidden.
        let words = words.filter(|word| word.len() >= SHORTEST_KEY);
        let keys = words.filter(|word| named || credential::in_value(word).is_some());
        keys.map(Secret::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cases::{cases, unescaped};

    #[test]
    fn headers_of_the_protocol_are_rejected_and_no_value_is_shown() {
        for (line, words) in cases(include_str!("header_cases.txt")) {
            let error = CallHeader::parse(&unescaped(line)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{line}");
            assert!(error.message().contains(words), "{error}");
            assert!(!error.to_string().contains("secr"), "{error}");
        }
        assert!(CallHeader::parse("X-Rating: a***").is_ok());
        let header = CallHeader::parse(" X-Team :  maps and more ").unwrap();
        assert_eq!(header.sent(), ("x-team".into(), "maps and more".to_owned()));
        assert!(!format!("{header:?}").contains("maps"));
    }

    #[test]
    fn keys_are_distinguished_from_other_values_of_headers() {
        for (line, expected) in [
            ("Authorization: Bearer abcdefgh", Some("abcdefgh")),
            ("X-Portkey-Api-Key: any-word", Some("any-word")),
            ("X-Thing: sk-ant-0123456789", Some("sk-ant-0123456789")),
            ("X-Title: Summaries of the speeches of a year", None),
            ("HTTP-Referer: https://example.org/app", None),
            ("anthropic-beta: context-1m-2025-08-07", None),
        ] {
            let keys = CallHeader::parse(line).unwrap().keys();
            let keys = keys.iter().map(|key| key.expose());
            assert!(keys.eq(expected), "{line}");
        }
    }
}
