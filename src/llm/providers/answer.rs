//! From what a reply holds to an answer or a failure, the same way for every dialect.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::base::json_read::table;
use crate::base::json_text::hex;
use crate::base::{Error, ErrorKind, Optional, Paid, Sent, Usage, Usd};
use crate::llm::reply_details::{RawJson, Reasoning, ReplyDetails, ToolCall, shallow};
use crate::llm::response::{FinishReason, Response};

use super::fields;

/// A reply's parts, not judged yet.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub text: String,
    /// The word for the end; empty if there is none.
    pub finish: String,
    /// What the model said when it refused.
    pub refusal: Option<String>,
    /// Why it was blocked, in the provider's word.
    pub category: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
    pub cost_usd: Option<Usd>,
    pub details: ReplyDetails,
    pub holds: Holds,
}

/// The most names of parts in a description.
const MOST_NAMES: usize = 20;

/// What a reply has beside its text, for messages.
#[derive(Debug, Default)]
pub(super) struct Holds {
    parts: Vec<String>,
    /// Whether images, sounds or files are among them.
    has_media: bool,
}

impl Holds {
    pub(super) fn part(&mut self, what: &str) {
        // At most one line, without control characters.
        let what: String = what.chars().filter(|c| !c.is_control()).take(90).collect();
        if self.parts.len() < MOST_NAMES && !self.parts.contains(&what) {
            self.parts.push(what);
        }
    }

    /// A part with a media type, such as `image/png`, or the beginning of one.
    pub(super) fn media(&mut self, kind: &str) {
        self.part(&format!("{kind} data"));
        self.has_media = true;
    }

    /// A list entry in OpenAI's or Anthropic's format, described by its type.
    pub(super) fn block(&mut self, block: &Value) {
        match block["type"].as_str().unwrap_or_default() {
            "" => {}
            "thinking" | "redacted_thinking" | "reasoning" => self.part("thoughts"),
            kind @ ("image" | "image_url" | "audio") => self.media(kind),
            other => self.part(&format!("a part of the type {other}")),
        }
    }

    fn description(&self) -> String {
        self.parts.join(" and ")
    }
}

impl Answer {
    /// The answer, or the failure that the reply reports in spite of its success status. If `unchecked`, an empty text
    /// and a text that a filter cut off are answers. A refusal is an error in any case.
    pub(super) fn conclude(
        self,
        provider: &str,
        body: &[u8],
        unchecked: bool,
    ) -> Result<Response, Error> {
        if let Some(refusal) = &self.refusal {
            let message = format!("the model refused{}: {refusal}", self.about());
            return Err(self.blocked(message).with_refusal(Some(refusal.clone())));
        }
        let known = end(&self.finish);
        let finish_reason = match known {
            Some(End::Blocked) if unchecked => FinishReason::Other("content_filter".to_owned()),
            Some(End::ToolFault) if unchecked => self.finish.as_str().into(),
            _ => self.finish_reason(known, provider, body)?,
        };
        if !unchecked {
            self.check_text(known, &finish_reason, body)?;
        }
        let mut response = Response::new(provider, self.text);
        response.set_details(self.details);
        if known == Some(End::Paused) {
            response.details_mut().reply = Some(RawJson::new(&String::from_utf8_lossy(body)));
            let warning = "the provider paused this turn before it was done; a conversation goes on \
                 with the whole reply, which is in `reply`";
            response.warn(warning);
        }
        if self.holds.has_media {
            let held = self.holds.description();
            response.details_mut().reply = Some(RawJson::new(&String::from_utf8_lossy(body)));
            response.warn(&format!(
                "the reply also holds {held}, which a text cannot say; `reply` keeps the provider's \
                whole reply"
            ));
        }
        response.finish_reason = finish_reason;
        response.model = self.model.filter(|model| !model.is_empty());
        response.usage = self.usage;
        response.cost_usd = self.cost_usd;
        Ok(response)
    }

