//! One prompt, in the terms that all providers share.

use derive_setters::Setters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::brief::{Bytes, Many, Name};

use super::attachment::{self, Part};
use super::native::Native;
use super::params::{CacheLifetime, Params, RequestTask, ResponseFormat};
use super::reply_details::RawJson;

/// Who speaks in a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
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
        self.into()
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        use Role::{Assistant, Developer, System, Tool, User};
        let mut all = [System, Developer, User, Assistant, Tool].into_iter();
        all.find(|role| role.as_str() == name)
    }
}

/// One turn of a conversation. Its `Debug` shows its length, not its text.
#[derive(Clone, PartialEq, Serialize, Deserialize, derive_more::Debug)]
pub struct Message {
    /// The role of the speaker.
    pub role: Role,
    /// The text, or a list of content parts: local files made by [`Part`], other parts in the format of OpenAI or of the
    /// provider.
    #[serde(default)]
    #[debug("{:?}", Bytes(Text::of(content).bytes()))]
    pub content: Value,
    /// Further fields, for example `name` or `tool_call_id`. Providers with the wire format of OpenAI get them unchanged;
    /// the others get the tool calls and their results.
    #[serde(flatten)]
    #[debug("{:?}", Many(extra.len()))]
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

    /// A message of several parts, some of which may be local files.
    pub fn of_parts(role: Role, parts: impl IntoIterator<Item = Part>) -> Self {
        let parts = parts.into_iter().map(Part::into_value);
        Self {
            content: parts.collect(),
            ..Self::new(role, "")
        }
    }

    /// The result of a tool call, for the model that requested it. `call` is the [id](crate::client::ToolCall::id) of the
    /// call.
    pub fn tool_result(call: impl Into<String>, text: impl Into<String>) -> Self {
        let mut message = Self::new(Role::Tool, text);
        let call = Value::String(call.into());
        message.extra.insert("tool_call_id".to_owned(), call);
        message
    }

    /// The text of the message; content parts contribute their `text` fields.
    pub fn text(&self) -> String {
        Text::of(&self.content).plain()
    }
}

/// One prompt. Its `Debug` is short and shows no text, so it may be logged.
///
/// ```
/// use batchwright::Request;
/// let request = Request::new("Name a prime.").with_id("q-1").with_max_tokens(8);
/// assert_eq!(request.id.as_deref(), Some("q-1"));
/// ```
#[derive(Clone, Default, PartialEq, derive_more::Debug, Setters)]
#[setters(generate = false, prefix = "with_")]
pub struct Request {
    /// An id chosen by the caller; its result has the same id. Default: none.
    #[debug("{:?}", id.as_deref().map(Name))]
    #[setters(generate, into, strip_option)]
    pub id: Option<String>,
    /// The kind of result. Default: an answer.
    pub task: RequestTask,
    /// The model. Default: the client's.
    #[debug("{:?}", model.as_deref().map(Name))]
    #[setters(generate, into, strip_option)]
    pub model: Option<String>,
    /// Instructions before the messages. Default: none.
    #[debug("{:?}", system.as_ref().map(|text| Bytes(text.len())))]
    #[setters(generate, into, strip_option)]
    pub system: Option<String>,
    /// The conversation, oldest first.
    #[debug("{:?} of {:?}", Many(messages.len()), Bytes(self.text_bytes()))]
    pub messages: Vec<Message>,
    /// Sampling parameters and the format of the answer.
    pub params: Params,
    /// Further fields of the provider's API. The first provider of a [route](crate::Route) gets them unchanged, and so do
    /// those after it that have the same wire format. The others get only the tools, in their own format; the answer
    /// [says](crate::client::ReplyDetails::left_out) what they did not get. A provider that does not support a field
    /// rejects the request. A field here cannot set anything that [`Params`] sets, and cannot request several answers or
    /// a stream.
    #[debug("{:?}", Many(extra.len()))]
    pub extra: Map<String, Value>,
    /// Whether the answer keeps the provider's whole reply, in
    /// [`ReplyDetails::reply`](crate::client::ReplyDetails::reply). It does not change the
    /// [fingerprint](crate::client::request_hash). Embeddings never keep the reply. Default: false.
    #[setters(generate)]
    pub keep_reply: bool,
    /// Whether any complete reply is the answer, also if it is empty, was cut off by a filter, or does not have the
    /// [requested format](Params::response_format). Otherwise such a reply fails, and one of another format is requested
    /// once more. A refusal is an error in any case. Default: false.
    #[setters(generate)]
    pub unchecked: bool,
    /// Whether, and for how long, the provider is to cache the beginning of the prompt: the tools and the system text. It
    /// is ignored if the beginning is too short, if the request sets fields about caches itself, and for a
    /// [`native`](Self::native) body. It does not change the [fingerprint](crate::client::request_hash). A queue uses it
    /// only for requests in batches. Runs set it themselves, see [`Route::cache_prompt`](crate::Route::cache_prompt). Default: `None`.
    #[setters(generate)]
    pub cache_prefix: Option<CacheLifetime>,
    /// Fields of the row from which the request was made, as an object. They are returned in the
    /// [`Outcome`](crate::Outcome) and in its result line, also by a queue. They are not sent and not part of
    /// [`request_hash`](crate::client::request_hash). Default: none.
    pub input: Option<RawJson>,
    /// Number of fields of the row that `input` lacks because the row is too large. Default: 0.
    pub input_left_out: u32,
    /// The body in the format of one provider, see [`from_native`](Self::from_native), which sets the other fields from
    /// it. This provider gets the body; of the other fields it gets only the model. Default: none.
    pub native: Option<Box<Native>>,
}

