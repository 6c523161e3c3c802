//! Ids: which ones a record may have, and the automatic ones made from the request hash.

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fault::{Fault, described};
use crate::base::json_read::field_of;
use crate::base::json_text::hex;

/// Maximum length of an id in bytes.
const MAX_ID_BYTES: usize = 512;

/// The first 8 bytes of SHA-256. Ids for which they are equal count as equal: among a million ids, that happens to two
/// different ones in one of 37 million files, which is then rejected.
pub(super) fn id_hash(id: &str) -> u64 {
    prefix(&Sha256::digest(id.as_bytes()).into())
}

/// The first 8 bytes of a hash.
pub(super) fn prefix(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The first 8 bytes of a hash in hexadecimal; `None` if it is not one.
pub(crate) fn hash_prefix(request_hash: &str) -> Option<u64> {
    let digits = request_hash.get(..16)?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// Whether an item without an own id could have this id.
pub(crate) fn is_automatic(id: &str) -> bool {
    RecordId::auto(id).is_some()
}

/// The id of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordId<'a> {
    /// Its own id.
    Own(&'a str),
    /// Without an own id: 16 digits of its request hash; repetitions in input order get `-2`, `-3`.
    Auto { request: u64, ordinal: u32 },
}

impl<'a> RecordId<'a> {
    /// The record without an own id that would have this id.
    pub(super) fn auto(id: &'a str) -> Option<Self> {
        let (digits, ordinal) = match id.split_once('-') {
            Some((digits, ordinal)) => (digits, ordinal.parse().ok()?),
            None => (id, 1),
        };
        let request = hash_prefix(digits)?;
        let auto = Self::Auto { request, ordinal };
        (auto.to_string() == id).then_some(auto)
    }

    /// The records that may have this id: an own id may look like a generated one.
    pub(super) fn readings(id: &'a str) -> impl Iterator<Item = Self> {
        Self::auto(id).into_iter().chain([Self::Own(id)])
    }
}

impl fmt::Display for RecordId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(id) => f.write_str(id),
            Self::Auto { request, ordinal } => {
                f.write_str(&hex(&request.to_be_bytes()))?;
                match ordinal {
                    0 | 1 => Ok(()),
                    n => write!(f, "-{n}"),
                }
            }
        }
    }
}

/// The id in the fields with these names, which must all be equal. In a row of data an empty one is none.
pub(super) fn of_fields(
    fields: &Map<String, Value>,
    names: &[&str],
    is_data: bool,
) -> Result<Option<String>, Fault> {
    let mut found: Option<(&str, String)> = None;
    for name in names {
        let is_empty = |value: &Value| match value {
            Value::Null => true,
            Value::String(id) => id.trim().is_empty(),
            _ => false,
        };
        let value = field_of(fields, name);
        let Some(value) = value.filter(|value| !(is_data && is_empty(value))) else {
            continue;
        };
        let id = of_value(name, value)?;
        match &found {
            Some((first, other)) if *other != id => {
                let found = format!("\"{first}\" {other:?} beside \"{name}\" {id:?}");
                return Err(Fault::two(found));
            }
            Some(_) => {}
            None => found = Some((name, id)),
        }
    }
    Ok(found.map(|(_, id)| id))
}

/// The id in the field that the settings name.
pub(super) fn of_column(fields: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    match fields.get(name) {
        Some(value) => of_value(name, value),
        None => Err(Fault::new(
            format!("no field \"{name}\""),
            "the id there, since --column id names it",
        )),
    }
}

fn of_value(name: &str, value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(id) => checked(name, id),
        Value::Number(n) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
        _ => Err(Fault::field(name, value, "a string or an integer")),
    }
}

/// Rejects ids that could not be distinguished, or would break a line.
pub(super) fn checked(name: &str, id: &str) -> Result<String, Fault> {
    let expected = match id {
        "" => "an id that is not empty, or none at all".to_owned(),
        _ if id.len() > MAX_ID_BYTES => format!("at most {MAX_ID_BYTES} bytes, not {}", id.len()),
        _ if id.chars().any(char::is_control) => "an id without control characters".to_owned(),
        _ => return Ok(id.to_owned()),
    };
    let found = described(&Value::from(id));
    Err(Fault::new(format!("{found} in \"{name}\""), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(request: u64, ordinal: u32) -> RecordId<'static> {
        RecordId::Auto { request, ordinal }
    }

    #[test]
    fn automatic_ids_can_be_read_back() {
        for ordinal in [1, 2, 10, u32::MAX] {
            let record = auto(0xdd2a373b53857bb9, ordinal);
            assert_eq!(RecordId::auto(&record.to_string()), Some(record));
        }
        assert_eq!(auto(1, 1).to_string(), "0000000000000001");
        assert_eq!(auto(1, 3).to_string(), "0000000000000001-3");
    }

    #[test]
    fn only_the_exact_spelling_is_an_automatic_id() {
        let spellings = "7 0000000000000001-1 0000000000000001-02 0000000000000001-+2 000000000000000A \
            +000000000000001 00000000000000011 0000000000000001- äää0000000000001";
        for id in spellings.split(' ').chain([""]) {
            assert_eq!(RecordId::auto(id), None, "{id}");
        }
    }

    #[test]
    fn the_prefix_of_a_fingerprint_is_read_from_its_hexadecimal_form() {
        let digest = [0xab; 32];
        assert_eq!(hash_prefix(&hex(&digest)), Some(prefix(&digest)));
        assert_eq!(hash_prefix("abc"), None);
        assert_eq!(hash_prefix("+bababababababab"), None);
    }
}
