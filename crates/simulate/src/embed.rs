//! Embeddings: one vector for each input of a call. A vector depends only on its text, so tests detect a client that
//! swaps two of them.

use serde_json::{Value, json};

use super::gemini;
use super::rules::{self, Fault, list};
use super::trouble::{prompt_key, unit};

/// Default number of dimensions.
const DIMENSIONS: u64 = 8;

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
    pub(super) inputs: Vec<(String, usize)>,
}

impl Pack {
    /// A token for every four bytes of text, rounded up.
    pub(super) fn tokens(&self) -> u64 {
        let bytes: usize = self.inputs.iter().map(|(text, _)| text.len()).sum();
        (bytes as u64).div_ceil(4)
    }
}

/// Reads a request in OpenAI's form, whose vendor knows the fields of this rule.
pub(super) fn parse_openai(body: &[u8], rule: &str) -> Result<Pack, Fault> {
    let root = rules::read(body, "openai", "embeddings_any")?;
    rules::check(&root, "", "openai", rule)?;
    let wanted = root["dimensions"]
        .as_u64()
        .or(root["output_dimension"].as_u64());
    let dimensions = wanted.unwrap_or(DIMENSIONS) as usize;
    let is_tokens = |input: &Value| list(input).next().is_some_and(Value::is_u64);
    let texts = match &root["input"] {
        Value::Array(texts) if !is_tokens(&root["input"]) => texts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let input = |text: &Value| match text {
        Value::String(text) if !text.is_empty() && texts[0].is_string() => {
            Ok((text.clone(), dimensions))
        }
        tokens if is_tokens(tokens) && !texts[0].is_string() => Ok((text.to_string(), dimensions)),
        _ => {
            let message = "Invalid 'input': expected strings or arrays of tokens, all of one kind and none empty.";
            Err(Fault::invalid("input", message))
        }
    };
    let inputs = texts.iter().map(input).collect::<Result<_, _>>()?;
    Ok(Pack {
        model: root["model"].as_str().unwrap_or_default().to_owned(),
        inputs,
    })
}

/// Reads a request in Google's form, made to `model`.
pub(super) fn parse_gemini(body: &[u8], model: &str) -> Result<Pack, Fault> {
    let root = gemini::read(body, "embeddings")?;
    let mut inputs = Vec::new();
    for (nth, request) in list(&root["requests"]).enumerate() {
        if request["model"] != format!("models/{model}") {
            let at = format!("requests[{nth}].model");
            let message = format!("* {at}: must be models/{model}, as in the address\n");
            return Err(Fault::invalid(at, message));
        }
        let dimensions = request["outputDimensionality"].as_u64();
        let dimensions = dimensions.unwrap_or(DIMENSIONS) as usize;
        let text = rules::text(&request["content"]["parts"]);
        if text.is_empty() {
            return Err(Fault::invalid(
                format!("requests[{nth}].content"),
                "content is empty",
            ));
        }
        inputs.push((text, dimensions));
    }
    Ok(Pack {
        model: model.to_owned(),
        inputs,
    })
}

/// A list of vectors in reverse order: only their index shows the order.
pub(super) fn openai_body(pack: &Pack) -> Value {
    let vector = |(index, (text, dimensions)): (usize, &(String, usize))| {
        let embedding = embedding(text, *dimensions);
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<_> = pack.inputs.iter().enumerate().rev().map(vector).collect();
    json!({"object": "list", "model": pack.model, "data": data,
        "usage": {"prompt_tokens": pack.tokens(), "total_tokens": pack.tokens()}})
}

/// The vectors in order.
pub(super) fn gemini_body(pack: &Pack) -> Value {
    let vector =
        |(text, dimensions): &(String, usize)| json!({"values": embedding(text, *dimensions)});
    let vectors: Vec<_> = pack.inputs.iter().map(vector).collect();
    if vectors.is_empty() {
        json!({})
    } else {
        json!({"embeddings": vectors})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test_client::{cases, with};

    #[test]
    fn vectors_are_fixed_for_ever_and_each_texts_own() {
        assert_eq!(embedding("hello", 3), embedding("hello", 8)[..3]);
        let bits = |n: u32| embedding(&n.to_string(), 2).into_iter().map(f32::to_bits);
        let all: BTreeSet<Vec<u32>> = (0..1_000).map(|n| bits(n).collect()).collect();
        assert_eq!(all.len(), 1_000);
        assert!(embedding("x", 500).iter().all(|number| number.abs() <= 1.0));
    }

    #[test]
    fn bad_packs_are_refused() {
        let read = |fields: &str, rule: &str| {
            let body = with(json!({"model": "m", "input": "x"}), fields).to_string();
            parse_openai(body.as_bytes(), rule)
                .map(drop)
                .map_err(|fault| fault.at)
        };
        let large = json!({"input": vec!["x"; 2_049]}).to_string();
        let rest = cases(
            r#"
            {"input": null} => input
            {"model": null} => model
            {"input": []} => input
            {"input": ""} => input
            {"input": ["x", ""]} => input
            {"input": ["x", [1]]} => input
            {"input": [[1], "x"]} => input
            {"dimensions": 0} => dimensions
            {"dimensions": 5000} => dimensions
            {"encoding_format": "hex"} => encoding_format
            {"output_dimension": 2} => output_dimension
            {"inputs": 2} => inputs
        "#,
        );
        for (fields, at) in rest.chain([(&*large, "input")]) {
            assert_eq!(
                read(fields, "embeddings_openai"),
                Err(at.to_owned()),
                "{fields}"
            );
        }
        assert_eq!(
            read(r#"{"input": [[1, 2], [3]]}"#, "embeddings_openai"),
            Ok(())
        );
        assert_eq!(
            read(r#"{"output_dimension": 2}"#, "embeddings_mistral"),
            Ok(())
        );
        let fault = read(r#"{"dimensions": 2}"#, "embeddings_mistral");
        assert_eq!(fault, Err("dimensions".to_owned()));
    }

    #[test]
    fn googles_requests_name_the_model_of_the_address() {
        let request = |model: &str| json!({"model": model, "content": {"parts": [{"text": "x"}]}});
        let read = |requests: Vec<Value>| {
            parse_gemini(json!({"requests": requests}).to_string().as_bytes(), "m")
        };
        assert_eq!(read(vec![request("models/m")]).unwrap().inputs.len(), 1);
        for (requests, at) in [
            (vec![request("m")], "requests[0].model"),
            (vec![], "requests"),
            (vec![request("models/m"); 101], "requests"),
        ] {
            assert_eq!(read(requests).unwrap_err().at, at);
        }
    }
}