impl Request {
    /// A request with one user message.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self::chat(vec![Message::new(Role::User, prompt)])
    }

    /// A request for the embedding of a text. Requests of this kind that differ only in their text share calls. If the
    /// process is killed during a call, the whole call is made again.
    pub fn embedding(text: impl Into<String>) -> Self {
        Self {
            task: RequestTask::Embed,
            ..Self::new(text)
        }
    }

    /// A request for the sound of a text, at most 4096 characters, read out by a voice: a WAV file, in
    /// [`Response::audio`](crate::Response::audio). It needs a [model](Self::model) for speech; `instructions` and
    /// `speed` go into [`extra`](Self::extra). It is for a [`Route`](crate::Route), and for clients of OpenAI's
    /// dialect; a queue speaks as part of `generate_podcast` jobs.
    ///
    /// ```
    /// use batchwright::Request;
    /// let request = Request::speech("Good morning.", "alloy").with_model("gpt-4o-mini-tts");
    /// assert_eq!(request.extra["voice"], "alloy");
    /// ```
    pub fn speech(text: impl Into<String>, voice: impl Into<String>) -> Self {
        Self {
            task: RequestTask::Speech,
            ..Self::new(text)
        }
        .with_extra("voice", Value::String(voice.into()))
    }

    /// A request with a whole conversation.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// Sets the maximum number of tokens of the answer, including reasoning. Default: see [`Params::max_tokens`].
    pub fn with_max_tokens(mut self, tokens: u32) -> Self {
        self.params.max_tokens = Some(tokens);
        self
    }

    /// Sets the temperature. Default: the provider's.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.params.temperature = Some(temperature);
        self
    }

    /// Sets the format of the answer. If an answer has another format, the request is sent once more; then it fails as
    /// [`Invalid`](crate::ErrorKind::Invalid). Default: any text.
    pub fn with_response_format(mut self, format: ResponseFormat) -> Self {
        self.params.response_format = Some(format);
        self
    }

    /// Sets a further field, see [`extra`](Self::extra). Default: none.
    pub fn with_extra(mut self, key: impl Into<String>, value: Value) -> Self {
        self.extra.insert(key.into(), value);
        self
    }

    /// Adds a function that the model may call, with a JSON Schema of its parameters. It is translated into the format of
    /// each provider. The library does not call it: the answer has the
    /// [calls](crate::client::ReplyDetails::tool_calls), and the caller continues the conversation with
    /// [`Response::message`](crate::Response::message) and [`Message::tool_result`]. This sets `tools` in
    /// [`extra`](Self::extra); set other fields for tools, for example `tool_choice`, there. Default: none.
    ///
    /// ```
    /// use batchwright::client::ToolCall;
    /// use batchwright::{Message, Request, Response};
    /// use serde_json::json;
    /// let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    /// let mut request = Request::new("How warm is it in Oslo?")
    ///     .with_tool("get_weather", "The weather in a city now", city)
    ///     .with_extra("tool_choice", "required".into());
    /// // The answer of a model; `client.complete(&request, &ctx)` brings a real one.
    /// # let mut details = batchwright::client::ReplyDetails::default();
    /// # details.tool_calls = vec![ToolCall::new("c-1", "get_weather", json!({"city": "Oslo"}))];
    /// # let answer = Response::new("openai", "").with_details(details);
    /// request.messages.push(answer.message());
    /// for call in &answer.details().tool_calls {
    ///     let city = call.arguments["city"].as_str().unwrap_or_default();
    ///     let warm = format!("{city}: 7 degrees");
    ///     request.messages.push(Message::tool_result(&call.id, warm));
    /// }
    /// assert_eq!(request.messages.len(), 3);
    /// ```
    pub fn with_tool(mut self, name: &str, description: &str, parameters: Value) -> Self {
        let function = json!({"name": name, "description": description, "parameters": parameters});
        let tool = json!({"type": "function", "function": function});
        match self.extra.get_mut("tools") {
            Some(Value::Array(tools)) => tools.push(tool),
            _ => {
                self.extra.insert("tools".to_owned(), json!([tool]));
            }
        }
        self
    }

    /// Sets fields that are returned with the outcome, see [`input`](Self::input). Default: none.
    pub fn with_input(mut self, fields: Map<String, Value>) -> Self {
        self.input = Some(RawJson::new(&Value::Object(fields).to_string()));
        self
    }

    /// Whether its conversation ends with a message of the assistant.
    pub(crate) fn ends_with_answer(&self) -> bool {
        let last = self.messages.last();
        last.is_some_and(|message| message.role == Role::Assistant)
    }

    /// Removes the last message of its conversation, also from a body in the format of one provider; false if none is left.
    pub(crate) fn leave_out_last(&mut self) -> bool {
        self.messages.pop();
        if let Some(native) = &mut self.native {
            native.leave_out_last();
        }
        !self.messages.is_empty()
    }

    /// The text of a request that is nothing else: what is to be spoken.
    ///
    /// # Errors
    /// When there is anything beside one text of the user, which would be left out.
    pub(crate) fn only_text(&self) -> Result<&str, &'static str> {
        self.only_content()?.as_str().ok_or(NO_TEXT)
    }

    /// The input of an embedding: a text or a list of tokens.
    ///
    /// # Errors
    /// If the request has anything else, which an embedding would drop.
    pub(crate) fn only_embedded(&self) -> Result<&Value, &'static str> {
        let content = self.only_content()?;
        match content {
            Value::String(_) => Ok(content),
            Value::Array(tokens) if are_tokens(tokens) => Ok(content),
            _ => Err(NO_TEXT),
        }
    }

    fn only_content(&self) -> Result<&Value, &'static str> {
        let plain = Params {
            dimensions: self.params.dimensions,
            ..Params::default()
        };
        if self.params != plain {
            return Err("sampling parameters");
        }
        if self.system.is_some() {
            return Err("a system text");
        }
        match &self.messages[..] {
            [
                Message {
                    role: Role::User,
                    content,
                    extra,
                },
            ] if extra.is_empty() => Ok(content),
            [_] => Err(NO_TEXT),
            _ => Err("a conversation"),
        }
    }

    /// True when both may be embedded by one call.
    pub(crate) fn shares_calls_with(&self, other: &Self) -> bool {
        self.task == RequestTask::Embed
            && other.task == RequestTask::Embed
            && self.model == other.model
            && self.shared_by_call() == other.shared_by_call()
    }

    /// What all embeddings of one call have in common, in addition to the model: the dimensions, the further fields, and
    /// whether their input is text and not a list of tokens.
    pub(crate) fn shared_by_call(&self) -> (Option<u32>, &Map<String, Value>, bool) {
        let is_text = self.messages.iter().all(|m| m.content.is_string());
        (self.params.dimensions, &self.extra, is_text)
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
                .map(|m| (m.role.as_str(), Text::of(&m.content), Some(&m.extra))),
        )
    }

    /// The parts of its messages that name local files, in their order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Value> {
        let contents = self.messages.iter().map(|message| &message.content);
        let parts = contents.filter_map(Value::as_array).flatten();
        parts.filter(|part| attachment::is_local(part))
    }

    /// Puts the bytes of its local files into it.
    ///
    /// # Errors
    /// When one cannot be read or is not what it was.
    pub(crate) fn embed_files(&mut self) -> Result<(), crate::Error> {
        let contents = self.messages.iter_mut().map(|message| &mut message.content);
        let parts = contents.filter_map(Value::as_array_mut).flatten();
        let mut files = parts.filter(|part| attachment::is_local(part));
        files.try_for_each(attachment::embed)
    }

    /// How much base64 its files become.
    pub(crate) fn encoded_files(&self) -> u64 {
        let files = self
            .files()
            .filter_map(|part| attachment::Attached::read(part).ok());
        files.map(|file| file.encoded()).sum()
    }
}

