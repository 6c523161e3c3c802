//! One prompt, in the terms that all providers share.

use std::any::Any;
use std::fmt;

use serde_json::{Map, Value};

use crate::base::brief::{Bytes, FieldIf, Many, Name};
use crate::base::error::{Error, ErrorKind};

use super::schema::{self, Schema};
use super::schema_given;
use super::user_data::UserData;

/// Who speaks in a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Instructions above the conversation.
    System,
    /// The newer name for [`Role::System`] at some providers; passed on as it is.
    Developer,
    /// The person asking.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            _ => return None,
        })
    }
}

/// One turn of a conversation. Its `Debug` says how long it is, not what it says.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text, or a list of content parts in the provider's own shape.
    pub content: Value,
    /// Further fields, such as `name` or `tool_call_id`. Those that the provider has no place for
    /// are left out, which is said once as a warning.
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: Value::String(text.into()),
            extra: Map::new(),
        }
    }

    /// The text of the message; content parts contribute their `text` fields.
    pub fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts
                .iter()
                .filter_map(|part| part.get("text")?.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            _ => String::new(),
        }
    }
}

/// What shape the answer must have.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Any valid JSON object. Where no message mentions JSON, a sentence that does is added to the
    /// system text for OpenAI and those like it, some of which refuse the request otherwise.
    JsonObject,
    /// JSON that fits a schema. With the feature `schema` every answer is held against all of it,
    /// whatever a provider takes of it; without, it is checked for being JSON, and a warning in the
    /// log says so once:
    /// - OpenAI and those like it get it as it is. With `strict` they refuse much of what a schema
    ///   can say, and without it they may stray from it.
    /// - Anthropic gets a copy whose objects are closed and whose bounds and patterns stand in the
    ///   descriptions. A schema without such a copy (maps with any keys, recursion, `allOf`, more than
    ///   24 optional properties or 16 unions) is put into the system text instead.
    /// - Gemini gets it as it is, and knows of it: `$id`, `$defs`, `$ref` (with nothing beside it),
    ///   `$anchor`, `type`, `format`, `title`, `description`, `enum`, `items`, `prefixItems`,
    ///   `minItems`, `maxItems`, `minimum`, `maximum`, `anyOf`, `oneOf`, `properties`,
    ///   `additionalProperties`, `required`; recursion only in optional properties. It may refuse
    ///   large schemas, those with many `maxItems` among them, without saying why.
    JsonSchema {
        /// A name for the schema, of letters, digits, `_` and `-`, at most 64.
        name: String,
        /// The JSON Schema.
        schema: Value,
        /// Whether the provider should enforce it to the letter.
        strict: bool,
    },
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestTask {
    /// An answer to a conversation.
    #[default]
    Complete,
    /// The vector of a text. Vectors of different models cannot be compared, so a
    /// [`Route`](crate::Route) of several clients suits it only if all of them serve one model.
    Embed,
}

impl ResponseFormat {
    /// JSON that fits a schema. The schema's `title` names it, else it is called `answer`; it is
    /// strict if every object in it requires all its properties and allows no others, and OpenAI is
    /// known to take all else that it says. OpenAI's and Anthropic's wrapping of a schema
    /// (`{"type": "json_schema", "json_schema": {"name": …, "strict": …, "schema": …}}`, or a part of
    /// it) is taken off; its name and its `strict` are kept.
    ///
    /// ```
    /// use batchwright::{Request, ResponseFormat};
    /// let schema = serde_json::json!({"type": "object", "required": ["prime"]});
    /// let format = ResponseFormat::json_schema(schema)?;
    /// let request = Request::new("Name a prime.").with_response_format(format);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the schema is no object, or when nothing in it restricts an
    /// answer, as in `{}` or an example of an answer. With the feature `schema` also when it
    /// is no valid JSON Schema or refers to something outside of it, which is never fetched.
    pub fn json_schema(schema: Value) -> Result<Self, Error> {
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        let given = schema_given::read(schema).map_err(invalid)?;
        let schema = given.schema;
        Schema::compile(&schema).map_err(invalid)?;
        Ok(Self::JsonSchema {
            name: given.name.unwrap_or_else(|| schema::name(&schema)),
            strict: given.strict.unwrap_or_else(|| schema::is_strict(&schema)),
            schema,
        })
    }
}

