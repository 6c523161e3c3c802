//! Types that all dialects share: a prompt, an answer, and errors. The dialects translate them.

use std::borrow::Cow;
use std::time::Duration;

use super::SimConfig;
use super::limits::Denial;
use super::rules::Fault;
use super::shape::Shape;
use super::template::Facts;
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
        let (output, reasoning) = config.tokens();
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

/// Why a call gets an error: its names in `rules/problems.json`, from the most general on, and the facts for its words.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) names: [Cow<'static, str>; 3],
    pub(super) facts: Facts,
    /// The status, unless the table has another.
    pub(super) status: u16,
    /// No correct client sends such a request.
    pub(super) malformed: bool,
    /// The wait that the client is asked for.
    pub(super) wait: Option<Duration>,
}

impl Problem {
    pub(super) fn new(general: &'static str, own: &'static str) -> Problem {
        Problem {
            names: ["any", general, own].map(Cow::from),
            facts: Facts::default(),
            status: 400,
            malformed: false,
            wait: None,
        }
    }

    pub(super) fn no_model(model: &str) -> Problem {
        let mut problem = Problem::new("no_model", "no_model");
        problem.facts.set("model", model);
        problem
    }

    /// A limit of requests or of tokens, or a trouble that pretends so.
    pub(super) fn rate(own: &'static str, bucket: &'static str, wait: Option<Duration>) -> Problem {
        let mut problem = Problem::new("rate", own);
        problem.facts.set("bucket", bucket);
        problem.wait = wait;
        problem
    }

    /// One of the simulator's own limits.
    pub(super) fn limited(denial: &Denial, model: &str) -> Problem {
        let own = match denial.bucket {
            "tokens" => "limited_tokens",
            _ => "limited_requests",
        };
        let mut problem = Problem::rate(own, denial.bucket, denial.wait);
        problem.facts.set("message", denial.message(model));
        problem
    }

    /// An error of a request for files or batches.
    pub(super) fn of_batches(status: u16, message: impl Into<String>) -> Problem {
        let mut problem = Problem::new("batch", "batch");
        problem.names = [
            "batch".into(),
            "batch".into(),
            format!("batch_{status}").into(),
        ];
        problem.status = status;
        problem.facts.set("message", message.into());
        problem
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        let mut problem = Problem::new("fault", fault.kind);
        problem.malformed = true;
        let dotted = fault.at.replace('[', ".").replace(']', "");
        let param = Some(fault.at.as_str()).filter(|at| !at.is_empty());
        problem.facts.set("param", param);
        problem.facts.set("dotted", dotted);
        problem.facts.set("message", fault.message);
        problem.facts.set("at", fault.at);
        problem
    }
}