const NO_TEXT: &str = "a message that is not a plain text of the user";

/// Whether a list contains tokens, which an embedding takes instead of a text.
pub(crate) fn are_tokens(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(Value::is_u64)
}

/// A message's content without copying it.
#[derive(Clone, Copy)]
pub(crate) enum Text<'a> {
    Plain(&'a str),
    Parts(&'a [Value]),
    /// Neither, such as null in a message with tool calls.
    Other(&'a Value),
}

impl<'a> Text<'a> {
    pub fn of(content: &'a Value) -> Self {
        match content {
            Value::String(text) => Self::Plain(text),
            Value::Array(parts) => Self::Parts(parts),
            other => Self::Other(other),
        }
    }

    /// Only its text; that of parts one per line.
    pub fn plain(self) -> String {
        match self {
            Self::Plain(text) => text.to_owned(),
            Self::Parts(parts) => {
                let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                texts.collect::<Vec<_>>().join("\n")
            }
            Self::Other(_) => String::new(),
        }
    }

    /// Bytes of text in it.
    pub fn bytes(self) -> usize {
        let bytes = |part: &Value| match part {
            // A token: about 4 bytes of text.
            Value::Number(_) => 4,
            part => part["text"].as_str().map_or(0, str::len),
        };
        match self {
            Self::Plain(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(bytes).sum(),
            Self::Other(_) => 0,
        }
    }
}
