//! Ids: which ones a record may have, and the automatic ones made from the request hash.

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fault::{Fault, described};
use crate::llm::hash::hex;

/// Maximum length of an id in bytes.
const MAX_ID_BYTES: usize = 512;

/// The hash function for ids. A parameter, so that tests can make ids collide.
pub(super) type IdHash = fn(&str) -> u64;

/// The first 8 bytes of SHA-256.
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

/// Whether an item without an own id, or a sample of it, could have this id.
pub(crate) fn is_automatic(id: &str) -> bool {
    ItemId::readings(id).any(|reading| matches!(reading.record, RecordId::Auto { .. }))
}

/// Maximum number of answers to one prompt.
pub(crate) const MOST_SAMPLES: u32 = 1000;

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
    fn auto(id: &'a str) -> Option<Self> {
        let (digits, ordinal) = match id.split_once('-') {
            Some((digits, ordinal)) => (digits, ordinal.parse().ok()?),
            None => (id, 1),
        };
        let request = hash_prefix(digits)?;
        let auto = Self::Auto { request, ordinal };
        (auto.to_string() == id).then_some(auto)
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

/// The id of an item: that of its record, or with the number of a sample (`q-7#2`). A record requests one answer, or
/// samples; the first sample equals the item without samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemId<'a> {
    pub(super) record: RecordId<'a>,
    pub(super) sample: Option<u32>,
}

impl<'a> ItemId<'a> {
    /// The items that may have this id: an own id may look like a generated one.
    pub(super) fn readings(id: &'a str) -> impl Iterator<Item = Self> {
        let whole = |record| Self {
            record,
            sample: None,
        };
        let own = [whole(RecordId::Own(id))];
        RecordId::auto(id)
            .map(whole)
            .into_iter()
            .chain(own)
            .chain(Self::samples(id))
    }

    /// Those of these items for which the id is a generated one.
    pub(super) fn made(id: &'a str) -> impl Iterator<Item = Self> {
        Self::readings(id).filter(move |reading| reading.record != RecordId::Own(id))
    }

    fn samples(id: &'a str) -> impl Iterator<Item = Self> {
        parse_sample(id).into_iter().flat_map(|(item, sample)| {
            let records = RecordId::auto(item)
                .into_iter()
                .chain([RecordId::Own(item)]);
            records.map(move |record| Self {
                record,
                sample: Some(sample),
            })
        })
    }

    /// The id of a first sample without samples, or of an item without samples as the first sample.
    pub(super) fn renamed(self) -> Option<Self> {
        let sample = match self.sample {
            None => Some(1),
            Some(1) => None,
            Some(_) => return None,
        };
        Some(Self { sample, ..self })
    }
}

impl fmt::Display for ItemId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt(f)?;
        match self.sample {
            Some(sample) => write!(f, "#{sample}"),
            None => Ok(()),
        }
    }
}

/// The id of an item without samples (0) as the first sample, or of the first sample as an item without samples.
pub(crate) fn renamed(id: &str, sample: u32) -> Option<String> {
    let item = match sample {
        0 => ItemId::readings(id).find(|item| item.sample.is_none()),
        _ => ItemId::readings(id).find(|item| item.sample == Some(sample)),
    };
    item?.renamed().map(|item| item.to_string())
}

/// The item and the number, if `id` is the id of a sample.
pub(super) fn parse_sample(id: &str) -> Option<(&str, u32)> {
    let (item, digits) = id.rsplit_once('#')?;
    let sample = digits.parse().ok()?;
    let exact = (1..=MOST_SAMPLES).contains(&sample) && digits == sample.to_string();
    (exact && !item.is_empty()).then_some((item, sample))
}

/// The id in the fields with these names, which must all be equal.
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

/// The id in the field that the settings name.
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

    fn made(id: &str) -> Vec<ItemId<'_>> {
        ItemId::made(id).collect()
    }

    fn auto(request: u64, ordinal: u32) -> RecordId<'static> {
        RecordId::Auto { request, ordinal }
    }

    #[test]
    fn automatic_ids_can_be_read_back() {
        for ordinal in [1, 2, 10, u32::MAX] {
            let record = auto(0xdd2a373b53857bb9, ordinal);
            let item = ItemId {
                record,
                sample: None,
            };
            assert_eq!(made(&item.to_string()), [item], "{item}");
        }
        assert_eq!(auto(1, 1).to_string(), "0000000000000001");
        assert_eq!(auto(1, 3).to_string(), "0000000000000001-3");
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
            let parsed = parsed.map(|(item, sample)| ItemId {
                record: RecordId::Own(item),
                sample: Some(sample),
            });
            assert_eq!(made(id), Vec::from_iter(parsed), "{id}");
            assert!(parsed.is_none_or(|item| item.to_string() == id), "{id}");
        }
        let sample = ItemId {
            record: auto(1, 3),
            sample: Some(7),
        };
        assert_eq!(sample.to_string(), "0000000000000001-3#7");
        assert_eq!(made("0000000000000001-3#7")[0], sample);
    }

    #[test]
    fn the_first_sample_is_the_item_without_samples() {
        let renamed = |id: &'static str| {
            ItemId::readings(id)
                .filter_map(|reading| Some(reading.renamed()?.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(renamed("a"), ["a#1"]);
        assert_eq!(renamed("a#1"), ["a#1#1", "a"]);
        assert_eq!(renamed("a#2"), ["a#2#1"]);
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
            assert_eq!(made(id), [], "{id}");
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
