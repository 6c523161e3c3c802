//! Ids: which ones a record may carry, and the automatic ones made from the fingerprint of the
//! request.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fault::{Fault, described};
use crate::llm::hash::hex;

/// The longest id, in bytes.
const MAX_ID_BYTES: usize = 512;

/// How ids are hashed. A parameter, so that tests can make ids collide.
pub(super) type IdHash = fn(&str) -> u64;

/// The first 8 bytes of SHA-256.
pub(super) fn id_hash(id: &str) -> u64 {
    prefix(&Sha256::digest(id.as_bytes()).into())
}

/// The first 8 bytes of a fingerprint.
pub(super) fn prefix(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The first 8 bytes of a fingerprint written in hexadecimal; none if it is not one.
pub(crate) fn hash_prefix(request_hash: &str) -> Option<u64> {
    let digits = request_hash.get(..16)?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// The id of an item without one: 16 digits of its fingerprint, repeats in input order `-2`, `-3`.
pub(crate) fn auto_id(prefix: u64, ordinal: u32) -> String {
    let mut id = hex(&prefix.to_be_bytes());
    if ordinal > 1 {
        id.push_str(&format!("-{ordinal}"));
    }
    id
}

/// The fingerprint and ordinal of which `id` would be the automatic id.
pub(super) fn parse_auto(id: &str) -> Option<(u64, u32)> {
    let (digits, ordinal) = match id.split_once('-') {
        Some((digits, ordinal)) => (digits, ordinal.parse().ok()?),
        None => (id, 1),
    };
    let prefix = hash_prefix(digits)?;
    (auto_id(prefix, ordinal) == id).then_some((prefix, ordinal))
}

/// The most answers to one prompt.
pub(super) const MOST_SAMPLES: u32 = 1000;

/// The id of a sample of an item: `q-7#2`.
pub(super) fn sample_id(id: &str, sample: u32) -> String {
    format!("{id}#{sample}")
}

/// What the item of that id is called with samples, if it has none, or without, if it is the first of them.
pub(crate) fn other_id(id: &str) -> Option<String> {
    match parse_sample(id) {
        Some((item, 1)) => Some(item.to_owned()),
        Some(_) => None,
        None => Some(sample_id(id, 1)),
    }
}

/// The item and the number of which `id` would be a sample's.
pub(crate) fn parse_sample(id: &str) -> Option<(&str, u32)> {
    let (item, digits) = id.rsplit_once('#')?;
    let sample = digits.parse().ok()?;
    let exact = (1..=MOST_SAMPLES).contains(&sample) && digits.len() == sample.to_string().len();
    (exact && !item.is_empty() && !digits.starts_with('+')).then_some((item, sample))
}

/// The id in the fields of these names, all of which say the same.
pub(super) fn of_fields(
    fields: &Map<String, Value>,
    names: &[&str],
) -> Result<Option<String>, Fault> {
    let mut found: Option<(&str, String)> = None;
    for name in names {
        let Some(value) = fields.get(*name) else {
            continue;
        };
        let id = of_value(name, value)?;
        match &found {
            Some((first, other)) if *other != id => {
                return Err(Fault::new(
                    format!("\"{first}\" {other:?} beside \"{name}\" {id:?}"),
                    "one of them",
                ));
            }
            Some(_) => {}
            None => found = Some((name, id)),
        }
    }
    Ok(found.map(|(_, id)| id))
}

/// The id in the field that is named to hold it.
pub(super) fn of_column(fields: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    match fields.get(name) {
        Some(value) => of_value(name, value),
        None => Err(Fault::new(
            format!("no field \"{name}\""),
            "the id there, since --id-column names it",
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

/// Refuses ids that could not be told apart, or would tear a line.
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

    #[test]
    fn automatic_ids_can_be_read_back() {
        for ordinal in [1, 2, 10, u32::MAX] {
            let id = auto_id(0xdd2a373b53857bb9, ordinal);
            assert_eq!(parse_auto(&id), Some((0xdd2a373b53857bb9, ordinal)), "{id}");
        }
        assert_eq!(auto_id(1, 1), "0000000000000001");
        assert_eq!(auto_id(1, 3), "0000000000000001-3");
    }

    #[test]
    fn ids_of_samples_can_be_read_back() {
        for (id, parsed) in [
            ("a#1", Some(("a", 1))),
            ("a#2#1000", Some(("a#2", 1000))),
            ("a#0", None),
            ("a#01", None),
            ("a#+1", None),
            ("a#1001", None),
            ("#1", None),
            ("a#", None),
            ("a", None),
        ] {
            assert_eq!(parse_sample(id), parsed, "{id}");
        }
        assert_eq!(sample_id("a", 7), "a#7");
    }

    #[test]
    fn only_the_exact_spelling_is_an_automatic_id() {
        for id in [
            "",
            "7",
            "0000000000000001-1",
            "0000000000000001-02",
            "0000000000000001-+2",
            "000000000000000A",
            "+000000000000001",
            "00000000000000011",
            "0000000000000001-",
            "äää0000000000001",
        ] {
            assert_eq!(parse_auto(id), None, "{id}");
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
