//! A request as JSON, for storage. It is read back unchanged, except for its id and its task, which are stored
//! separately.

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::native::Native;
use super::params::{CacheLifetime, Params, ResponseFormat};
use super::providers::native;
use super::reply_details::RawJson;
use super::request::{Message, Request, Role};

const INPUT: &str = "input";

/// The row of a stored request, without parsing the rest.
pub(crate) fn input_of(written: &str) -> Option<RawJson> {
    let rest = written.strip_prefix("{\"input\":")?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<RawJson>();
    values.next()?.ok()
}

/// The fields have OpenAI's names if there are any. Fields of its API that [`Params`] does not have are in `extra`.
impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // The first field, because `input_of` expects it there.
        put(&mut map, INPUT, self.input.as_ref())?;
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
        use serde::de::Error;

        let mut written = Written::deserialize(deserializer)?;
        if let Some(Native { format, body }) = written.native.take() {
            let request = native::read(format, body.into()).map_err(D::Error::custom)?;
            return Ok(Request {
                model: written.model,
                keep_reply: written.keep_reply,
                unchecked: written.unchecked,
                cache_prefix: written.cache_prefix,
                input: written.input,
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
            ..Request::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request with each field.
    const FULL: &str = r#"{"input":{"n":1.0,"big":12345678901234567890.5},"model":"m","system":"be brief","messages":[
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
            assert_eq!(input_of(&written), request.input);
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
}
