//! The body of a request in the words of one provider's own API, as batch files for that provider have
//! it. To that provider it goes out as it stands.

use serde_json::{Map, Value, json};

use crate::base::brief::Many;

/// Whose words a [`Native`] body is in.
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

    /// Its name where requests are kept.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "openai_responses",
            Self::AnthropicMessages => "anthropic_messages",
            Self::GeminiContent => "gemini_content",
        }
    }

    /// The provider that reads it as it stands.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "openai",
            Self::AnthropicMessages => "anthropic",
            Self::GeminiContent => "gemini",
        }
    }
}

/// A body in the words of one provider; see [`Request::from_native`](crate::Request::from_native). Its
/// `Debug` shows none of it.
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

    /// Whose words it is in.
    pub fn format(&self) -> NativeFormat {
        self.format
    }

    /// The body as it was written.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// Goes on with an answer and what is said to it.
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

    /// The first field that has no place in the words that all providers share; none where the request
    /// says all of it, so that others can be asked as well.
    pub fn untranslated(&self) -> Option<&str> {
        self.lost.as_deref()
    }
}
