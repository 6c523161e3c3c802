//! Types that all dialects share, a prompt and an answer, which the dialects translate; and the words and tokens of
//! answers.

use std::borrow::Cow;

use super::shape::{Call, Shape, Tools};
use super::{SimConfig, Trouble};

/// The parts of a request that the simulator uses.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) model: String,
    pub(super) text: String,
    pub(super) tokens: u64,
    /// The maximum number of output tokens.
    pub(super) cap: Option<u64>,
    /// The requested JSON format of the answer, if any.
    pub(super) shape: Option<Shape>,
    pub(super) tools: Tools,
    /// Whether it is for the flex tier.
    pub(super) flex: bool,
}

/// The texts of a conversation. One of them is the prompt.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    bytes: usize,
    last: String,
    last_of_user: Option<String>,
}

impl Conversation {
    /// Adds a text that counts as input but cannot be the prompt.
    pub(super) fn instruct(&mut self, text: &str) {
        self.bytes += text.len();
    }

    /// Adds a message. The results of tools come as messages of the user without a text: they do not replace an
    /// earlier text.
    pub(super) fn say(&mut self, is_user: bool, text: String) {
        self.bytes += text.len();
        if !is_user {
            self.last = text;
        } else if !text.is_empty() || self.last_of_user.is_none() {
            self.last_of_user = Some(text);
        }
    }

    /// A token for every four bytes, rounded up.
    pub(super) fn tokens(&self) -> u64 {
        (self.bytes as u64).div_ceil(4)
    }

    /// The text of the last user message, or of the last message if there is no user message.
    pub(super) fn prompt(self) -> String {
        self.last_of_user.unwrap_or(self.last)
    }
}

/// What the model is said to think.
pub(super) const THOUGHTS: &str = "The simulator thinks of an answer.";

/// One answer to a prompt.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) call: u64,
    /// Seconds since the epoch.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) text: &'a str,
    pub(super) calls: &'a [Call],
    pub(super) finish: Finish,
    pub(super) flex: bool,
    pub(super) tokens: Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
    /// The answer is withheld.
    Filtered,
    /// The model refuses; the text is the refusal.
    Refused,
}

/// The tokens of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) prompt: u64,
    /// The number of prompt tokens from a cache.
    pub(super) cached: u64,
    /// Without reasoning.
    pub(super) output: u64,
    pub(super) reasoning: u64,
}

impl Tokens {
    /// The cost of the answer to `prompt`, or of a wrong one. Reasoning comes first and counts towards the limit.
    pub(super) fn of(prompt: &Prompt, config: &SimConfig, odd: Option<Trouble>) -> Tokens {
        let cap = prompt.cap.unwrap_or(u64::MAX);
        let (output, reasoning) = match odd {
            Some(Trouble::ContentFilter | Trouble::Empty) => (0, 0),
            _ => config.tokens(),
        };
        let reasoning = reasoning.min(cap);
        Tokens {
            prompt: prompt.tokens,
            cached: config.cached_tokens.min(prompt.tokens),
            output: output.min(cap - reasoning),
            reasoning,
        }
    }

    /// Output and reasoning.
    pub(super) fn completion(self) -> u64 {
        self.output.saturating_add(self.reasoning)
    }

    pub(super) fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion())
    }
}

/// The text of an answer; empty if the limit leaves no token for it.
pub(super) fn words<'a>(config: &'a SimConfig, prompt: &Prompt, tokens: Tokens) -> Cow<'a, str> {
    if tokens.output == 0 {
        return "".into();
    }
    if let Some(canned) = &config.answer {
        return canned.into();
    }
    let text = &prompt.text;
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    let echo = format!("echo: {}", &text[..end]);
    match &prompt.shape {
        Some(shape) => shape.instance(&echo).to_string().into(),
        None => echo.into(),
    }
}
