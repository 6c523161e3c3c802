//! A request as JSON, for storage. It is read back unchanged, except for its id and its task, which are stored
//! separately.

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::from_native;
use super::native::NativeFormat;
use super::params::{CacheLifetime, Params, ResponseFormat};
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
        if let Some(input) = &self.input {
            map.serialize_entry(INPUT, input)?;
        }
        let mut put = |name: &str, value: Option<Value>| match value {
            Some(value) => map.serialize_entry(name, &value),
            None => Ok(()),
        };
        let Params {
            temperature,
            max_tokens,
            top_p,
            stop,
            seed,
            response_format,
            dimensions,
        } = &self.params;
        put("model", self.model.clone().map(Value::from))?;
        if let Some(native) = &self.native {
            // The other fields are derived from this one.
            let written = json!({"format": native.format().as_str(), "body": native.body()});
            put("native", Some(written))?;
            put("keep_reply", self.keep_reply.then(|| true.into()))?;
            put("unchecked", self.unchecked.then(|| true.into()))?;
            return map.end();
        }
        put("system", self.system.clone().map(Value::from))?;
        put(
            "messages",
            Some(self.messages.iter().map(message).collect()),
        )?;
        put("temperature", temperature.map(Value::from))?;
        put("max_tokens", max_tokens.map(Value::from))?;
        put("top_p", top_p.map(Value::from))?;
        put("stop", (!stop.is_empty()).then(|| stop.clone().into()))?;
        put("seed", seed.map(Value::from))?;
        put("response_format", response_format.as_ref().map(format))?;
        put("dimensions", dimensions.map(Value::from))?;
        let extra = (!self.extra.is_empty()).then(|| self.extra.clone().into());
        put("extra", extra)?;
        put("keep_reply", self.keep_reply.then(|| true.into()))?;
        put("unchecked", self.unchecked.then(|| true.into()))?;
        put(
            "cache_prefix",
            self.cache_prefix.map(|lifetime| lifetime.as_str().into()),
        )?;
        map.end()
    }
}

fn message(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), message.role.as_str().into());
    fields.insert("content".to_owned(), message.content.clone());
    fields.extend(message.extra.clone());
    fields.into()
}

fn format(format: &ResponseFormat) -> Value {
    match format {
        ResponseFormat::JsonObject => json!({"type": "json_object"}),
        ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        } => json!({
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": strict},
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    input: Option<RawJson>,
    model: Option<String>,
    system: Option<String>,
    #[serde(default)]
    messages: Vec<WrittenMessage>,
    prompt: Option<String>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    top_p: Option<f64>,
    #[serde(default)]
    stop: Vec<String>,
    seed: Option<i64>,
    response_format: Option<WrittenFormat>,
    dimensions: Option<u32>,
    #[serde(default)]
    extra: Map<String, Value>,
    #[serde(default)]
    keep_reply: bool,
    #[serde(default)]
    unchecked: bool,
    native: Option<WrittenNative>,
    cache_prefix: Option<CacheLifetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNative {
    format: String,
    body: Value,
}

#[derive(Deserialize)]
struct WrittenMessage {
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WrittenFormat {
    JsonObject,
    JsonSchema { json_schema: WrittenSchema },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSchema {
    name: String,
    schema: Value,
    #[serde(default)]
    strict: bool,
}

/// Also reads `{"prompt": "…"}` for a single message of the user. Unknown fields are refused.
impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        let mut written = Written::deserialize(deserializer)?;
        if let Some(WrittenNative { format, body }) = written.native.take() {
            let mut formats = NativeFormat::ALL.into_iter();
            let format = formats
                .find(|known| known.as_str() == format)
                .ok_or_else(|| D::Error::custom(format!("an unknown format {format:?}")))?;
            let request = from_native::read(format, body).map_err(D::Error::custom)?;
            return Ok(Request {
                model: written.model,
                keep_reply: written.keep_reply,
                unchecked: written.unchecked,
                cache_prefix: written.cache_prefix,
                input: written.input,
                ..request
            });
        }
        let mut messages = Vec::with_capacity(written.messages.len());
        for message in written.messages {
            let role = Role::parse(&message.role)
                .ok_or_else(|| D::Error::custom(format!("an unknown role {:?}", message.role)))?;
            messages.push(Message {
                role,
                content: message.content,
                extra: message.extra,
            });
        }
        match (written.prompt, messages.is_empty()) {
            (Some(prompt), true) => messages.push(Message::new(Role::User, prompt)),
            (None, false) => {}
            (Some(_), false) => return Err(D::Error::custom("both `prompt` and `messages`")),
            (None, true) => return Err(D::Error::custom("neither `prompt` nor `messages`")),
        }
        let response_format = written.response_format.map(|format| match format {
            WrittenFormat::JsonObject => ResponseFormat::JsonObject,
            WrittenFormat::JsonSchema { json_schema } => ResponseFormat::JsonSchema {
                name: json_schema.name,
                schema: json_schema.schema,
                strict: json_schema.strict,
            },
        });
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
                response_format,
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
    use super::*;

    fn full() -> Request {
        let mut tool = Message::new(Role::Tool, "4");
        tool.extra.insert("tool_call_id".to_owned(), "c-1".into());
        let mut parts = Message::new(Role::User, "");
        parts.content = json!([{"type": "text", "text": "hi"}]);
        let mut request = Request::chat(vec![parts, Message::new(Role::Assistant, "ha"), tool])
            .with_model("m")
            .with_system("be brief")
            .with_temperature(0.1)
            .with_max_tokens(7)
            .with_extra("user", json!({"b": 1, "a": [2]}))
            .with_keep_reply(true)
            .with_unchecked(true)
            .with_response_format(ResponseFormat::JsonSchema {
                name: "answer".to_owned(),
                schema: json!({"type": "object", "properties": {"z": {}, "a": {}}}),
                strict: true,
            });
        request.params.top_p = Some(0.3);
        request.params.stop = vec!["end".to_owned()];
        request.params.seed = Some(-3);
        request.params.dimensions = Some(12);
        request.input = Some(RawJson::new("{\"n\":1.0,\"big\":12345678901234567890.5}"));
        request
    }

    #[test]
    fn a_stored_request_is_read_back_unchanged() {
        let object = Request::new("x").with_response_format(ResponseFormat::JsonObject);
        for request in [Request::new("Name a prime."), full(), object] {
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
