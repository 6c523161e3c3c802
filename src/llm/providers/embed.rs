//! Embeddings: a call with several texts, and a reply with a vector for each.
//!
//! Decoding is strict: a vector of another text looks like any other, so a reply is not used if it is unclear which
//! vector belongs to which text. A single unusable vector makes only its own text fail.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::json_mend::leniently;
use crate::base::{Error, Paid, Usage};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::HttpReply;

use super::answer::{malformed, unlike, unreadable};
use super::content::{invalid, named};
use super::dialect::{Call, in_reply, succeeded};
use super::errors::failure_inside;
use super::fields::{Counts, Raw};
use super::further::further;
use super::rules::word;
use super::vendor::{Dialect, Vendor};
use super::{gemini, openai};

/// The call for several texts.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the vendor makes no embeddings, no model is named, or a request
/// has more than one text or list of tokens, or tokens that the vendor does not support.
pub(super) fn encode(
    vendor: &Vendor,
    requests: &[&Request],
    model: Option<&str>,
) -> Result<Call, Error> {
    vendor.embedding_limits()?;
    let model = named(model)?;
    let Some(alike) = requests.first() else {
        return Err(invalid("nothing to embed"));
    };
    let texts = requests.iter().map(|request| request.only_embedded());
    let texts: Vec<&Value> = texts
        .collect::<Result<_, _>>()
        .map_err(|found| invalid(format!("an embedding takes one text, not {found}")))?;
    let mut fields = Map::new();
    let (path, body) = match vendor.dialect {
        Dialect::Gemini => {
            let resource = gemini::resource(model)?;
            let path = Cow::Owned(format!("/{resource}:batchEmbedContents"));
            fields.insert("model".to_owned(), resource.into());
            add_shared(&mut fields, vendor, alike);
            if !texts.iter().all(|text| text.is_string()) {
                let why = format!("{} embeds texts, not lists of tokens", vendor.name);
                return Err(invalid(why));
            }
            let one = |text: &&Value| {
                let mut fields = fields.clone();
                fields.insert("content".to_owned(), json!({"parts": [{"text": text}]}));
                Value::Object(fields)
            };
            let requests: Vec<Value> = texts.iter().map(one).collect();
            (path, json!({ "requests": requests }))
        }
        _ => {
            fields.insert("model".to_owned(), model.into());
            fields.insert("input".to_owned(), json!(texts));
            add_shared(&mut fields, vendor, alike);
            (Cow::Borrowed("/embeddings"), Value::Object(fields))
        }
    };
    let body = body.to_string().into_bytes();
    Ok(Call { path, body })
}

fn add_shared(fields: &mut Map<String, Value>, vendor: &Vendor, alike: &Request) {
    if let Some(dimensions) = alike.params.dimensions {
        fields.insert(vendor.dimensions_field.to_owned(), dimensions.into());
    }
    for (key, value) in further(alike) {
        let is_set = ["input", "content"].contains(&key.as_str()) || fields.contains_key(key);
        if !is_set {
            fields.insert(key.clone(), value.clone());
        }
    }
}

/// Turns a complete reply into an answer or a failure for each request, in their order, or a classified
/// error for all.
///
/// # Errors
/// Whatever the reply says went wrong; [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) when
/// it is not one vector for each.
pub(super) fn decode(
    vendor: &Vendor,
    reply: &HttpReply,
    requests: &[&Request],
) -> Result<Vec<Result<Response, Error>>, Error> {
    let hints = succeeded(vendor, reply).map_err(|error| match reply.status {
        // A server without an embedding model says so to every text alike.
        501 => error.with_unreachable(),
        _ => error,
    })?;
    let read = leniently(&reply.body, |text| {
        let embedded: EmbedReply<'_> = serde_json::from_str(text)?;
        Ok(embedded.read(vendor, text.as_bytes(), requests.len()))
    });
    let (embedded, warning) = match read {
        Ok(read) => read,
        Err(error) => (Err(unread(&error, &reply.body, requests.len())), None),
    };
    let named = |error: Error| in_reply(error, reply, hints);
    let embedded = embedded
        .and_then(|embedded| embedded.checked(&reply.body, requests.len()))
        .map_err(named)?;
    let usages = embedded.usage.map(|usage| shares(usage, requests));
    let mut usages = usages.into_iter().flatten();
    let answers = embedded.vectors.into_iter().map(|vector| {
        let usage = usages.next();
        match vector {
            Ok(vector) => Ok(Response {
                usage,
                model: embedded.model.clone(),
                warning: warning.clone(),
                ..Response::vector(vendor.name, vector).with_rate_hints(hints)
            }),
            Err(Unusable { why, entry }) => {
                let paid = Paid::new(usage, None);
                let error = match &warning {
                    // It is kept as it came.
                    Some(warning) => unlike(format!("{why} ({warning})"), &reply.body),
                    None => unlike(why, entry.as_bytes()),
                };
                Err(named(error).with_paid(paid))
            }
        }
    });
    Ok(answers.collect())
}

