//! Embeddings: one vector for each input of a call. A vector depends only on its text, so tests detect a client that
//! swaps two of them.

use std::collections::BTreeSet;

use base64::engine::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Vendor;
use super::gemini;
use super::objects;
use super::prompt::Fault;
use super::script::{prompt_key, unit};
use super::tree::{Object, Spelling};

/// Default number of dimensions.
const DIMENSIONS: u64 = 8;
const MOST_DIMENSIONS: u64 = 4_096;
/// Maximum number of inputs per call, at OpenAI and at Google.
const OPENAI_INPUTS: usize = 2_048;
const GEMINI_INPUTS: usize = 100;

/// The vector that the simulator gives for a text: numbers from -1 to 1.
///
/// ```
/// use batchwright_simulate::embedding;
///
/// assert_eq!(embedding("hello", 8), embedding("hello", 8));
/// assert_ne!(embedding("hello", 8), embedding("Hello", 8));
/// ```
pub fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let key = prompt_key(text);
    let number = |place| unit(key ^ place).mul_add(2.0, -1.0) as f32;
    (1..).take(dimensions).map(number).collect()
}

/// A request for embeddings.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) model: String,
    /// Each text and how many numbers its vector has.
    inputs: Vec<(String, usize)>,
    base64: bool,
    /// Of the distinct texts.
    pub(super) keys: Vec<u64>,
    /// A token for every four bytes of text, rounded up.
    pub(super) tokens: u64,
}

