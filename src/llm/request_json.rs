//! A request as JSON: for storage, and in the format of one provider. A stored request is read back unchanged, except for
//! its id and its task, which are stored separately.

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::base::{Error, ErrorKind, form};

use super::native::{Native, NativeFormat};
use super::params::{CacheLifetime, Params, ResponseFormat};
use super::reply_details::RawJson;
use super::request::{Message, Request, Role};

const INPUT: &str = "input";
const LEFT_OUT: &str = "input_left_out";

/// The row of a stored request, and how many fields it lacks, without parsing the rest.
pub(crate) fn input_of(written: &str) -> Option<(RawJson, u32)> {
    let rest = form::fields(written).strip_prefix("\"input\":")?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<RawJson>();
    let input = values.next()?.ok()?;
    let after = rest[values.byte_offset()..].strip_prefix(&format!(",\"{LEFT_OUT}\":"));
    let number = after.and_then(|after| after.split([',', '}']).next()?.parse().ok());
    Some((input, number.unwrap_or(0)))
}

/// The fields have OpenAI's names if there are any. Fields of its API that [`Params`] does not have are in `extra`.
impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // The first fields, because `input_of` expects them there.
        put(&mut map, INPUT, self.input.as_ref())?;
        let left_out = (self.input_left_out > 0).then_some(self.input_left_out);
        put(&mut map, LEFT_OUT, left_out)?;
        put(&mut map, "model", self.model.as_ref())?;
        put(&mut map, "native", self.native.as_ref())?;
        // The other fields are derived from that one.
        if self.native.is_none() {
            let Params {
                temperature,
                max_tokens,
                top_p,
                stop,
                seed,
                response_format,
                dimensions,
            } = &self.params;
            put(&mut map, "system", self.system.as_ref())?;
            put(&mut map, "messages", Some(&self.messages))?;
            put(&mut map, "temperature", *temperature)?;
            put(&mut map, "max_tokens", *max_tokens)?;
            put(&mut map, "top_p", *top_p)?;
            put(&mut map, "stop", (!stop.is_empty()).then_some(stop))?;
            put(&mut map, "seed", *seed)?;
            put(&mut map, "response_format", response_format.as_ref())?;
            put(&mut map, "dimensions", *dimensions)?;
            let extra = (!self.extra.is_empty()).then_some(&self.extra);
            put(&mut map, "extra", extra)?;
            put(&mut map, "cache_prefix", self.cache_prefix)?;
        }
        put(&mut map, "keep_reply", self.keep_reply.then_some(true))?;
        put(&mut map, "unchecked", self.unchecked.then_some(true))?;
        map.end()
    }
}

fn put<M: SerializeMap>(
    map: &mut M,
    name: &str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(name, &value))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    input: Option<RawJson>,
    #[serde(default)]
    input_left_out: u32,
    model: Option<String>,
    system: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    prompt: Option<String>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    top_p: Option<f64>,
    #[serde(default)]
    stop: Vec<String>,
    seed: Option<i64>,
    response_format: Option<ResponseFormat>,
    dimensions: Option<u32>,
    #[serde(default)]
    extra: Map<String, Value>,
    #[serde(default)]
    keep_reply: bool,
    #[serde(default)]
    unchecked: bool,
    native: Option<Native>,
    cache_prefix: Option<CacheLifetime>,
}

/// Also reads `{"prompt": "…"}` for a single message of the user. Unknown fields are refused.
impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        let mut written = Written::deserialize(deserializer)?;
        if let Some(Native { format, body }) = written.native.take() {
            let request = read_native(format, body.into()).map_err(D::Error::custom)?;
            return Ok(Request {
                model: written.model,
                keep_reply: written.keep_reply,
                unchecked: written.unchecked,
                cache_prefix: written.cache_prefix,
                input: written.input,
                input_left_out: written.input_left_out,
                ..request
            });
        }
        let mut messages = written.messages;
        match (written.prompt, messages.is_empty()) {
            (Some(prompt), true) => messages.push(Message::new(Role::User, prompt)),
            (None, false) => {}
            (Some(_), false) => return Err(D::Error::custom("both `prompt` and `messages`")),
            (None, true) => return Err(D::Error::custom("neither `prompt` nor `messages`")),
        }
        Ok(Request {
            model: written.model,
            system: written.system,
            messages,
            params: Params {
                temperature: written.temperature,
                max_tokens: written.max_tokens,
                top_p: written.top_p,
                stop: written.stop,
                seed: written.seed,
                response_format: written.response_format,
                dimensions: written.dimensions,
            },
            extra: written.extra,
            keep_reply: written.keep_reply,
            unchecked: written.unchecked,
            cache_prefix: written.cache_prefix,
            input: written.input,
            input_left_out: written.input_left_out,
            ..Request::default()
        })
    }
}

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
        read_native(format, body).map_err(|why| Error::new(ErrorKind::Invalid, why))
    }
}

