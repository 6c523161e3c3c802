//! The body of a request in the format of one provider's API, as in batch files for this provider. The provider gets it
//! unchanged, and no other provider gets it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::brief::Many;

/// The format of a [`Native`] body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum NativeFormat {
    /// Anthropic's Messages API: the `params` of a line of a batch.
    AnthropicMessages,
    /// Gemini's `generateContent`: the `request` of a line of a batch.
    GeminiContent,
}

impl NativeFormat {
    /// The provider that gets such a body.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::AnthropicMessages => "anthropic",
            Self::GeminiContent => "gemini",
        }
    }

    /// The fields of a body with its turns, and of a turn with its content.
    pub(crate) fn turns(self) -> (&'static str, &'static str) {
        match self {
            Self::AnthropicMessages => ("messages", "content"),
            Self::GeminiContent => ("contents", "parts"),
        }
    }
}

/// A body in the format of one provider; see [`Request::from_native`](crate::Request::from_native). Its `Debug` does
/// not show the body.
#[derive(Clone, PartialEq, Serialize, Deserialize, derive_more::Debug)]
#[serde(deny_unknown_fields)]
pub struct Native {
    pub(super) format: NativeFormat,
    #[debug("{:?}", Many(body.len()))]
    pub(super) body: Map<String, Value>,
}

impl Native {
    /// The format of the body.
    pub fn format(&self) -> NativeFormat {
        self.format
    }

    pub(super) fn leave_out_last(&mut self) {
        let turns = self.body.get_mut(self.format.turns().0);
        turns.and_then(Value::as_array_mut).map(Vec::pop);
    }

    /// The body as it was given.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }
}