/// The failure of a reply that is not the JSON of vectors. A reply that is not JSON at all, for example a web page, was
/// not caused by one of the texts, so the call is not retried.
fn unread(error: &serde_json::Error, body: &[u8], texts: usize) -> Error {
    match body.trim_ascii_start().first() {
        Some(b'{' | b'[') if !error.is_eof() => unpaired(error, body, texts),
        Some(b'{' | b'[') => malformed(error, body),
        _ => unreadable(error, body),
    }
}

/// The failure of a complete reply whose vectors do not match the texts. A call with fewer texts may succeed. A call
/// with a single text is not retried, because it would be billed for the same reply again.
fn unpaired(what: impl fmt::Display, body: &[u8], texts: usize) -> Error {
    match texts {
        1 => unlike(what, body),
        _ => malformed(what, body),
    }
}

/// An entry of a reply without a usable vector.
struct Unusable {
    why: String,
    /// The entry in the reply.
    entry: String,
}

type Embedded = Result<Vec<f32>, Unusable>;

/// The content of a reply, with its vectors in the order of the texts.
struct Embeddings {
    vectors: Vec<Embedded>,
    usage: Option<Usage>,
    model: Option<String>,
}

impl Embeddings {
    /// Finds unusable vectors. If they are at most half, each makes only its own text fail; otherwise the whole reply
    /// fails.
    fn checked(mut self, body: &[u8], texts: usize) -> Result<Self, Error> {
        let sound = || self.vectors.iter().flatten();
        // The value that an overloaded server sends instead of a vector.
        if sound().any(|v| v.iter().all(|n| *n == 0.0)) {
            return Err(malformed("a vector of zeros", body));
        }
        let mut lengths: Vec<usize> = sound().map(Vec::len).collect();
        lengths.sort_unstable();
        let usual = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
        if lengths.iter().filter(|length| **length == usual).count() * 2 <= lengths.len()
            && let Some(other) = lengths.iter().find(|length| **length != usual)
        {
            let what = format!("vectors of {usual} and {other} numbers");
            return Err(malformed(what, body));
        }
        for vector in &mut self.vectors {
            if let Some(other) = vector.as_ref().ok().filter(|v| v.len() != usual) {
                let why = format!(
                    "a vector of {} numbers among vectors of {usual}",
                    other.len()
                );
                let entry = json!(other).to_string();
                *vector = Err(Unusable { why, entry });
            }
        }
        let mut unusable = self
            .vectors
            .iter()
            .filter_map(|vector| vector.as_ref().err());
        match unusable.next() {
            Some(first) if (1 + unusable.count()) * 2 > texts => {
                Err(unpaired(&first.why, body, texts))
            }
            _ => Ok(self),
        }
    }
}

/// A reply of OpenAI, or, with other names, of Gemini.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct EmbedReply<'b> {
    model: Option<Value>,
    #[serde(alias = "embeddings")]
    data: Option<Vec<Option<Entry<'b>>>>,
    #[serde(alias = "usageMetadata")]
    usage: Raw<'b>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct Entry<'b> {
    index: Option<Value>,
    #[serde(alias = "values")]
    embedding: Raw<'b>,
}

impl EmbedReply<'_> {
    fn read(self, vendor: &Vendor, body: &[u8], texts: usize) -> Result<Embeddings, Error> {
        let data = self.data.unwrap_or_default();
        if data.is_empty()
            && let Some(error) = &self.error
        {
            return Err(failure_inside(vendor, error, body));
        }
        let model = Some(word(self.model.as_ref()));
        let counts = Counts::read(self.usage);
        Ok(Embeddings {
            vectors: in_order(data, texts).map_err(|what| unpaired(what, body, texts))?,
            usage: match vendor.dialect {
                Dialect::Gemini => gemini::usage(&counts, true),
                _ => openai::usage(&counts, true),
            },
            model: model.filter(|model| !model.is_empty()),
        })
    }
}