    fn paid(&self) -> Paid {
        Paid::new(self.usage, self.cost_usd)
    }

    fn has_calls(&self) -> bool {
        !self.details.tool_calls.is_empty()
    }

    /// The category of a block, in parentheses.
    fn about(&self) -> String {
        let category = self.category.as_deref();
        category.map_or_else(String::new, |category| format!(" ({category})"))
    }

    fn blocked(&self, message: String) -> Error {
        Error::new(ErrorKind::Blocked, message)
            .with_sent(Sent::Answered)
            .with_paid(self.paid())
            .when(!self.text.is_empty(), |error| error.with_raw(&self.text))
            .set(self.category.as_deref(), Error::with_category)
    }

    /// Why the answer ended, or the failure if it ended by one.
    fn finish_reason(
        &self,
        known: Option<End>,
        provider: &str,
        body: &[u8],
    ) -> Result<FinishReason, Error> {
        let (finish, calls) = (&self.finish, self.has_calls());
        Err(match known {
            // Some providers report that they stopped, or no reason, when they call a tool.
            Some(End::Complete) | None if calls && (known.is_some() || finish.is_empty()) => {
                return Ok(FinishReason::ToolCalls);
            }
            Some(End::Complete) => return Ok(FinishReason::Stop),
            Some(End::Cut) => return Ok(FinishReason::Length),
            Some(End::Blocked) => self.blocked(format!(
                "{provider} blocked the answer: {finish}{}",
                self.about()
            )),
            Some(End::Tool) if calls => return Ok(FinishReason::ToolCalls),
            Some(End::ToolFault) if !calls => {
                let what = format!("the model failed in calling a tool ({finish})");
                unusable(ErrorKind::Invalid, what, body).with_paid(self.paid())
            }
            Some(End::Fault) => {
                let what = format!("the model failed while answering ({finish})");
                malformed(what, body).with_paid(self.paid())
            }
            Some(End::Interrupted) => {
                let what = format!("{provider} broke the answer off ({finish})");
                interrupted(what, body).with_paid(self.paid())
            }
            // A new word for the end does not make the text worthless, which was paid for.
            Some(End::Tool | End::Paused | End::ToolFault) | None => {
                return Ok(finish.as_str().into());
            }
        })
    }

    /// Refuses an answer without a text, unless it calls tools or was paused or cut.
    fn check_text(
        &self,
        known: Option<End>,
        finish_reason: &FinishReason,
        body: &[u8],
    ) -> Result<(), Error> {
        let holds_its_work = known == Some(End::Paused) && !self.holds.parts.is_empty();
        if !self.text.trim().is_empty() || self.has_calls() || holds_its_work {
            return Ok(());
        }
        let (kind, what) = match finish_reason {
            FinishReason::Length => {
                let what = "the token limit was used up before any text came; allow more tokens (max_tokens)";
                (ErrorKind::Invalid, what.to_owned())
            }
            _ if known == Some(End::Tool) => {
                let end = &self.finish;
                let what =
                    format!("the model requested a tool call ({end}) without the name of a tool");
                (ErrorKind::Invalid, what)
            }
            _ => {
                let why = match finish_reason {
                    FinishReason::Other(word) if !word.is_empty() => format!(" ({word})"),
                    _ => String::new(),
                };
                let what = match self.holds.description() {
                    held if held.is_empty() => format!("the answer is empty{why}"),
                    held => format!("the reply holds {held} and no text{why}"),
                };
                (ErrorKind::Malformed, format!("not a usable reply: {what}"))
            }
        };
        Err(unusable(kind, what, body).with_paid(self.paid()))
    }
}

/// The failure of a complete success reply that was paid for and is no answer. It is kept whole.
fn unusable(kind: ErrorKind, message: String, body: &[u8]) -> Error {
    let sent = match kind {
        ErrorKind::Malformed => Sent::Maybe,
        _ => Sent::Answered,
    };
    let error = Error::new(kind, message).with_sent(sent);
    error.with_unusable_reply(body)
}

