//! Embeddings: a call with several texts, and a reply with a vector for each.
//!
//! Decoding is strict: a vector of another text looks like any other, so a reply is not used if it is unclear which
//! vector belongs to which text. A single unusable vector makes only its own text fail.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::{Error, Paid, Usage};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::HttpReply;

use super::answer::{malformed, unlike, unreadable};
use super::content::invalid;
use super::dialect::{Call, request_id};
use super::errors::{failure, failure_inside};
use super::fields::{Counts, leniently};
use super::further::further;
use super::limits::rate_hints;
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
    vendor.check_embeddings()?;
    let (Some(alike), Some(model)) = (requests.first(), model) else {
        let why = "no model named: set one on the request or for the provider";
        return Err(invalid(why.to_owned()));
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
    let hints = rate_hints(vendor.tells, &reply.headers);
    if !(200..300).contains(&reply.status) {
        let error = failure(vendor, reply).with_request_id(request_id(reply));
        let error = error.with_rate_hints(hints);
        // A server without an embedding model says so to every text alike.
        return Err(match reply.status {
            501 => error.with_unreachable(),
            _ => error,
        });
    }
    let read = leniently(&reply.body, |body| {
        Ok(match vendor.dialect {
            Dialect::Gemini => {
                read_gemini(vendor, serde_json::from_slice(body)?, body, requests.len())
            }
            _ => read_openai(vendor, serde_json::from_slice(body)?, body, requests.len()),
        })
    });
    let (embedded, warning) = match read {
        Ok(read) => read,
        Err(error) => (Err(unread(&error, &reply.body, requests.len())), None),
    };
    let named = |error: Error| {
        let error = error.with_status(reply.status).with_rate_hints(hints);
        error.with_request_id(request_id(reply))
    };
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
                Err(named(unlike(why, entry.as_bytes())).with_paid(paid))
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
struct EmbedReply {
    vectors: Vec<Embedded>,
    usage: Option<Usage>,
    model: Option<String>,
}

impl EmbedReply {
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

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct OpenAiReply<'b> {
    model: Option<Value>,
    data: Option<Vec<Option<Entry<'b>>>>,
    usage: Option<&'b RawValue>,
    error: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct Entry<'b> {
    index: Option<Value>,
    embedding: Option<&'b RawValue>,
}

fn read_openai(
    vendor: &Vendor,
    reply: OpenAiReply<'_>,
    body: &[u8],
    texts: usize,
) -> Result<EmbedReply, Error> {
    let data = reply.data.unwrap_or_default();
    if data.is_empty()
        && let Some(error) = &reply.error
    {
        return Err(failure_inside(vendor, error, body));
    }
    let model = Some(word(reply.model.as_ref()));
    Ok(EmbedReply {
        vectors: in_order(data, texts).map_err(|what| unpaired(what, body, texts))?,
        usage: openai::usage(&Counts::read(reply.usage), true),
        model: model.filter(|model| !model.is_empty()),
    })
}

/// Whether a reply numbers its vectors in a way that pairs none with its text, for example each with 0.
pub(super) fn is_unordered(body: &[u8], texts: usize) -> bool {
    let data = serde_json::from_slice::<OpenAiReply<'_>>(body);
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

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'b"))]
struct GeminiReply<'b> {
    embeddings: Option<Vec<Option<ContentEmbedding<'b>>>>,
    usage_metadata: Option<&'b RawValue>,
    error: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'b"))]
struct ContentEmbedding<'b> {
    values: Option<&'b RawValue>,
}

fn read_gemini(
    vendor: &Vendor,
    reply: GeminiReply<'_>,
    body: &[u8],
    texts: usize,
) -> Result<EmbedReply, Error> {
    if let Some(error) = &reply.error {
        return Err(failure_inside(vendor, error, body));
    }
    let embeddings = reply.embeddings.unwrap_or_default();
    if embeddings.len() != texts {
        let what = format!("{} vectors for {texts} texts", embeddings.len());
        return Err(unpaired(what, body, texts));
    }
    Ok(EmbedReply {
        vectors: embeddings
            .into_iter()
            .map(|one| vector(one.and_then(|one| one.values)))
            .collect(),
        usage: gemini::usage(&Counts::read(reply.usage_metadata), true),
        model: None,
    })
}

/// The vector of one entry of a reply.
fn vector(raw: Option<&RawValue>) -> Embedded {
    let entry = raw.map_or("null", RawValue::get);
    let unusable = |why: String| Unusable {
        why,
        entry: entry.to_owned(),
    };
    match serde_json::from_str(entry) {
        Ok(Vector(numbers)) if numbers.is_empty() => Err(unusable("an empty vector".to_owned())),
        Ok(Vector(numbers)) => Ok(numbers),
        Err(_) if entry == "null" => Err(unusable("null in the place of a vector".to_owned())),
        Err(error) => Err(unusable(format!("not a vector: {error}"))),
    }
}

/// A list of numbers, or base64 of little-endian numbers of four bytes.
struct Vector(Vec<f32>);

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;

        impl<'de> Visitor<'de> for Numbers {
            type Value = Vec<f32>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<f32>, A::Error> {
                let mut vector = Vec::new();
                while let Some(number) = numbers.next_element()? {
                    vector.push(number);
                }
                Ok(vector)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<f32>, E> {
                let bytes = STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok();
                let bytes = bytes.filter(|bytes| bytes.len() % 4 == 0);
                let bytes = bytes.ok_or_else(|| E::custom("neither numbers nor base64 of some"))?;
                let (floats, _) = bytes.as_chunks();
                Ok(floats
                    .iter()
                    .map(|four| f32::from_le_bytes(*four))
                    .collect())
            }
        }

        let vector = deserializer.deserialize_any(Numbers)?;
        if vector.iter().all(|number| number.is_finite()) {
            Ok(Self(vector))
        } else {
            Err(de::Error::custom("a number out of range"))
        }
    }
}

/// Splits the usage of a call by the estimated length of each text. The parts add up to the whole.
fn shares(whole: Usage, requests: &[&Request]) -> Vec<Usage> {
    let weights: Vec<u64> = requests
        .iter()
        .map(|request| u64::from(request.estimated_tokens().max(1)))
        .collect();
    let input = share(whole.input_tokens, &weights);
    let cached = share(whole.cached_input_tokens, &weights);
    let parts = input.into_iter().zip(cached);
    parts
        .map(|(input_tokens, cached_input_tokens)| Usage {
            input_tokens,
            cached_input_tokens,
            ..Usage::default()
        })
        .collect()
}

/// Splits a number by weights: the parts are what is added to the rounded share of the weights until then, so that they
/// add up to it.
fn share(whole: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let (mut weight, mut given) = (0, 0);
    let parts = weights.iter().map(|own| {
        weight += u128::from(*own);
        let until = (u128::from(whole) * weight / sum.max(1)) as u64;
        until - std::mem::replace(&mut given, until)
    });
    parts.collect()
}

#[cfg(test)]
#[path = "embed_tests.rs"]
mod tests;
