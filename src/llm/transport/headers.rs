//! The header fields of a reply.

use std::ops::Range;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Header fields of a reply; names are compared without case.
#[derive(Clone, derive_more::Debug)]
#[debug("HttpHeaders({})", fields.len())]
pub struct HttpHeaders {
    /// Names and values, as they were received.
    bytes: Vec<u8>,
    fields: Vec<Field>,
    received: SystemTime,
}

/// The places of one field.
#[derive(Clone)]
pub(super) struct Field {
    pub name: Range<usize>,
    pub value: Range<usize>,
}

impl Default for HttpHeaders {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl HttpHeaders {
    /// They have just been received.
    pub(super) fn new(bytes: Vec<u8>, fields: Vec<Field>) -> Self {
        Self {
            bytes,
            fields,
            received: SystemTime::now(),
        }
    }

    /// When they were received, by the clock of this machine.
    pub(crate) fn received(&self) -> SystemTime {
        self.received
    }

    /// The same headers, received at this time.
    #[cfg(test)]
    pub(crate) fn received_at(self, received: SystemTime) -> Self {
        Self { received, ..self }
    }

    /// The first value of this name, if it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.all(name).next()?).ok()
    }

    /// All values of this name.
    pub(super) fn all<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let fields = self.fields.iter().filter(move |field| {
            field.name.len() == name.len()
                && self.bytes[field.name.clone()].eq_ignore_ascii_case(name.as_bytes())
        });
        fields.map(|field| &self.bytes[field.value.clone()])
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for HttpHeaders {
    /// Fields that are invalid in HTTP messages are omitted.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let (mut bytes, mut fields) = (Vec::new(), Vec::new());
        for (name, value) in pairs {
            if is_name(name.as_bytes()) && is_value(value.as_bytes()) {
                let mut add = |text: &str| {
                    let start = bytes.len();
                    bytes.extend_from_slice(text.as_bytes());
                    start..bytes.len()
                };
                fields.push(Field {
                    name: add(name),
                    value: add(value),
                });
            }
        }
        Self::new(bytes, fields)
    }
}

/// Whether these bytes are the name of a field (a token, RFC 9110, section 5.6.2).
pub(crate) fn is_name(name: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_token)
}

/// Whether these bytes may be the value of a field (RFC 9110, section 5.5).
pub(super) fn is_value(value: &[u8]) -> bool {
    // Without branches, so that the compiler checks many bytes at once.
    let is_allowed = |byte: u8| (byte == b'\t') | ((byte >= b' ') & (byte != 0x7f));
    value.iter().fold(true, |all, byte| all & is_allowed(*byte))
}

/// The value of a field for basic authentication with `user:password` (RFC 7617).
pub(super) fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// Whether a comma-separated list contains this word.
pub(super) fn has_word(list: &[u8], word: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}
