//! Answers: what a provider replied, and how an item ended.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::brief::{Bytes, FieldIf, Many, Message, Name};
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::RateHints;
use crate::base::usage::{Paid, Usage};

use super::json_answer;
use super::request::Request;
use super::user_data::UserData;

/// Why the answer ended where it did.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// It was complete.
    Stop,
    /// It was cut at the token limit or the end of the context.
    Length,
    /// Another reason, in the provider's words; empty if it named none, which is null in a result
    /// line.
    Other(String),
}

impl FinishReason {
    /// The stable name, or the provider's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One answer. Its `Debug` says how long it is, not what it says.
#[derive(Clone, PartialEq)]
pub struct Response {
    /// The text; empty for an embedding.
    pub text: String,
    /// The vector, for a request with [`RequestTask::Embed`](crate::client::RequestTask::Embed).
    pub embedding: Option<Vec<f32>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens used, if the provider said so; of a call for many vectors, this one's part. Of an
    /// item's outcome, those of all its calls; see [`Outcome::usage`].
    pub usage: Option<Usage>,
    /// The model that answered, in the provider's words.
    pub model: Option<String>,
    /// The provider's name.
    pub provider: String,
    /// Price of the call in US dollars, where the provider states it.
    pub cost_usd: Option<f64>,
    /// What is suspicious about the answer, for people: that a local server has probably cut the
    /// prompt.
    pub warning: Option<String>,
    pub(crate) hints: RateHints,
}

impl Response {
    /// A complete answer of `provider`, for clients of your own.
    pub fn new(provider: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            embedding: None,
            finish_reason: FinishReason::Stop,
            usage: None,
            model: None,
            provider: provider.into(),
            cost_usd: None,
            warning: None,
            hints: RateHints::default(),
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

    /// Sets what is suspicious about the answer.
    pub fn with_warning(mut self, warning: impl Into<String>) -> Self {
        self.warning = Some(warning.into());
        self
    }

    /// Adds to what is suspicious about the answer.
    pub(crate) fn warned(mut self, more: Option<String>) -> Self {
        self.warning = match (self.warning, more) {
            (Some(before), Some(more)) => Some(format!("{before}; {more}")),
            (before, more) => before.or(more),
        };
        self
    }

    /// Sets what the reply said about limits; the limiter learns from it.
    pub fn with_rate_hints(mut self, hints: RateHints) -> Self {
        self.hints = hints;
        self
    }

    /// What the reply said about limits.
    pub fn rate_hints(&self) -> RateHints {
        self.hints
    }

    /// The answer as a type of yours, read from its JSON; the Markdown fence that models like to put
    /// around it is taken off. It is best asked for with [`ResponseFormat`](crate::ResponseFormat).
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
    /// [`ErrorKind::Malformed`] when it is no JSON, [`ErrorKind::Invalid`] when it is JSON of another
    /// shape. The message says where and quotes nothing of the answer.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let json = json_answer::unfenced(self.text.trim());
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
            // What is no JSON at all may look like JSON of another shape up to there.
            let broken = serde_json::from_str::<IgnoredAny>(json).err();
            misfit(unreadable(&broken.unwrap_or(error)))
        })
    }

    pub(crate) fn paid(&self) -> Paid {
        Paid {
            usage: self.usage,
            cost_usd: self.cost_usd,
        }
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
    let of_the_type = ["invalid type: ", "invalid value: ", "invalid length: "];
    // Behind the last "expected" stand words of the type, before it those of the answer.
    let what = match message.strip_prefix("missing field `") {
        Some(rest) => rest
            .split('`')
            .next()
            .map(|name| format!("`{name}` is missing")),
        None if of_the_type.iter().any(|start| message.starts_with(start)) => message
            .strip_suffix(&format!(" {place}"))
            .and_then(|message| message.rsplit_once(", expected "))
            .map(|(_, wanted)| format!("{wanted} was expected")),
        None => None,
    };
    let what = what.map(|what| format!(": {what}")).unwrap_or_default();
    let why = format!("is JSON of another shape than wanted{what} ({place})");
    (ErrorKind::Invalid, why)
}