impl Pack {
    fn new(model: &str, inputs: Vec<(String, usize)>, base64: bool) -> Pack {
        let keys: BTreeSet<_> = inputs.iter().map(|(text, _)| prompt_key(text)).collect();
        let bytes: usize = inputs.iter().map(|(text, _)| text.len()).sum();
        Pack {
            model: model.to_owned(),
            keys: keys.into_iter().collect(),
            tokens: (bytes as u64).div_ceil(4),
            inputs,
            base64,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Leaves the vectors out of the reply.
    pub(super) fn clear(&mut self) {
        self.inputs.clear();
    }
}

/// Reads a request in OpenAI's form.
pub(super) fn parse_openai(body: &[u8], vendor: Option<Vendor>) -> Result<Pack, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = Object::new(&value, "", Spelling::Exact)?;
    let known = match vendor {
        Some(Vendor::Local | Vendor::OpenRouter | Vendor::Nvidia) => None,
        Some(Vendor::Mistral) => Some("embeddings_mistral"),
        Some(_) => Some("embeddings_openai"),
        None => Some("embeddings_known"),
    };
    known.map_or(Ok(()), |known| objects::check(&root, "openai", known))?;
    objects::check(&root, "openai", "embeddings_any")?;
    let model = root.text("model")?.unwrap_or_default();
    let wanted = match root.whole("dimensions", 1)? {
        Some(wanted) => Some(wanted),
        None => root.whole("output_dimension", 1)?,
    };
    let dimensions = dimensions(wanted, || root.at("dimensions"))?;
    let base64 = root.text("encoding_format")? == Some("base64");
    let input = root.get("input").unwrap_or(&Value::Null);
    let are_tokens = |list: &[Value]| !list.is_empty() && list.iter().all(Value::is_u64);
    let texts = match input {
        Value::Array(texts) if !are_tokens(texts) => texts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let fault = |message: &str| Err(Fault::invalid("input", message));
    if texts.is_empty() {
        return fault("Invalid 'input': empty array.");
    }
    if texts.len() > OPENAI_INPUTS {
        return fault("Invalid 'input': array too long, expected at most 2048 elements.");
    }
    let mut inputs = Vec::with_capacity(texts.len());
    for text in texts {
        match text {
            Value::String(text) if text.is_empty() => {
                return fault("Invalid 'input': input cannot be an empty string.");
            }
            Value::String(text) if texts[0].is_string() => {
                inputs.push((text.clone(), dimensions));
            }
            Value::Array(tokens) if are_tokens(tokens) && !texts[0].is_string() => {
                inputs.push((text.to_string(), dimensions));
            }
            _ => {
                return fault(
                    "Invalid 'input': expected strings or arrays of tokens, all of one kind.",
                );
            }
        }
    }
    Ok(Pack::new(model, inputs, base64))
}

/// Reads a request in Google's form, made to `model`.
pub(super) fn parse_gemini(body: &[u8], model: &str) -> Result<Pack, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = objects::request(&value, Spelling::Protobuf, "gemini", "embeddings")?;
    let requests = root.objects("requests")?.unwrap_or_default();
    if requests.is_empty() || requests.len() > GEMINI_INPUTS {
        let message = "* BatchEmbedContentsRequest.requests: at least one and at most 100 requests \
                       can be in one batch\n";
        return Err(Fault::invalid("requests", message));
    }
    let mut inputs = Vec::with_capacity(requests.len());
    for request in &requests {
        if request
            .text("model")?
            .and_then(|name| name.strip_prefix("models/"))
            != Some(model)
        {
            let at = request.at("model");
            let message = format!("* {at}: must be models/{model}, as in the address\n");
            return Err(Fault::invalid(at, message));
        }
        let content = request.object("content")?;
        let text = gemini::text(&content.ok_or_else(|| request.missing("content"))?)?;
        if text.is_empty() {
            let at = request.at("content");
            return Err(Fault::invalid(at, "content is empty"));
        }
        let wanted = request.whole("outputDimensionality", 1)?;
        let dimensions = dimensions(wanted, || request.at("outputDimensionality"))?;
        inputs.push((text, dimensions));
    }
    Ok(Pack::new(model, inputs, false))
}

fn dimensions(wanted: Option<u64>, at: impl FnOnce() -> String) -> Result<usize, Fault> {
    let wanted = wanted.unwrap_or(DIMENSIONS);
    if wanted > MOST_DIMENSIONS {
        let at = at();
        let message = format!("'{at}' must be at most {MOST_DIMENSIONS}, found {wanted}.");
        return Err(Fault::invalid(at, message));
    }
    Ok(wanted as usize)
}

/// Appends a list of vectors in reverse order: only their index shows the order.
pub(super) fn write_openai(out: &mut Vec<u8>, pack: &Pack) {
    let vector = |(index, (text, dimensions)): (usize, &(String, usize))| {
        let vector = embedding(text, *dimensions);
        let embedding = if pack.base64 {
            base64(&vector).into()
        } else {
            json!(vector)
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<_> = pack.inputs.iter().enumerate().rev().map(vector).collect();
    let body = json!({"object": "list", "model": pack.model, "data": data,
        "usage": {"prompt_tokens": pack.tokens, "total_tokens": pack.tokens}});
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, &body);
}

/// Appends the vectors in order.
pub(super) fn write_gemini(out: &mut Vec<u8>, pack: &Pack) {
    let vector =
        |(text, dimensions): &(String, usize)| json!({"values": embedding(text, *dimensions)});
    let vectors: Vec<_> = pack.inputs.iter().map(vector).collect();
    let body = if vectors.is_empty() {
        json!({})
    } else {
        json!({"embeddings": vectors})
    };
    let _ = serde_json::to_writer(out, &body);
}

/// The numbers' bytes, the lowest first, in base 64.
fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|n| n.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openai(body: &Value, vendor: Option<Vendor>) -> Result<Pack, Fault> {
        parse_openai(body.to_string().as_bytes(), vendor)
    }

    #[test]
    fn vectors_are_fixed_for_ever_and_each_texts_own() {
        assert_eq!(embedding("hello", 3), embedding("hello", 8)[..3]);
        let bits = |n: u32| embedding(&n.to_string(), 2).into_iter().map(f32::to_bits);
        let all: BTreeSet<Vec<u32>> = (0..1_000).map(|n| bits(n).collect()).collect();
        assert_eq!(all.len(), 1_000);
        assert!(embedding("x", 500).iter().all(|number| number.abs() <= 1.0));
    }

    #[test]
    fn a_vector_survives_being_written() {
        let pack = openai(
            &json!({"model": "m", "input": "x", "dimensions": 300}),
            None,
        )
        .unwrap();
        let mut out = Vec::new();
        write_openai(&mut out, &pack);
        let body: Value = serde_json::from_slice(&out).unwrap();
        let read: Vec<f32> = serde_json::from_value(body["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(read, embedding("x", 300));
    }

    #[test]
    fn bad_packs_are_refused() {
        let many = vec!["x"; 2_049];
        let cases = [
            (json!({"model": "m"}), "input"),
            (json!({"input": "x"}), "model"),
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": ""}), "input"),
            (json!({"model": "m", "input": ["x", ""]}), "input"),
            (json!({"model": "m", "input": ["x", [1]]}), "input"),
            (json!({"model": "m", "input": [[1], "x"]}), "input"),
            (json!({"model": "m", "input": [1, -2]}), "input"),
            (json!({"model": "m", "input": many}), "input"),
            (
                json!({"model": "m", "input": "x", "dimensions": 0}),
                "dimensions",
            ),
            (
                json!({"model": "m", "input": "x", "dimensions": 5_000}),
                "dimensions",
            ),
            (
                json!({"model": "m", "input": "x", "encoding_format": "hex"}),
                "encoding_format",
            ),
            (
                json!({"model": "m", "input": "x", "output_dimension": 2}),
                "output_dimension",
            ),
            (json!({"model": "m", "input": "x", "inputs": 2}), "inputs"),
        ];
        for (body, at) in cases {
            let fault = openai(&body, Some(Vendor::OpenAi)).unwrap_err();
            assert_eq!(fault.at(), at, "{body}");
        }
        let tokens = json!({"model": "m", "input": [[1, 2], [3]]});
        assert!(openai(&tokens, Some(Vendor::OpenAi)).is_ok());
        let mistral = json!({"model": "m", "input": "x", "output_dimension": 2});
        assert!(openai(&mistral, Some(Vendor::Mistral)).is_ok());
        let fault = openai(
            &json!({"model": "m", "input": "x", "dimensions": 2}),
            Some(Vendor::Mistral),
        );
        assert_eq!(fault.unwrap_err().at(), "dimensions");
    }

    #[test]
    fn googles_requests_name_the_model_of_the_address() {
        let request = |model: &str| json!({"model": model, "content": {"parts": [{"text": "x"}]}});
        let read = |requests: Vec<Value>| {
            parse_gemini(json!({"requests": requests}).to_string().as_bytes(), "m")
        };
        assert_eq!(read(vec![request("models/m")]).unwrap().len(), 1);
        assert_eq!(
            read(vec![request("m")]).unwrap_err().at(),
            "requests[0].model"
        );
        assert_eq!(read(vec![]).unwrap_err().at(), "requests");
        assert_eq!(
            read(vec![request("models/m"); 101]).unwrap_err().at(),
            "requests"
        );
        let mut odd = request("models/m");
        odd["dimensions"] = 3.into();
        assert_eq!(read(vec![odd]).unwrap_err().at(), "requests[0].dimensions");
    }
}
