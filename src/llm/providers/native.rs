//! Requests in the format of one provider. They are sent unchanged to this provider, and to no other.

use serde_json::Value;

use crate::base::{Error, ErrorKind, Sent};
use crate::llm::native::{Native, NativeFormat};
use crate::llm::request::{Message, Request, Role};

use super::vendor::Vendor;

impl Request {
    /// A request in the format of one provider's API: the body of a call, or of a line of a batch. This provider gets
    /// the body unchanged, except for the model. Other providers do not get it: there the request fails as
    /// [`ErrorKind::Invalid`] without being sent. The fingerprint is computed from the body and the model. Its messages
    /// have the texts of the body; they are not sent. Its answer is not checked against a format that the body names.
    ///
    /// ```
    /// use batchwright::Request;
    /// use batchwright::client::NativeFormat;
    /// let turn = serde_json::json!({"role": "user", "content": "Name a prime."});
    /// let body = serde_json::json!({"model": "claude-x", "max_tokens": 9, "messages": [turn]});
    /// let request = Request::from_native(NativeFormat::AnthropicMessages, body)?;
    /// assert_eq!(request.model.as_deref(), Some("claude-x"));
    /// assert_eq!(request.messages[0].text(), "Name a prime.");
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it contains no prompt, or requests what a bulk run does not support: a streamed
    /// answer, or several answers.
    pub fn from_native(format: NativeFormat, body: Value) -> Result<Self, Error> {
        read(format, body).map_err(|why| Error::new(ErrorKind::Invalid, why))
    }
}

/// Reads a body. The error names what was found and what was expected.
pub(crate) fn read(format: NativeFormat, body: Value) -> Result<Request, String> {
    let Value::Object(body) = body else {
        return Err("found a body that is not an object; expected an object".to_owned());
    };
    let streamed = body.get("stream").unwrap_or(&Value::Null);
    if !matches!(streamed, Value::Null | Value::Bool(false)) {
        return Err(format!(
            "found {streamed} in \"stream\"; expected false: answers of a bulk run are not streamed"
        ));
    }
    let (turns, content) = format.turns();
    let said = body.get(turns).and_then(Value::as_array);
    let Some(said) = said.filter(|said| !said.is_empty()) else {
        return Err(format!("found no \"{turns}\"; expected a list of them"));
    };
    let messages = said.iter().map(|turn| {
        let role = match turn["role"].as_str() {
            Some("assistant" | "model") => Role::Assistant,
            _ => Role::User,
        };
        Message::new(role, texts(&turn[content]))
    });
    let mut request = Request::chat(messages.collect());
    let of_body = |names: [&str; 2]| names.into_iter().find_map(|name| body.get(name));
    let system =
        of_body(["system", "systemInstruction"]).or_else(|| body.get("system_instruction"));
    request.system = system.map(|system| texts(system.get("parts").unwrap_or(system)));
    let model = body.get("model").and_then(Value::as_str);
    request.model = model.map(|model| model.trim_start_matches("models/").to_owned());
    let config = of_body(["generationConfig", "generation_config"]);
    let config = config.and_then(Value::as_object).unwrap_or(&body);
    let of_config = |names: [&str; 2]| names.into_iter().find_map(|name| config.get(name));
    if let Some(count) = of_config(["candidateCount", "candidate_count"])
        && !matches!(count, Value::Null)
        && count != 1
    {
        return Err(format!(
            "found {count} in \"generationConfig.candidateCount\"; expected 1"
        ));
    }
    let most = of_config(["max_tokens", "maxOutputTokens"]);
    let most = most.or_else(|| config.get("max_output_tokens"));
    let most = most.and_then(Value::as_u64);
    request.params.max_tokens = most.and_then(|most| u32::try_from(most).ok());
    request.params.temperature = config.get("temperature").and_then(Value::as_f64);
    request.native = Some(Box::new(Native::new(format, body)));
    Ok(request)
}

/// The texts of a content: it is one text, or a list of parts.
fn texts(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let of_parts = parts.filter_map(|part| part["text"].as_str());
    let texts: Vec<&str> = content.as_str().into_iter().chain(of_parts).collect();
    texts.join("\n\n")
}

/// The body of a request in the format of its provider, with the name of the model; `None` if the request is in the common format.
///
/// # Errors
/// If it is in the format of another vendor.
pub(super) fn body(
    vendor: &Vendor,
    request: &Request,
    model: &str,
) -> Result<Option<Value>, Error> {
    let Some(native) = request.native.as_deref() else {
        return Ok(None);
    };
    if let Some(why) = refused(native.format(), vendor.name) {
        let why = format!("{why}; nothing was sent");
        return Err(Error::new(ErrorKind::Invalid, why).with_sent(Sent::No));
    }
    let mut body = native.body().clone();
    // Gemini's model stands in the address.
    if native.format() == NativeFormat::AnthropicMessages {
        body.insert("model".to_owned(), model.into());
    }
    Ok(Some(body.into()))
}

/// Why a provider does not get a body of this format, if it does not. Clients of users get all.
pub(crate) fn refused(format: NativeFormat, provider: &str) -> Option<String> {
    let own = format.provider();
    let is_of_user = Vendor::named(provider).is_none();
    (!is_of_user && provider != own).then(|| {
        format!("a line in the format of {own}'s API goes only to {own}, and not to {provider}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_texts_and_limits_of_a_body_are_read() {
        let cases = include_str!("../native_bodies.json");
        let cases: Vec<(NativeFormat, Value)> = serde_json::from_str(cases).unwrap();
        for (format, body) in cases {
            let request = Request::from_native(format, body.clone()).unwrap();
            let said: Vec<_> = request.messages.iter().map(Message::text).collect();
            assert_eq!(said, ["Look", "I see.", "And now?"]);
            assert_eq!(request.messages[1].role, Role::Assistant);
            assert_eq!(request.system.as_deref(), Some("Be brief."));
            assert_eq!(request.model.as_deref(), Some("m"));
            assert_eq!(request.params.max_tokens, Some(64));
            assert_eq!(request.params.temperature, Some(0.5));
            let native = request.native.unwrap();
            assert_eq!((native.format(), json!(native.body())), (format, body));
        }
    }

    #[test]
    fn what_a_bulk_run_does_not_do_is_refused() {
        let cases = include_str!("../native_refused.json");
        let cases: Vec<(NativeFormat, Value, String)> = serde_json::from_str(cases).unwrap();
        for (format, body, why) in cases {
            let error = Request::from_native(format, body).unwrap_err();
            assert!(error.message().contains(&why), "{error}");
        }
    }
}
