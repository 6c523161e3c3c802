//! The outcomes of items, and their result lines.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::brief::{Many, Name};
use crate::base::json_text::{write_field as field, write_name, write_string};
use crate::base::{Error, ErrorKind, Paid, Usage, Usd};

use super::reply_details::{RawJson, Reasoning, ReplyDetails, ToolCall};
use super::request::Request;
use super::response::Response;

/// A provider from which an item failed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EarlierProvider {
    /// Its name.
    pub provider: String,
    /// The requested model.
    pub model: Option<String>,
    /// The reason why it gave no answer or was not called again: kind, status and message, cut to 300 characters. A
    /// route stores at most 4,096 different messages; further ones are left out.
    pub error: Error,
}

/// The outcome of one item. Its `Debug` does not show the answer.
#[derive(Clone, derive_more::Debug)]
pub struct Outcome {
    /// The index of the request in its list or iterator, from 0, independent of the order of outcomes. `None` for a
    /// result line that was read.
    pub index: Option<usize>,
    /// The request's id.
    #[debug("{:?}", id.as_deref().map(Name))]
    pub id: Option<String>,
    /// The answer, or the reason of the failure.
    pub result: Result<Response, Error>,
    /// The number of its calls; 0 if it was never sent.
    pub attempts: u32,
    /// The time from the start of its first call to its end, including waits for retries.
    pub latency: Duration,
    /// The provider of the last call.
    #[debug("{:?}", provider.as_deref().map(Name))]
    pub provider: Option<String>,
    /// The requested model.
    #[debug("{:?}", model.as_deref().map(Name))]
    pub model: Option<String>,
    /// The providers of a [`Route`](crate::Route) before that one, in their order, with the reasons why they gave no
    /// answer.
    #[debug("{:?}", Many(earlier.len()))]
    pub earlier: Vec<EarlierProvider>,
    /// The fingerprint of the request, if it was computed.
    #[debug("{:?}", request_hash.as_deref().map(Name))]
    pub request_hash: Option<String>,
    /// The id of another item with an equal request, if the answer is from the call of that item. Then the usage is
    /// `None` and the price 0.
    #[debug("{:?}", answered_by.as_deref().map(Name))]
    pub answered_by: Option<String>,
    /// The [fields of its row](crate::Request::input).
    pub input: Option<RawJson>,
    /// The number of fields that [`input`](Self::input) lacks.
    pub input_left_out: u32,
}

impl Outcome {
    /// The outcome of an item without calls; its other fields are empty.
    pub(crate) fn new(id: Option<String>, mut result: Result<Response, Error>) -> Self {
        if let Ok(answer) = &mut result {
            // Nobody needs it any more, and lists keep all outcomes in memory.
            answer.charge = None;
        }
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
            answered_by: None,
            input: None,
            input_left_out: 0,
        }
    }

    /// Sets the index of the request, and the fields of its row.
    pub(crate) fn of(mut self, index: usize, request: &Request) -> Self {
        self.index = Some(index);
        self.input.clone_from(&request.input);
        self.input_left_out = request.input_left_out;
        self
    }

    /// Whether there is an answer.
    pub fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    /// The tokens of all calls of the item whose replies reported them. This includes failed calls, because a refusal or
    /// an answer in the wrong format is billed too. It does not include calls without a complete reply.
    pub fn usage(&self) -> Option<Usage> {
        self.paid().usage
    }

    /// The cost of these calls; `None` if the cost of any of them is unknown.
    pub fn cost_usd(&self) -> Option<Usd> {
        self.paid().cost_usd
    }

    fn paid(&self) -> Paid {
        match &self.result {
            Ok(answer) => answer.paid(),
            Err(error) => error.paid(),
        }
    }
}

/// The result line: one JSON object with stable names and order. Fields that most replies do not have are left out if
/// they are empty.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.line().map_err(serde::ser::Error::custom)?;
        line.serialize(serializer)
    }
}

impl Outcome {
    /// Appends the result line, with its end.
    pub(crate) fn write_line(&self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let whole = bytes.len();
        let written = self.write(bytes).map(|()| bytes.push(b'\n'));
        written.map_err(|error| {
            bytes.truncate(whole);
            unwritable(error)
        })
    }

    /// The result line without its end.
    pub(crate) fn line(&self) -> Result<Box<RawValue>, Error> {
        let mut bytes = Vec::new();
        let written = self.write(&mut bytes);
        let line = written.and_then(|()| serde_json::from_slice(&bytes));
        line.map_err(unwritable)
    }