/// Whether a reply numbers its vectors in a way that pairs none with its text, for example each with 0.
pub(super) fn is_unordered(body: &[u8], texts: usize) -> bool {
    let data = serde_json::from_slice::<EmbedReply<'_>>(body);
    let data = data.ok().and_then(|reply| reply.data).unwrap_or_default();
    data.len() == texts && in_order(data, texts).is_err()
}

/// Sorts vectors in the order of their texts: by their index, or in the order of the reply if they have none.
fn in_order(data: Vec<Option<Entry<'_>>>, texts: usize) -> Result<Vec<Embedded>, String> {
    if data.len() != texts {
        return Err(format!("{} vectors for {texts} texts", data.len()));
    }
    let embedding = |entry: Option<Entry<'_>>| vector(entry.and_then(|entry| entry.embedding));
    if data.iter().flatten().all(|entry| entry.index.is_none()) {
        return Ok(data.into_iter().map(embedding).collect());
    }
    let mut places: Vec<Option<Embedded>> = (0..texts).map(|_| None).collect();
    for entry in data.into_iter().flatten() {
        let shown = word(entry.index.as_ref());
        let index = entry.index.as_ref().and_then(Value::as_u64);
        let place = index.and_then(|index| places.get_mut(usize::try_from(index).ok()?));
        match place {
            Some(place @ None) => *place = Some(embedding(Some(entry))),
            _ => return Err(format!("a vector with the index {shown:?}")),
        }
    }
    // As many entries as places, and no place taken twice: what is missing stands as null.
    let places = places.into_iter();
    Ok(places
        .map(|place| place.unwrap_or_else(|| vector(None)))
        .collect())
}

/// The vector of one entry of a reply.
fn vector(raw: Option<&RawValue>) -> Embedded {
    let entry = raw.map_or("null", RawValue::get);
    let unusable = |why: String| Unusable {
        why,
        entry: entry.to_owned(),
    };
    match numbers(entry) {
        Ok(numbers) if numbers.is_empty() => Err(unusable("an empty vector".to_owned())),
        Ok(numbers) => Ok(numbers),
        Err(_) if entry == "null" => Err(unusable("null in the place of a vector".to_owned())),
        Err(why) => Err(unusable(format!("not a vector: {why}"))),
    }
}

/// Reads a list of numbers, or base64 of little-endian numbers of four bytes.
fn numbers(entry: &str) -> Result<Vec<f32>, String> {
    let unreadable = |error: serde_json::Error| error.to_string();
    let numbers: Vec<f32> = if entry.starts_with('"') {
        let text: String = serde_json::from_str(entry).map_err(unreadable)?;
        let bytes = STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let bytes = bytes.filter(|bytes| bytes.len() % 4 == 0);
        let bytes = bytes.ok_or("neither numbers nor base64 of some")?;
        let (floats, _) = bytes.as_chunks();
        let floats = floats.iter();
        floats.map(|four| f32::from_le_bytes(*four)).collect()
    } else {
        serde_json::from_str(entry).map_err(unreadable)?
    };
    let is_finite = numbers.iter().all(|number| number.is_finite());
    is_finite
        .then_some(numbers)
        .ok_or_else(|| "a number out of range".to_owned())
}

/// Splits the usage of a call by the estimated length of each text. A part is what is added to the rounded share of the
/// texts until then, so that all parts add up to the whole.
fn shares(whole: Usage, requests: &[&Request]) -> Vec<Usage> {
    let weight = |request: &&Request| u128::from(request.estimated_tokens().max(1));
    let sum: u128 = requests.iter().map(weight).sum();
    let (mut until, mut given) = (0, [0; 2]);
    let parts = requests.iter().map(|request| {
        until += weight(request);
        let all = [whole.input_tokens, whole.cached_input_tokens]
            .map(|tokens| (u128::from(tokens) * until / sum) as u64);
        let before = std::mem::replace(&mut given, all);
        Usage {
            input_tokens: all[0] - before[0],
            cached_input_tokens: all[1] - before[1],
            ..Usage::default()
        }
    });
    parts.collect()
}

#[cfg(test)]
#[path = "embed_tests.rs"]
mod tests;
