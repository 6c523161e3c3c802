//! Types that all dialects share: a prompt, an answer, and errors. The dialects translate them.

use std::time::Duration;

use super::SimConfig;
use super::limits::Denial;
use super::shape::Shape;
use super::tools::{Call, Tools};

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
    pub(super) tools: Option<Box<Tools>>,
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
    /// The prompt is withheld from the model, if the API distinguishes this.
    Blocked,
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
    /// The cost of a complete answer to `prompt`. Reasoning comes first and counts towards the limit.
    pub(super) fn of(prompt: &Prompt, config: &SimConfig) -> Tokens {
        let cap = prompt.cap.unwrap_or(u64::MAX);
        let reasoning = config.reasoning_tokens.min(cap);
        Tokens {
            prompt: prompt.tokens,
            cached: config.cached_tokens.min(prompt.tokens),
            output: config.output_tokens.min(cap - reasoning),
            reasoning,
        }
    }

    pub(super) fn without_output(self) -> Tokens {
        Tokens {
            output: 0,
            reasoning: 0,
            ..self
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

/// An error in a request. Places are paths such as `messages[0].content`; the empty path is the whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    NotJson,
    /// A field that the API does not know.
    Unknown(String),
    Missing(String),
    Invalid {
        at: String,
        message: String,
    },
}

impl Fault {
    pub(super) fn invalid(at: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault::Invalid {
            at: at.into(),
            message: message.into(),
        }
    }

    pub(super) fn at(&self) -> &str {
        match self {
            Fault::NotJson => "",
            Fault::Unknown(at) | Fault::Missing(at) | Fault::Invalid { at, .. } => at,
        }
    }
}

/// Why a call gets an error.
#[derive(Debug)]
pub(super) enum Problem<'a> {
    Loading,
    NoKey,
    WrongKey,
    Fault(Fault),
    NoModel(&'a str),
    /// One of the simulator's own limits.
    Limited {
        denial: Denial,
        model: &'a str,
        wait: Option<Duration>,
    },
    RateLimit {
        wait: Option<Duration>,
    },
    NoCredit,
    /// The request is valid, but the API rejects it anyway.
    BadPrompt {
        at: &'static str,
    },
    ServerError,
    Unavailable {
        wait: Duration,
    },
    Overloaded,
}

impl Problem<'_> {
    /// The wait that the client is asked for.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Problem::Limited { wait, .. } | Problem::RateLimit { wait } => *wait,
            Problem::Unavailable { wait } => Some(*wait),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(cap: Option<u64>, config: &SimConfig) -> (u64, u64) {
        let prompt = Prompt {
            model: "m".into(),
            text: "x".into(),
            tokens: 9,
            cap,
            shape: None,
            tools: None,
            flex: false,
        };
        let tokens = Tokens::of(&prompt, config);
        (tokens.reasoning, tokens.output)
    }

    #[test]
    fn reasoning_comes_out_of_the_cap_first() {
        let config = SimConfig::default().output_tokens(10).reasoning_tokens(5);
        assert_eq!(tokens(None, &config), (5, 10));
        assert_eq!(tokens(Some(8), &config), (5, 3));
        assert_eq!(tokens(Some(3), &config), (3, 0));
    }
}