/// The same for what the dialect does not promise.
pub(super) fn unlike(what: impl fmt::Display, body: &[u8]) -> Error {
    let message = format!("not a usable reply: {what}");
    unusable(ErrorKind::Malformed, message, body)
}

/// The failure of a success reply that is not the JSON that the dialect promises: complete and of no
/// use, or cut off before its end.
pub(super) fn unreadable(error: &serde_json::Error, body: &[u8]) -> Error {
    if error.is_eof() {
        return malformed(error, body);
    }
    if is_web_page(body) {
        return unlike(WEB_PAGE, body);
    }
    unlike(error, body)
}

/// What is said of a web page.
pub(super) const WEB_PAGE: &str = "it is a web page, not JSON; is the base URL right?";

/// Whether a body that is no JSON looks like a web page, for example the one of a login.
pub(super) fn is_web_page(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// The failure of a success reply that is not complete, or that says itself that something failed.
pub(super) fn malformed(what: impl fmt::Display, body: &[u8]) -> Error {
    Error::new(ErrorKind::Malformed, format!("not a usable reply: {what}"))
        .with_sent(Sent::Maybe)
        .with_raw(&beginning(body))
}

/// The failure of an answer that the provider broke off: half of it was paid for, and is kept.
pub(super) fn interrupted(what: String, body: &[u8]) -> Error {
    Error::new(ErrorKind::Transient, what)
        .with_sent(Sent::Maybe)
        .with_raw(&beginning(body))
}

/// As much of a body as is kept of it, and more: a large one is not copied for its first page.
pub(super) fn beginning(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&body[..body.len().min(64 * 1024)])
}

/// A call of a tool. Arguments that come as text are read where they are JSON.
pub(super) fn tool_call(
    id: Option<&str>,
    name: Option<&str>,
    arguments: Option<Value>,
) -> ToolCall {
    let arguments = match arguments.unwrap_or_default() {
        // A tool without parameters may be called with nothing at all.
        Value::Null => json!({}),
        Value::String(text) if matches!(text.trim(), "" | "null") => json!({}),
        Value::String(text) => match fields::value(&text) {
            Ok(read) if !(has_long_number(&text) && is_rounded(&read)) => read,
            _ => Value::String(text),
        },
        other => other,
    };
    ToolCall::new(
        id.unwrap_or_default(),
        name.unwrap_or_default(),
        shallow(arguments),
    )
}

/// Whether more digits follow each other than a whole number of 64 bits has room for.
fn has_long_number(json: &str) -> bool {
    let mut runs = json.split(|c: char| !c.is_ascii_digit());
    runs.any(|digits| digits.len() > 18)
}

/// Whether a number in it may be a whole one that has no room in 64 bits, and has lost digits.
fn is_rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let rounded = number.as_f64().filter(|_| number.is_f64());
            rounded.is_some_and(|number| number.abs() >= i64::MAX as f64)
        }
        Value::Array(items) => items.iter().any(is_rounded),
        Value::Object(fields) => fields.values().any(is_rounded),
        _ => false,
    }
}

/// Names the calls that the provider gave no name, so that their results can refer to them: by what
/// they say and by the reply that they stand in, so that the same reply is read the same again, and
/// two turns of a conversation have different ones. No provider refuses nine letters and digits.
pub(super) fn name_calls(calls: &mut [ToolCall], reply: Option<&RawValue>) {
    let reply = reply.map_or("", RawValue::get);
    for (number, call) in calls.iter_mut().enumerate() {
        if call.id.is_empty() {
            let (name, arguments) = (&call.name, &call.arguments);
            let text = format!("{reply}\n{number}\n{name}\n{arguments}");
            call.id = hex(&Sha256::digest(text.as_bytes())[..5]);
            call.id.truncate(9);
        }
    }
}