    fn write(&self, line: &mut Vec<u8>) -> serde_json::Result<()> {
        let answer = self.result.as_ref().ok();
        let failed = self.result.as_ref().err();
        let provider = answer.map(|a| a.provider.as_str());
        let model = match &self.result {
            Ok(answer) => answer.model.as_deref(),
            Err(error) => error.answered_model(),
        };
        let warning = answer.and_then(|a| a.warning.as_deref());
        let vector = answer.and_then(|a| a.embedding.as_ref());
        let details = answer.map_or(ReplyDetails::none(), Response::details);
        line.push(b'{');
        field(line, "id", &self.id)?;
        field(line, "success", &answer.is_some())?;
        let has_text = |a: &&Response| {
            vector.is_none() && (details.tool_calls.is_empty() || !a.text.is_empty())
        };
        match answer.filter(has_text) {
            Some(answer) => {
                // Written in a faster way than by serde_json.
                write_name("text", line);
                write_string(&answer.text, line);
            }
            None => field(line, "text", &None::<&str>)?,
        }
        add(line, "embedding", vector)?;
        add(line, "tool_calls", filled(&details.tool_calls))?;
        add(line, "reasoning", details.reasoning.as_ref())?;
        add(line, "refusal", failed.and_then(Error::refusal))?;
        add(line, "citations", filled(&details.citations))?;
        add(line, "logprobs", details.logprobs.as_ref())?;
        field(line, "provider", &provider.or(self.provider.as_deref()))?;
        field(line, "model", &model.or(self.model.as_deref()))?;
        let finish = answer.map(|a| a.finish_reason.as_str());
        field(
            line,
            "finish_reason",
            &finish.filter(|word| !word.is_empty()),
        )?;
        field(line, "usage", &self.usage())?;
        field(line, "attempts", &self.attempts)?;
        let millis = u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX);
        field(line, "latency_ms", &millis)?;
        field(line, "cost_usd", &self.cost_usd())?;
        add(line, "warning", warning)?;
        add(line, "service_tier", details.service_tier.as_ref())?;
        add(line, "degraded", details.degraded.as_ref())?;
        add(line, "left_out", filled(&details.left_out))?;
        field(line, "request_hash", &self.request_hash)?;
        field(line, "error", &failed)?;
        add(line, "earlier", filled(&self.earlier))?;
        add(line, "answered_by", self.answered_by.as_ref())?;
        add(line, "input", self.input.as_ref())?;
        let cut = Some(self.input_left_out).filter(|fields| *fields > 0);
        add(line, "input_left_out", cut)?;
        add(line, "reply", details.reply.as_ref())?;
        line.push(b'}');
        Ok(())
    }
}

/// A field that is left out if there is no value.
fn add(line: &mut Vec<u8>, name: &str, value: Option<impl Serialize>) -> serde_json::Result<()> {
    value.map_or(Ok(()), |value| field(line, name, &value))
}

fn filled<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

fn unwritable(error: serde_json::Error) -> Error {
    let why = format!("cannot write the result: {error}");
    Error::new(ErrorKind::Malformed, why)
}

/// A result line when it is read.
#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    text: Option<String>,
    embedding: Option<Vec<f32>>,
    #[serde(default)]
    tool_calls: Vec<ToolCall>,
    reasoning: Option<Reasoning>,
    refusal: Option<String>,
    #[serde(default)]
    citations: Vec<Value>,
    logprobs: Option<RawJson>,
    provider: Option<String>,
    model: Option<String>,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    attempts: u32,
    latency_ms: u64,
    cost_usd: Option<Usd>,
    warning: Option<String>,
    service_tier: Option<String>,
    degraded: Option<String>,
    #[serde(default)]
    left_out: Vec<String>,
    request_hash: Option<String>,
    error: Option<Error>,
    #[serde(default)]
    earlier: Vec<EarlierProvider>,
    answered_by: Option<String>,
    input: Option<RawJson>,
    #[serde(default)]
    input_left_out: u32,
    reply: Option<RawJson>,
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Line::deserialize(deserializer)?;
        let provider = line.provider.clone();
        let paid = Paid::new(line.usage, line.cost_usd);
        let result = match line.error {
            Some(error) => Err(error.with_paid(paid).with_refusal(line.refusal)),
            None => {
                let details = ReplyDetails {
                    tool_calls: line.tool_calls,
                    reasoning: line.reasoning,
                    citations: line.citations,
                    logprobs: line.logprobs,
                    service_tier: line.service_tier,
                    degraded: line.degraded,
                    left_out: line.left_out,
                    reply: line.reply,
                };
                let mut answer = Response::new(
                    line.provider.unwrap_or_default(),
                    line.text.unwrap_or_default(),
                )
                .with_details(details);
                answer.embedding = line.embedding;
                answer.finish_reason = line.finish_reason.as_deref().unwrap_or_default().into();
                answer.model = line.model.clone();
                answer.warning = line.warning;
                answer.set_paid(paid);
                Ok(answer)
            }
        };
        Ok(Self {
            attempts: line.attempts,
            latency: Duration::from_millis(line.latency_ms),
            provider,
            model: line.model,
            earlier: line.earlier,
            request_hash: line.request_hash,
            answered_by: line.answered_by,
            input: line.input,
            input_left_out: line.input_left_out,
            ..Self::new(line.id, result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `outcome_cases.jsonl` have each field, in its order.
    #[test]
    fn a_result_line_is_read_as_it_was_written() {
        let lines = include_str!("outcome_cases.jsonl").lines();
        let read = lines.map(|line| {
            let outcome: Outcome = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&outcome).unwrap(), line);
            let mut written = Vec::new();
            outcome.write_line(&mut written).unwrap();
            assert_eq!(written, [line.as_bytes(), b"\n"].concat());
            outcome
        });
        let read: Vec<Outcome> = read.collect();
        let answer = read[3].result.as_ref().unwrap();
        let details = answer.details();
        assert_eq!((&*answer.text, &*details.tool_calls[1].name), ("7", "run"));
        assert_eq!(details.reasoning.as_ref().unwrap().text, "Hm.");
        assert_eq!(details.citations.len(), 2);
        assert_eq!(details.service_tier.as_deref(), Some("flex"));
        assert_eq!(details.degraded.as_deref(), Some("groq: no key"));
        let failed = read[5].result.as_ref().unwrap_err();
        assert_eq!(failed.refusal(), Some("no"));
    }
}