impl fmt::Debug for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => f.write_str("Stop"),
            Self::Length => f.write_str("Length"),
            Self::Other(word) => f.debug_tuple("Other").field(&Name(word)).finish(),
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("text", &Bytes(self.text.len()))
            .field_if(
                "embedding",
                self.embedding.as_ref().map(|all| Many(all.len())),
            )
            .field("finish_reason", &self.finish_reason)
            .field_if("usage", self.usage)
            .field_if("model", self.model.as_deref().map(Name))
            .field("provider", &Name(&self.provider))
            .field_if("cost_usd", self.cost_usd)
            .field_if("warning", self.warning.as_deref().map(Message))
            .finish()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = (!self.user_data.is_none()).then_some(&self.user_data);
        let earlier = (!self.earlier.is_empty()).then_some(Many(self.earlier.len()));
        f.debug_struct("Outcome")
            .field_if("index", self.index)
            .field_if("id", self.id.as_deref().map(Name))
            .field("result", &self.result)
            .field("attempts", &self.attempts)
            .field("latency", &self.latency)
            .field_if("provider", self.provider.as_deref().map(Name))
            .field_if("model", self.model.as_deref().map(Name))
            .field_if("earlier", earlier)
            .field_if("request_hash", self.request_hash.as_deref().map(Name))
            .field_if("user_data", data)
            .finish()
    }
}

/// A provider that an item has left behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EarlierProvider {
    /// Its name.
    pub provider: String,
    /// The model asked for there.
    pub model: Option<String>,
    /// Why it gave no answer, or was not asked any more: kind, status and message, which is cut to
    /// 300 characters. Of more than 4,096 different messages on a route the rest is left out.
    pub error: Error,
}

/// How one item ended. Its `Debug` shows nothing of the answer.
#[derive(Clone)]
pub struct Outcome {
    /// The request's place in the list or iterator it came from, counted from 0, in whatever order
    /// outcomes arrive. `None` for a result line that was read.
    pub index: Option<usize>,
    /// The request's id.
    pub id: Option<String>,
    /// The answer, or why there is none.
    pub result: Result<Response, Error>,
    /// Calls made for it; 0 if it was never sent.
    pub attempts: u32,
    /// From the start of its first call to its end, waiting for retries included.
    pub latency: Duration,
    /// The provider asked last.
    pub provider: Option<String>,
    /// The model asked for.
    pub model: Option<String>,
    /// The providers of a [`Route`](crate::Route) before that one, in their order, and why they
    /// gave no answer.
    pub earlier: Vec<EarlierProvider>,
    /// The fingerprint of the request, where it was computed.
    pub request_hash: Option<String>,
    /// What was [attached](crate::Request::with_user_data) to the request.
    pub user_data: UserData,
}

impl Outcome {
    /// The end of an item of which nothing else is known: no call was made for it.
    pub(crate) fn new(id: Option<String>, result: Result<Response, Error>) -> Self {
        Self {
            index: None,
            id,
            result,
            attempts: 0,
            latency: Duration::ZERO,
            provider: None,
            model: None,
            earlier: Vec::new(),
            request_hash: None,
            user_data: UserData::default(),
        }
    }

    /// Sets where the request stood, and what was attached to it.
    pub(crate) fn of(mut self, index: usize, request: &Request) -> Self {
        self.index = Some(index);
        self.user_data = request.user_data.clone();
        self
    }

    /// Sets how many calls were made for it, and how long that took.
    pub(crate) fn with_calls(mut self, attempts: u32, latency: Duration) -> Self {
        self.attempts = attempts;
        self.latency = latency;
        self
    }

    /// Sets who was asked last, for which model, and who was before.
    pub(crate) fn with_asked(
        mut self,
        provider: Option<String>,
        model: Option<String>,
        earlier: Vec<EarlierProvider>,
    ) -> Self {
        self.provider = provider;
        self.model = model;
        self.earlier = earlier;
        self
    }

    /// Sets the fingerprint of the request.
    pub(crate) fn with_request_hash(mut self, hash: Option<String>) -> Self {
        self.request_hash = hash;
        self
    }

    /// What was [attached](crate::Request::with_user_data) to the request, if it is of this type.
    pub fn user_data<T: Any>(&self) -> Option<&T> {
        self.user_data.get()
    }

    /// True when there is an answer.
    pub fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    /// Tokens used by all calls of the item whose reply said so, failed ones included: a refusal or
    /// an answer of the wrong shape is paid for too. Calls of which no whole reply came back are not
    /// in it. (Of more than 4,096 items that wait at once for another try after such a call, the
    /// earliest forget what it used.)
    pub fn usage(&self) -> Option<Usage> {
        self.paid().usage
    }

    /// The price of these calls in US dollars; `None` when that of any of them is unknown.
    pub fn cost_usd(&self) -> Option<f64> {
        self.paid().cost_usd
    }

    fn paid(&self) -> Paid {
        match &self.result {
            Ok(answer) => answer.paid(),
            Err(error) => error.paid(),
        }
    }
}