/// Sampling parameters. What is unset is absent from the request: some models refuse even the
/// default value of a field they do not take.
#[derive(Clone, Default, PartialEq)]
pub struct Params {
    /// Randomness; left out, with a warning, beyond the provider's range. Default: the provider's.
    pub temperature: Option<f64>,
    /// The most tokens to answer with, reasoning included. Default: the provider's; Anthropic has
    /// none and is sent 4,096, on top of what `thinking` may use.
    pub max_tokens: Option<u32>,
    /// Nucleus sampling. Default: the provider's.
    pub top_p: Option<f64>,
    /// Texts that end the answer; Anthropic takes no blank ones. Default: none.
    pub stop: Vec<String>,
    /// For repeatable sampling; left out, with a warning, where the provider has none or not this
    /// one. Default: none.
    pub seed: Option<i64>,
    /// The shape of the answer. Default: text.
    pub response_format: Option<ResponseFormat>,
    /// Numbers in the vector of an embedding, where the model can shorten it. Default: the
    /// model's own length.
    pub dimensions: Option<u32>,
}

/// One prompt. Its `Debug` is short and shows none of its texts, so that it may be logged.
///
/// ```
/// use batchwright::Request;
/// let request = Request::new("Name a prime.").with_id("q-1").with_max_tokens(8);
/// assert_eq!(request.id.as_deref(), Some("q-1"));
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Request {
    /// The caller's name for it; results carry it back. Default: none.
    pub id: Option<String>,
    /// What is asked for. Default: an answer.
    pub task: RequestTask,
    /// The model. Default: the client's.
    pub model: Option<String>,
    /// Instructions put before the messages. Default: none.
    pub system: Option<String>,
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Sampling parameters and the shape of the answer.
    pub params: Params,
    /// Further fields of OpenAI's chat API, or of the provider's own. What the provider has no place
    /// for is left out, and `reasoning_effort` said in its words; what is left out is said once as a
    /// warning. No field here sets what [`Params`] sets, or asks for several answers or a stream.
    pub extra: Map<String, Value>,
    /// A value of the caller's own, which the [`Outcome`](crate::Outcome) carries back. Default: none.
    pub user_data: UserData,
}

