//! Prompt caches of providers: which prompts share a beginning that is worth caching.
//!
//! A provider that has read the beginning of a prompt can keep it for a while, and bills less for it when the next prompt
//! begins in the same way. The beginning that is considered here is the system text, with the tools and the format of the
//! answer, which providers read before the messages.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::params::RequestTask;
use super::request::{Request, Text};

/// Shorter beginnings are not cached. No provider with a lower minimum has much to save below it.
pub(crate) const LEAST_TOKENS: u32 = 1024;
/// Bytes of text per token, as estimated elsewhere.
const BYTES: usize = 4;

/// The beginning of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PromptPrefix {
    /// The hash of its contents and of the model.
    pub hash: u64,
    /// Estimated tokens.
    pub tokens: u32,
}

impl PromptPrefix {
    /// The beginning of a request that may be cached; `None` if it is too short, if the request sets something about
    /// caches itself, or if a system text follows a message: some providers read that one first too, so the beginning
    /// would differ from prompt to prompt. A body in the format of one provider stays as it is.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let tokens = leading(request).map(Text::bytes).sum::<usize>() / BYTES;
        let is_long = tokens >= LEAST_TOKENS as usize;
        if !is_long || request.native.is_some() || request.task != RequestTask::Complete {
            return None;
        }
        if request.rendered().filter(is_system).count() > leading(request).count() {
            return None;
        }
        (!sets_cache(request)).then(|| Self {
            hash: hash(request),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    /// A name of it for providers that want one. It does not reveal the text.
    pub(crate) fn key(&self) -> String {
        format!("batchwright-{:016x}", self.hash)
    }
}

/// The texts before the first message of the conversation.
pub(crate) fn leading(request: &Request) -> impl Iterator<Item = Text<'_>> {
    let leading = request.rendered().take_while(is_system);
    leading.map(|(_, text, _)| text)
}

fn is_system<T, E>((role, ..): &(&str, T, E)) -> bool {
    matches!(*role, "system" | "developer")
}

/// Fields by which a request controls the cache itself.
const FIELDS: [&str; 6] = [
    "cache_control",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "cachedContent",
    "cached_content",
];

fn sets_cache(request: &Request) -> bool {
    let is_set = |name: &str| request.extra.contains_key(name);
    FIELDS.into_iter().any(is_set)
        || request.extra.get("tools").is_some_and(is_marked)
        || request.messages.iter().any(|message| {
            MARKS.iter().any(|mark| message.extra.contains_key(*mark))
                || is_marked(&message.content)
        })
}

const MARKS: [&str; 2] = ["cache_control", "prompt_cache_breakpoint"];

/// Whether a part of a content has a mark, also within the result of a tool.
fn is_marked(content: &Value) -> bool {
    let parts = content.as_array().into_iter().flatten();
    parts.filter_map(Value::as_object).any(|part| {
        MARKS.iter().any(|mark| part.contains_key(*mark))
            || part.get("content").is_some_and(is_marked)
    })
}

fn hash(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.model.hash(&mut hasher);
    for text in leading(request) {
        match text {
            Text::Plain(text) => text.hash(&mut hasher),
            Text::Parts(parts) => json!(parts).to_string().hash(&mut hasher),
            Text::Other(value) => value.to_string().hash(&mut hasher),
        }
    }
    for field in ["tools", "functions", "thinking", "reasoning_effort"] {
        let value = request.extra.get(field);
        value.map(Value::to_string).hash(&mut hasher);
    }
    let format = request.params.response_format.as_ref();
    format.map(|format| format!("{format:?}")).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::request::{Message, Role};

    fn long() -> Request {
        Request::new("U").with_system("All rules. ".repeat(2_000))
    }

    #[test]
    fn a_system_text_after_a_message_leaves_nothing_to_cache() {
        assert!(PromptPrefix::of(&long()).is_some());
        let mut request = Request::new("U");
        let system = |text| Message::new(Role::System, text);
        request
            .messages
            .insert(0, system("All rules. ".repeat(2_000)));
        assert!(PromptPrefix::of(&request).is_some());
        request.messages.push(system("a note".to_owned()));
        assert!(PromptPrefix::of(&request).is_none());
    }

    #[test]
    fn requests_that_control_the_cache_themselves_are_recognised() {
        let own = long().with_extra("prompt_cache_retention", "24h".into());
        assert!(PromptPrefix::of(&own).is_none());
        let mut own = long();
        let part = json!({"type": "text", "text": "r", "cache_control": {"type": "ephemeral"}});
        own.messages[0].content = json!([{"type": "tool_result", "content": [part]}]);
        assert!(PromptPrefix::of(&own).is_none());
    }
}
