//! Completions of texts as requests for chat: providers get the text as a message of the user.

use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// Most prompts of one request.
const MOST_PROMPTS: usize = 128;

/// The messages of the prompts of a body, and the fields of each chat request for one of them.
///
/// # Errors
/// When a field cannot be honoured.
pub(super) fn prompts(
    mut body: Map<String, Value>,
) -> Result<(Vec<Value>, Map<String, Value>), Problem> {
    refuse_others(&mut body)?;
    let prompts = match body.shift_remove("prompt") {
        Some(Value::Array(prompts)) => prompts,
        Some(prompt) => vec![prompt],
        None => Vec::new(),
    };
    let are_texts = prompts.iter().all(Value::is_string);
    if !are_texts || !(1..=MOST_PROMPTS).contains(&prompts.len()) {
        let why = format!(
            "prompt must be a text or a list of 1 to {MOST_PROMPTS} texts; lists of tokens are not supported"
        );
        return Err(Problem::invalid(why).param("prompt"));
    }
    let messages = prompts.into_iter();
    let messages = messages.map(|prompt| json!([{"role": "user", "content": prompt}]));
    Ok((messages.collect(), body))
}

/// Removes fields with the values that request nothing, and refuses their other values: no provider's chat has them.
fn refuse_others(body: &mut Map<String, Value>) -> Result<(), Problem> {
    let n = body.get("n").cloned().unwrap_or(json!(1));
    for (field, plain) in [
        ("best_of", n),
        ("echo", json!(false)),
        ("logprobs", Value::Null),
        ("messages", Value::Null),
        ("suffix", Value::Null),
    ] {
        let value = body.shift_remove(field).unwrap_or_default();
        if !value.is_null() && value != plain {
            let why = format!("{field} is not supported: prompts are sent as messages of a chat");
            return Err(Problem::invalid(why).param(field));
        }
    }
    Ok(())
}

/// A completion in the older format, from the same as a chat's.
pub(super) fn of_chat(mut completion: Value) -> Value {
    completion["object"] = "text_completion".into();
    let choices = completion["choices"].as_array_mut();
    for choice in choices.into_iter().flatten() {
        let message = choice["message"].take();
        let said = ["content", "refusal"].map(|field| message[field].as_str());
        let text = said.into_iter().flatten().next().unwrap_or_default();
        let end = choice["finish_reason"].as_str();
        let end = end.filter(|end| ["length", "content_filter"].contains(end));
        *choice = json!({
            "index": choice["index"], "text": text, "logprobs": null, "finish_reason": end.unwrap_or("stop"),
        });
        if message["refusal"].is_string() {
            choice["refusal"] = message["refusal"].clone();
        }
    }
    completion
}