impl Request {
    /// A request with one user message.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self::chat(vec![Message::new(Role::User, prompt)])
    }

    /// A request for the vector of a text. Requests of this kind that are alike in all but their
    /// text share calls; a call is lost, and made again, as a whole when its process is killed.
    pub fn embedding(text: impl Into<String>) -> Self {
        Self {
            task: RequestTask::Embed,
            ..Self::new(text)
        }
    }

    /// A request with a whole conversation.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// Sets the id, which results carry back. Default: none; results are told apart by their place.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the model. Default: the client's.
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Sets the system instructions. Default: none.
    pub fn with_system(mut self, system: impl Into<String>) -> Self {
        self.system = Some(system.into());
        self
    }

    /// Sets the most tokens to answer with, reasoning included. Default: see [`Params::max_tokens`].
    pub fn with_max_tokens(mut self, tokens: u32) -> Self {
        self.params.max_tokens = Some(tokens);
        self
    }

    /// Sets the temperature. Default: the provider's.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.params.temperature = Some(temperature);
        self
    }

    /// Sets the shape of the answer. An answer of another shape is asked for again once, and fails
    /// as [`ErrorKind::Invalid`] then. Default: any text.
    pub fn with_response_format(mut self, format: ResponseFormat) -> Self {
        self.params.response_format = Some(format);
        self
    }

    /// Sets a further field, see [`extra`](Self::extra). Default: none.
    pub fn with_extra(mut self, key: impl Into<String>, value: Value) -> Self {
        self.extra.insert(key.into(), value);
        self
    }

    /// Attaches a value of your own, which comes back with the outcome; see [`UserData`].
    ///
    /// ```
    /// use batchwright::{Context, Extract, Request, execute_bulk_sync};
    /// struct Row {
    ///     line: u32,
    /// }
    /// let request = Request::new("Name a prime.").with_user_data(Row { line: 7 });
    /// let outcomes = execute_bulk_sync(&Context::new(), &Extract, &[request], 1)?;
    /// assert_eq!(outcomes[0].user_data::<Row>().unwrap().line, 7);
    /// # Ok::<(), batchwright::BulkError>(())
    /// ```
    pub fn with_user_data(mut self, value: impl Any + Send + Sync) -> Self {
        self.user_data = UserData::new(value);
        self
    }

    /// The text to embed.
    ///
    /// # Errors
    /// When there is anything beside one text of the user, which a vector would leave out.
    pub(crate) fn text_to_embed(&self) -> Result<&str, &'static str> {
        let Params {
            dimensions: _,
            temperature: None,
            max_tokens: None,
            top_p: None,
            seed: None,
            response_format: None,
            stop,
        } = &self.params
        else {
            return Err("sampling parameters");
        };
        if !stop.is_empty() {
            return Err("sampling parameters");
        }
        if self.system.is_some() {
            return Err("a system text");
        }
        match &self.messages[..] {
            [
                Message {
                    role: Role::User,
                    content: Value::String(text),
                    extra,
                },
            ] if extra.is_empty() => Ok(text),
            [_] => Err("a message that is not a plain text of the user"),
            _ => Err("a conversation"),
        }
    }

    /// True when both may be embedded by one call.
    pub(crate) fn shares_calls_with(&self, other: &Self) -> bool {
        self.task == RequestTask::Embed
            && other.task == RequestTask::Embed
            && self.params.dimensions == other.params.dimensions
            && self.model == other.model
            && self.extra == other.extra
    }

    /// The messages as they are sent: `system` first, unless the conversation brings its own.
    pub(crate) fn rendered(
        &self,
    ) -> impl Iterator<Item = (&str, Text<'_>, Option<&Map<String, Value>>)> {
        let own = self
            .messages
            .first()
            .is_some_and(|m| matches!(m.role, Role::System | Role::Developer));
        let system = self.system.as_deref().filter(|_| !own);
        let system = system.map(|text| (Role::System.as_str(), Text::Plain(text), None));
        system.into_iter().chain(
            self.messages
                .iter()
                .map(|m| (m.role.as_str(), Text::Value(&m.content), Some(&m.extra))),
        )
    }

    /// Bytes of text in it, for estimates.
    pub(crate) fn text_bytes(&self) -> usize {
        self.rendered()
            .map(|(_, content, _)| match content {
                Text::Plain(text) => text.len(),
                Text::Value(content) => text_bytes(content),
            })
            .sum()
    }

    /// Bytes it holds in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        let messages = self.messages.iter();
        let messages: usize = messages
            .map(|m| 64 + weight(&m.content) + m.extra.values().map(weight).sum::<usize>())
            .sum();
        let extra: usize = self.extra.values().map(weight).sum();
        let system = self.system.as_ref().map_or(0, String::len);
        let schema = match &self.params.response_format {
            Some(ResponseFormat::JsonSchema { schema, .. }) => weight(schema),
            _ => 0,
        };
        size_of::<Self>() + 128 + messages + extra + system + schema
    }

    /// Input tokens, roughly: one for every 4 bytes of text, and a few for each message.
    pub(crate) fn estimated_tokens(&self) -> u32 {
        u32::try_from(self.text_bytes() / 4 + 4 * self.messages.len()).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("content", &Bytes(text_bytes(&self.content)))
            .field_if("extra", some_of(self.extra.len()))
            .finish()
    }
}

impl fmt::Debug for ResponseFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JsonObject => f.write_str("JsonObject"),
            Self::JsonSchema { name, strict, .. } => f
                .debug_struct("JsonSchema")
                .field("name", &Name(name))
                .field("strict", strict)
                .finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params")
            .field_if("temperature", self.temperature)
            .field_if("max_tokens", self.max_tokens)
            .field_if("top_p", self.top_p)
            .field_if("stop", some_of(self.stop.len()))
            .field_if("seed", self.seed)
            .field_if("response_format", self.response_format.as_ref())
            .field_if("dimensions", self.dimensions)
            .finish()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = self.system.as_ref().map(|text| Bytes(text.len()));
        let data = (!self.user_data.is_none()).then_some(&self.user_data);
        f.debug_struct("Request")
            .field_if("id", self.id.as_deref().map(Name))
            .field("task", &self.task)
            .field_if("model", self.model.as_deref().map(Name))
            .field_if("system", system)
            .field("messages", &Many(self.messages.len()))
            .field("text", &Bytes(self.text_bytes()))
            .field("params", &self.params)
            .field_if("extra", some_of(self.extra.len()))
            .field_if("user_data", data)
            .finish()
    }
}

fn some_of(number: usize) -> Option<Many> {
    (number > 0).then_some(Many(number))
}

fn text_bytes(content: &Value) -> usize {
    match content {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text")?.as_str())
            .map(str::len)
            .sum(),
        _ => 0,
    }
}

fn weight(value: &Value) -> usize {
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(k, v)| 48 + k.len() + weight(v)).sum(),
        _ => 0,
    }
}

/// A message's content without copying it.
#[derive(Clone, Copy)]
pub(crate) enum Text<'a> {
    Plain(&'a str),
    Value(&'a Value),
}

impl serde::Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(text) => serializer.serialize_str(text),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}
