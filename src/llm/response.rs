//! Answers: what a provider replied, and how an item ended.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::error::Error;
use crate::base::hints::RateHints;
use crate::base::usage::{Paid, Usage};

/// Why the answer ended where it did.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The text; empty for an embedding.
    pub text: String,
    /// The vector, for a request with [`Task::Embed`](crate::Task::Embed).
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

    /// Sets what the reply said about limits; the limiter learns from it.
    pub fn with_rate_hints(mut self, hints: RateHints) -> Self {
        self.hints = hints;
        self
    }

    /// What the reply said about limits.
    pub fn rate_hints(&self) -> RateHints {
        self.hints
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

/// A provider that an item has left behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Earlier {
    /// Its name.
    pub provider: String,
    /// The model asked for there.
    pub model: Option<String>,
    /// Why it gave no answer, or was not asked any more: kind, status and message, which is cut to
    /// 300 characters. Of more than 4,096 different messages on a route the rest is left out.
    pub error: Error,
}

/// How one item ended.
#[derive(Debug, Clone)]
pub struct Outcome {
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
    pub earlier: Vec<Earlier>,
    /// The fingerprint of the request, where it was computed.
    pub request_hash: Option<String>,
}

impl Outcome {
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
            earlier: Vec<Earlier>,
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
        Ok(Self {
            id: line.id,
            result,
            attempts: line.attempts,
            latency: Duration::from_millis(line.latency_ms),
            provider,
            model: line.model,
            earlier: line.earlier,
            request_hash: line.request_hash,
        })
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
            let outcome = Outcome {
                id: Some("a".to_owned()),
                result,
                attempts: 2,
                latency: Duration::from_millis(17),
                provider: Some("openai".to_owned()),
                model: Some("m".to_owned()),
                earlier: vec![Earlier {
                    provider: "groq".to_owned(),
                    model: None,
                    error: failed.clone(),
                }],
                request_hash: Some("h".to_owned()),
            };
            let line = serde_json::to_string(&outcome).unwrap();
            let read: Outcome = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), line);
            assert_eq!(read.is_success(), outcome.is_success());
        }
    }
}
