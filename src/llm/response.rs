//! Answers: what a provider replied.

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use crate::base::brief::{Bytes, Many, Message, Name};
use crate::base::{Charge, Error, ErrorKind, Paid, RateHints, Secret, Sent, Usage, Usd};

use super::reply_details::ReplyDetails;
use super::request::{Message as ConversationMessage, Role};

/// Why the answer ended where it did.
#[derive(Clone, Default, PartialEq, Eq, derive_more::Debug)]
#[non_exhaustive]
pub enum FinishReason {
    /// It was complete.
    #[default]
    Stop,
    /// It was cut at the token limit or the end of the context.
    Length,
    /// The model wants [tools called](crate::client::ReplyDetails::tool_calls) before it goes on.
    ToolCalls,
    /// Another reason, in the provider's words; empty if it named none, which is null in a result
    /// line.
    #[debug("Other({:?})", Name(_0))]
    Other(String),
}

impl FinishReason {
    /// The stable name, or the provider's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for FinishReason {
    fn from(name: &str) -> Self {
        match name {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// One answer. Its `Debug` shows its length, not its text.
#[derive(Clone, Default, PartialEq, derive_more::Debug)]
pub struct Response {
    /// The text; empty for an embedding, for speech, and if the reply has tool calls but no text.
    #[debug("{:?}", Bytes(text.len()))]
    pub text: String,
    /// The vector, for a request with [`RequestTask::Embed`](crate::client::RequestTask::Embed).
    #[debug("{:?}", embedding.as_ref().map(|all| Many(all.len())))]
    pub embedding: Option<Vec<f32>>,
    /// The sound, for a request with [`RequestTask::Speech`](crate::client::RequestTask::Speech): a file in the requested
    /// format. Result lines do not contain it.
    #[debug("{:?}", audio.as_ref().map(|sound| Bytes(sound.len())))]
    pub audio: Option<Vec<u8>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens used, if the provider reported them. If a call returned several vectors, the share of this one. In the
    /// outcome of an item, the tokens of all its calls, see [`Outcome::usage`](crate::Outcome::usage).
    pub usage: Option<Usage>,
    /// The model that answered, as named by the provider.
    #[debug("{:?}", model.as_deref().map(Name))]
    pub model: Option<String>,
    /// The provider's name.
    #[debug("{:?}", Name(provider))]
    pub provider: String,
    /// The cost of the call, if the provider reports it. If it does not, a [`Route`](crate::Route) sets it by its
    /// [prices](crate::Route::prices).
    pub cost_usd: Option<Usd>,
    /// A warning about the answer, for people: for example that a reply was repaired.
    #[debug("{:?}", warning.as_deref().map(Message))]
    pub warning: Option<String>,
    #[debug(skip)]
    pub(crate) hints: RateHints,
    /// What the call was billed, until the end of its job is recorded.
    #[debug(skip)]
    pub(crate) charge: Option<Box<Charge>>,
    /// Boxed, because most answers have no details.
    pub(crate) details: Option<Box<ReplyDetails>>,
}

impl Response {
    /// A complete answer of `provider`, for clients of your own.
    pub fn new(provider: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            provider: provider.into(),
            ..Self::default()
        }
    }

    /// A vector of `provider`, for clients of your own.
    pub fn vector(provider: impl Into<String>, embedding: Vec<f32>) -> Self {
        Self {
            embedding: Some(embedding),
            ..Self::new(provider, "")
        }
    }

    /// Sets the tokens used.
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Sets the other parts of the reply. If they include tool calls, they become the finish reason.
    pub fn with_details(mut self, details: ReplyDetails) -> Self {
        if !details.tool_calls.is_empty() && self.finish_reason == FinishReason::Stop {
            self.finish_reason = FinishReason::ToolCalls;
        }
        self.set_details(details);
        self
    }

    pub(crate) fn set_details(&mut self, details: ReplyDetails) {
        self.details = (details != *ReplyDetails::none()).then(|| Box::new(details));
    }

    /// The parts of the reply other than its text, for example tool calls, reasoning and citations.
    pub fn details(&self) -> &ReplyDetails {
        self.details.as_deref().unwrap_or(ReplyDetails::none())
    }

    /// The same, for adding to it.
    pub fn details_mut(&mut self) -> &mut ReplyDetails {
        self.details.get_or_insert_default()
    }

    /// The answer as a message of the assistant, for continuing the conversation: its text, its tool calls, and the part
    /// of its reasoning that its provider requires in the next request. Another provider gets the parts that it
    /// supports. A line of a prompt file can contain the same message with the fields of a result line:
    /// `{"role": "assistant", "content": text, "tool_calls": …, "reasoning": …}`.
    pub fn message(&self) -> ConversationMessage {
        let details = self.details();
        let mut message = ConversationMessage::new(Role::Assistant, self.text.as_str());
        let calls = json!(details.tool_calls);
        if !details.tool_calls.is_empty() {
            if self.text.is_empty() {
                message.content = Value::Null;
            }
            message.extra.insert("tool_calls".to_owned(), calls);
        }
        if let Some(reasoning) = &details.reasoning {
            message
                .extra
                .insert("reasoning".to_owned(), json!(reasoning));
        }
        message
    }

    /// Removes a credential from all texts.
    pub(crate) fn redact(&mut self, secret: &Secret) {
        let end = match &mut self.finish_reason {
            FinishReason::Other(word) => Some(word),
            _ => None,
        };
        let texts = [Some(&mut self.text), self.model.as_mut(), end];
        for text in texts.into_iter().flatten() {
            if let Some(cleaned) = secret.redact(text) {
                *text = cleaned;
            }
        }
        if let Some(details) = &mut self.details {
            details.without(&|text| secret.redact(text));
        }
    }

    /// Adds to the warning about the answer.
    pub(crate) fn warn(&mut self, more: &str) {
        let warning = self.warning.get_or_insert_default();
        if !warning.is_empty() {
            warning.push_str("; ");
        }
        warning.push_str(more);
    }

    /// Sets the limits that the reply reported; the limiter learns from them.
    pub fn with_rate_hints(mut self, hints: RateHints) -> Self {
        self.hints = hints;
        self
    }

    /// The limits that the reply reported.
    pub fn rate_hints(&self) -> RateHints {
        self.hints
    }

    /// Parses the JSON of the answer into a type of yours. A Markdown fence around it, which models often add, is
    /// removed. Request such an answer with [`ResponseFormat`](crate::ResponseFormat).
    ///
    /// ```
    /// use batchwright::{ErrorKind, Response};
    /// let answer = Response::new("openai", "```json\n{\"primes\": [2, 3]}\n```");
    /// #[derive(serde::Deserialize)]
    /// struct Primes {
    ///     primes: Vec<u64>,
    /// }
    /// assert_eq!(answer.parse::<Primes>()?.primes, [2, 3]);
    /// let error = answer.parse::<Vec<u64>>().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if it is not JSON, [`ErrorKind::Invalid`] if it is JSON of another form. The message names
    /// the position and quotes nothing from the answer.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let json = unfenced(self.text.trim());
        let misfit = |(kind, what): (ErrorKind, String)| {
            let cut = match self.finish_reason {
                FinishReason::Length => "; it was cut at the token limit (max_tokens)",
                _ => "",
            };
            Error::new(kind, format!("the answer {what}{cut}")).with_sent(Sent::Answered)
        };
        if json.is_empty() {
            return Err(misfit((ErrorKind::Malformed, "is empty".to_owned())));
        }
        serde_json::from_str(json).map_err(|error| {
            // A text that is not JSON may begin like JSON of another form.
            let broken = serde_json::from_str::<IgnoredAny>(json).err();
            misfit(unreadable(&broken.unwrap_or(error)))
        })
    }

    pub(crate) fn paid(&self) -> Paid {
        Paid::new(self.usage, self.cost_usd)
    }

    pub(crate) fn set_paid(&mut self, paid: Paid) {
        self.usage = paid.usage;
        self.cost_usd = paid.cost_usd;
    }
}

/// What is wrong with a text that should have been JSON of a type, in words that quote nothing of it.
fn unreadable(error: &serde_json::Error) -> (ErrorKind, String) {
    let place = format!("at line {} column {}", error.line(), error.column());
    if !error.is_data() {
        return (ErrorKind::Malformed, format!("is no JSON ({place})"));
    }
    let message = error.to_string();
    let missing = message.strip_prefix("missing field `");
    let misfits = ["invalid type: ", "invalid value: ", "invalid length: "];
    let misfit = misfits.iter().any(|start| message.starts_with(start));
    // Behind the last "expected" stand words of the type, before it those of the answer.
    let wanted = message.trim_end_matches(&format!(" {place}"));
    let wanted = wanted.rsplit_once(", expected ").filter(|_| misfit);
    let what = match (missing.and_then(|rest| rest.split_once('`')), wanted) {
        (Some((name, _)), _) => format!(": `{name}` is missing"),
        (None, Some((_, wanted))) => format!(": {wanted} was expected"),
        (None, None) => String::new(),
    };
    let why = format!("is JSON of another form than expected{what} ({place})");
    (ErrorKind::Invalid, why)
}

/// What a Markdown fence encloses, if one encloses all of the text. No JSON begins like one.
pub(crate) fn unfenced(text: &str) -> &str {
    let inside = text
        .strip_prefix("```")
        .and_then(|text| text.strip_suffix("```"));
    inside.map_or(text, |inside| {
        inside
            .trim_start_matches(|letter: char| letter.is_ascii_alphanumeric())
            .trim()
    })
}
