//! The body of a request in the format of one provider's API, as in batch files for this provider. The provider gets it
//! unchanged.

use serde_json::{Map, Value, json};

use crate::base::brief::Many;

/// The format of a [`Native`] body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NativeFormat {
    /// OpenAI's Responses API, `/v1/responses`.
    OpenAiResponses,
    /// Anthropic's Messages API: the `params` of a line of a batch.
    AnthropicMessages,
    /// Gemini's `generateContent`: the `request` of a line of a batch.
    GeminiContent,
}

impl NativeFormat {
    pub(crate) const ALL: [Self; 3] = [
        Self::OpenAiResponses,
        Self::AnthropicMessages,
        Self::GeminiContent,
    ];

    /// Its name in stored requests.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "openai_responses",
            Self::AnthropicMessages => "anthropic_messages",
            Self::GeminiContent => "gemini_content",
        }
    }

    /// The provider that gets such a body unchanged.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "openai",
            Self::AnthropicMessages => "anthropic",
            Self::GeminiContent => "gemini",
        }
    }
}

/// A body in the format of one provider; see [`Request::from_native`](crate::Request::from_native). Its `Debug` does
/// not show the body.
#[derive(Clone, PartialEq, derive_more::Debug)]
pub struct Native {
    format: NativeFormat,
    #[debug("{:?}", Many(body.len()))]
    body: Map<String, Value>,
    #[debug(skip)]
    lost: Option<String>,
}

impl Native {
    pub(crate) fn new(
        format: NativeFormat,
        body: Map<String, Value>,
        lost: Option<String>,
    ) -> Self {
        Self { format, body, lost }
    }

    /// The format of the body.
    pub fn format(&self) -> NativeFormat {
        self.format
    }

    /// The body as it was given.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// Continues the conversation with an answer and a reply to it.
    pub(crate) fn go_on(&mut self, answer: &str, reply: &str) {
        let turn = |role: &str, text: &str| json!({"role": role, "content": text});
        let parts = |role: &str, text: &str| json!({"role": role, "parts": [{"text": text}]});
        let (field, turns) = match self.format {
            NativeFormat::OpenAiResponses => {
                ("input", [turn("assistant", answer), turn("user", reply)])
            }
            NativeFormat::AnthropicMessages => {
                ("messages", [turn("assistant", answer), turn("user", reply)])
            }
            NativeFormat::GeminiContent => {
                ("contents", [parts("model", answer), parts("user", reply)])
            }
        };
        match self.body.get_mut(field) {
            Some(Value::Array(said)) => said.extend(turns),
            Some(Value::String(text)) => {
                let asked = turn("user", text);
                self.body
                    .insert(field.to_owned(), [asked].into_iter().chain(turns).collect());
            }
            _ => {}
        }
    }

    /// The first field that cannot be translated for other providers; `None` if all fields can be.
    pub fn untranslated(&self) -> Option<&str> {
        self.lost.as_deref()
    }
}
