//! Replies to a prompt, of a call or in a batch: normal answers, wrong answers, and the errors of simulated problems.

use std::borrow::Cow;
use std::time::Duration;

use super::dialect::Dialect;
use super::prompt::{Answer, Finish, Problem, Prompt, Tokens};
use super::trouble::prompt_key;
use super::{SimConfig, Trouble};

/// The origin of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) call: u64,
    /// Seconds since the epoch.
    pub(super) created: u64,
}

/// Appends the body with status 200 that answers `prompt`; with `odd`, a wrong one.
pub(super) fn write(
    out: &mut Vec<u8>,
    dialect: Dialect,
    config: &SimConfig,
    prompt: &Prompt,
    odd: Option<Trouble>,
    place: Place,
) {
    let tokens = tokens(prompt, config, odd);
    let (finish, text): (_, Cow<'_, str>) = match odd {
        None => {
            let (output, reasoning) = config.tokens();
            let finish = if tokens.completion() < output.saturating_add(reasoning) {
                Finish::Length
            } else {
                Finish::Stop
            };
            (finish, words(config, prompt, tokens))
        }
        Some(Trouble::ContentFilter) if prompt_key(&prompt.text) & 1 == 0 => {
            (Finish::Blocked, "".into())
        }
        Some(Trouble::ContentFilter) => (Finish::Filtered, "".into()),
        Some(Trouble::Refusal) => (Finish::Refused, "I'm sorry, I can't help with that.".into()),
        Some(Trouble::Length) => {
            let whole = words(config, prompt, tokens);
            let half = whole.chars().count() / 2;
            (Finish::Length, whole.chars().take(half).collect())
        }
        Some(Trouble::InvalidJson) => (Finish::Stop, "This is not JSON.".into()),
        Some(_) => (Finish::Stop, "".into()),
    };
    let calls = match odd {
        None if finish == Finish::Stop => prompt.tools.calls(&prompt.text),
        _ => Vec::new(),
    };
    let answer = Answer {
        calls: &calls,
        flex: prompt.flex,
        call: place.call,
        created: place.created,
        model: &prompt.model,
        text: if calls.is_empty() { &text } else { "" },
        finish,
        tokens,
    };
    dialect.answer(out, &answer);
}

/// The tokens of the answer to `prompt`, or of a wrong one.
pub(super) fn tokens(prompt: &Prompt, config: &SimConfig, odd: Option<Trouble>) -> Tokens {
    let tokens = Tokens::of(prompt, config);
    match odd {
        Some(Trouble::ContentFilter | Trouble::Empty) => Tokens {
            output: 0,
            reasoning: 0,
            ..tokens
        },
        _ => tokens,
    }
}

/// The error for `kind`; `None` for kinds that are not errors of the API. `at` is the field that a bad request names.
pub(super) fn problem(
    kind: Trouble,
    config: &SimConfig,
    model: &str,
    at: &'static str,
) -> Option<Problem> {
    let wait = |seconds| Some(config.retry_after.unwrap_or(Duration::from_secs(seconds)));
    let mut problem = match kind {
        Trouble::UnknownModel => Problem::no_model(model),
        Trouble::Error500 => Problem::new("server_error", "server_error"),
        Trouble::Error503 => Problem::new("overload", "unavailable"),
        Trouble::Overloaded => Problem::new("overload", "overloaded"),
        Trouble::RateLimit => Problem::rate("rate_limit", "requests", wait(1)),
        Trouble::Quota => Problem::new("no_credit", "no_credit"),
        Trouble::Unauthorized => Problem::new("key", "wrong_key"),
        Trouble::BadRequest => Problem::new("bad_prompt", "bad_prompt"),
        _ => return None,
    };
    if kind == Trouble::Error503 {
        problem.wait = wait(2);
    }
    if kind == Trouble::BadRequest {
        problem.facts.set("param", at);
    }
    Some(problem)
}

/// The text of an answer; empty if the limit leaves no token for it.
fn words<'a>(config: &'a SimConfig, prompt: &Prompt, tokens: Tokens) -> Cow<'a, str> {
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