/// The result line: one JSON object with stable names and order; `warning` is there only when
/// there is one.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let answer = self.result.as_ref().ok();
        let provider = answer.map(|a| a.provider.as_str());
        let model = answer.and_then(|a| a.model.as_deref());
        let warning = answer.and_then(|a| a.warning.as_deref());
        let vector = answer.and_then(|a| a.embedding.as_ref());
        let optional = usize::from(vector.is_some())
            + usize::from(warning.is_some())
            + usize::from(!self.earlier.is_empty());
        let mut line = serializer.serialize_struct("Outcome", 12 + optional)?;
        line.serialize_field("id", &self.id)?;
        line.serialize_field("success", &answer.is_some())?;
        let text = answer.map(|a| &a.text).filter(|_| vector.is_none());
        line.serialize_field("text", &text)?;
        match vector {
            Some(vector) => line.serialize_field("embedding", vector)?,
            None => line.skip_field("embedding")?,
        }
        line.serialize_field("provider", &provider.or(self.provider.as_deref()))?;
        line.serialize_field("model", &model.or(self.model.as_deref()))?;
        let finish = answer.map(|a| a.finish_reason.as_str());
        line.serialize_field("finish_reason", &finish.filter(|word| !word.is_empty()))?;
        line.serialize_field("usage", &self.usage())?;
        line.serialize_field("attempts", &self.attempts)?;
        let millis = u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX);
        line.serialize_field("latency_ms", &millis)?;
        line.serialize_field("cost_usd", &self.cost_usd())?;
        if let Some(warning) = warning {
            line.serialize_field("warning", warning)?;
        }
        line.serialize_field("request_hash", &self.request_hash)?;
        line.serialize_field("error", &self.result.as_ref().err())?;
        if !self.earlier.is_empty() {
            line.serialize_field("earlier", &self.earlier)?;
        }
        line.end()
    }
}

/// Reads a result line back.
impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Line {
            id: Option<String>,
            #[serde(default)]
            text: Option<String>,
            #[serde(default)]
            embedding: Option<Vec<f32>>,
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            model: Option<String>,
            #[serde(default)]
            finish_reason: Option<String>,
            #[serde(default)]
            usage: Option<Usage>,
            attempts: u32,
            latency_ms: u64,
            #[serde(default)]
            cost_usd: Option<f64>,
            #[serde(default)]
            warning: Option<String>,
            #[serde(default)]
            request_hash: Option<String>,
            #[serde(default)]
            error: Option<Error>,
            #[serde(default)]
            earlier: Vec<EarlierProvider>,
        }
        let line = Line::deserialize(deserializer)?;
        let provider = line.provider.clone();
        let result = match line.error {
            Some(error) => Err(error.with_paid(Paid {
                usage: line.usage,
                cost_usd: line.cost_usd,
            })),
            None => Ok(Response {
                text: line.text.unwrap_or_default(),
                embedding: line.embedding,
                finish_reason: match line.finish_reason.as_deref() {
                    Some("stop") => FinishReason::Stop,
                    Some("length") => FinishReason::Length,
                    other => FinishReason::Other(other.unwrap_or_default().to_owned()),
                },
                usage: line.usage,
                model: line.model.clone(),
                provider: line.provider.unwrap_or_default(),
                cost_usd: line.cost_usd,
                warning: line.warning,
                hints: RateHints::default(),
            }),
        };
        Ok(Self::new(line.id, result)
            .with_calls(line.attempts, Duration::from_millis(line.latency_ms))
            .with_asked(provider, line.model, line.earlier)
            .with_request_hash(line.request_hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    #[test]
    fn a_result_line_is_read_as_it_was_written() {
        let usage = Usage {
            input_tokens: 3,
            output_tokens: 2,
            ..Usage::default()
        };
        let mut answer = Response::new("openai", "7").with_usage(usage);
        answer.warning = Some("cut".to_owned());
        let failed = Error::new(ErrorKind::Blocked, "no").with_status(400);
        let vector = Response::vector("openai", vec![0.5, -1.0]);
        let other = Response {
            finish_reason: FinishReason::Other("tool".to_owned()),
            ..Response::new("x", "")
        };
        let results = [Ok(answer), Ok(vector), Ok(other), Err(failed.clone())];
        for result in results {
            let earlier = EarlierProvider {
                provider: "groq".to_owned(),
                model: None,
                error: failed.clone(),
            };
            let (provider, model) = (Some("openai".to_owned()), Some("m".to_owned()));
            let outcome = Outcome::new(Some("a".to_owned()), result)
                .with_calls(2, Duration::from_millis(17))
                .with_asked(provider, model, vec![earlier])
                .with_request_hash(Some("h".to_owned()));
            let line = serde_json::to_string(&outcome).unwrap();
            let read: Outcome = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), line);
            assert_eq!(read.is_success(), outcome.is_success());
        }
    }
}