/// What the model thought; none without a text and without anything to send back.
pub(super) fn reasoning(text: String, details: Vec<Value>) -> Option<Reasoning> {
    let some = !text.is_empty() || !details.is_empty();
    some.then_some(Reasoning { text, details })
}

/// What a word for the end of an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Complete,
    /// Cut at the token limit or the end of the context.
    Cut,
    /// A safety filter, or the model refused.
    Blocked,
    /// The model wants a tool called.
    Tool,
    /// The provider paused a turn in which it carries out tools itself.
    Paused,
    /// The model failed in calling a tool.
    ToolFault,
    /// The model failed while answering.
    Fault,
    /// The provider broke the answer off, and may well finish the next one.
    Interrupted,
}

/// Words for the end of an answer, as vendors and the gateways before them have them. No word means two things, so that
/// one table serves all dialects. A word that is missing is kept as it is. Sources: OpenAI's chat API and those like it;
/// Together (eos: the model reported that it has ended); Mistral (model_length: the end of the context; error);
/// OpenRouter, "Errors and Debugging" (error); DeepSeek, "Create Chat Completion" (insufficient_system_resource); Z.ai,
/// "Chat Completion" (network_error); vLLM and SGLang, in their sources (abort); Anthropic, "Handling stop reasons";
/// Gemini's `FinishReason`; Google's policies, of the answer (ESCALATION) and of the account (PUP_LIMITED_DISABLED).
/// MISSING_THOUGHT_SIGNATURE: a tool call in the conversation came without its signature.
static ENDS: LazyLock<BTreeMap<&str, End>> =
    LazyLock::new(|| table(include_str!("tables/ends.json")));

/// What a word means, if it is known.
pub(super) fn end(word: &str) -> Option<End> {
    ENDS.get(word).copied()
}

/// The word that tells how an answer ended: a gateway's, or that of the provider behind it where the
/// gateway calls an answer complete that is not. LiteLLM says `stop` for every word that it does not know. An end
/// that is not specified counts only where the answer is `silent`: a gateway may have filled it in.
pub(super) fn telling(own: String, native: String, silent: bool) -> String {
    if native.is_empty() {
        return own;
    }
    let is_broken = match end(&native) {
        Some(End::Interrupted | End::ToolFault) => true,
        Some(End::Fault) => silent || !native.eq_ignore_ascii_case("finish_reason_unspecified"),
        _ => false,
    };
    if is_broken && end(&own) == Some(End::Complete) {
        native
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::read;
    use super::super::dialect::testing::vendor;
    use super::telling;

    #[test]
    fn bytes_that_are_no_text_are_kept_unchanged() {
        let page = b"<html>gr\xfcn";
        let error = read(vendor("openai"), page, false).unwrap_err();
        assert_eq!(error.raw_bytes(), Some(&page[..]));
        assert!(error.is_unusable_reply());
    }

    #[test]
    fn a_gateways_finish_reason_is_replaced_only_if_it_hides_a_failure() {
        let word = |own: &str, native: &str| telling(own.to_owned(), native.to_owned(), false);
        let broken = "insufficient_system_resource";
        assert_eq!(word("stop", broken), broken);
        assert_eq!(
            word("stop", "MALFORMED_FUNCTION_CALL"),
            "MALFORMED_FUNCTION_CALL"
        );
        assert_eq!(word("stop", "STOP"), "stop");
        assert_eq!(word("stop", ""), "stop");
        assert_eq!(word("stop", "of the future"), "stop");
        assert_eq!(word("length", "error"), "length");
        let unspecified = "FINISH_REASON_UNSPECIFIED";
        assert_eq!(word("stop", unspecified), "stop");
        for fault in ["MALFORMED_RESPONSE", unspecified] {
            assert_eq!(telling("stop".into(), fault.into(), true), fault);
        }
        assert_eq!(word("stop", "MALFORMED_RESPONSE"), "MALFORMED_RESPONSE");
        assert_eq!(word("content_filter", "OTHER"), "content_filter");
    }
}