/// Reads a body. The error names what was found and what was expected.
pub(crate) fn read_native(format: NativeFormat, body: Value) -> Result<Request, String> {
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
    let system = first(
        &body,
        &["system", "systemInstruction", "system_instruction"],
    );
    request.system = system.map(|system| texts(system.get("parts").unwrap_or(system)));
    let model = body.get("model").and_then(Value::as_str);
    request.model = model.map(|model| model.trim_start_matches("models/").to_owned());
    let config = first(&body, &["generationConfig", "generation_config"]);
    let config = config.and_then(Value::as_object).unwrap_or(&body);
    if let Some(count) = first(config, &["candidateCount", "candidate_count"])
        && !matches!(count, Value::Null)
        && count != 1
    {
        return Err(format!(
            "found {count} in \"generationConfig.candidateCount\"; expected 1"
        ));
    }
    let most = first(
        config,
        &["max_tokens", "maxOutputTokens", "max_output_tokens"],
    );
    let most = most.and_then(Value::as_u64);
    request.params.max_tokens = most.and_then(|most| u32::try_from(most).ok());
    request.params.temperature = config.get("temperature").and_then(Value::as_f64);
    request.native = Some(Box::new(Native { format, body }));
    Ok(request)
}

/// The first of these fields that is there.
fn first<'f>(fields: &'f Map<String, Value>, names: &[&str]) -> Option<&'f Value> {
    names.iter().find_map(|name| fields.get(*name))
}

/// The texts of a content: it is one text, or a list of parts.
fn texts(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let of_parts = parts.filter_map(|part| part["text"].as_str());
    let texts: Vec<&str> = content.as_str().into_iter().chain(of_parts).collect();
    texts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request with each field.
    const FULL: &str = r#"{"input":{"n":1.0,"big":12345678901234567890.5},"input_left_out":12,"model":"m","system":"be brief","messages":[
        {"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":"ha"},
        {"role":"tool","content":"4","tool_call_id":"c-1"}],"temperature":0.1,"max_tokens":7,"top_p":0.3,
        "stop":["end"],"seed":-3,"response_format":{"type":"json_schema","json_schema":{"name":"answer",
        "schema":{"type":"object","properties":{"z":{},"a":{}}},"strict":true}},"dimensions":12,
        "extra":{"user":{"b":1,"a":[2]}},"keep_reply":true,"unchecked":true}"#;

    #[test]
    fn a_stored_request_is_read_back_unchanged() {
        let full: Request = serde_json::from_str(FULL).unwrap();
        let fields: Value = serde_json::from_str(FULL).unwrap();
        assert_eq!(json!(full), fields);
        let object = Request::new("x").with_response_format(ResponseFormat::JsonObject);
        for request in [Request::new("Name a prime."), full, object] {
            let written = serde_json::to_string(&request).unwrap();
            let read: Request = serde_json::from_str(&written).unwrap();
            assert_eq!(read, request, "{written}");
            let row = request.input.clone();
            let row = row.map(|row| (row, request.input_left_out));
            assert_eq!(input_of(&written), row);
            assert_eq!(input_of(&form::write(&request)), row, "as it is stored");
        }
    }

    #[test]
    fn a_prompt_is_accepted_and_nonsense_is_rejected() {
        let read: Request = serde_json::from_str(r#"{"prompt": "hi", "model": "m"}"#).unwrap();
        assert_eq!(read, Request::new("hi").with_model("m"));
        for bad in [
            "{}",
            r#"{"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}"#,
            r#"{"prompt": "hi", "temprature": 1}"#,
            r#"{"messages": [{"role": "usr", "content": "hi"}]}"#,
            r#"{"prompt": 7}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_texts_and_limits_of_a_body_are_read() {
        let cases = include_str!("native_bodies.json");
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
        let cases = include_str!("native_refused.json");
        let cases: Vec<(NativeFormat, Value, String)> = serde_json::from_str(cases).unwrap();
        for (format, body, why) in cases {
            let error = Request::from_native(format, body).unwrap_err();
            assert!(error.message().contains(&why), "{error}");
        }
    }
}
