//! Replies to a prompt, of a call or in a batch: normal answers, wrong answers, and the errors of simulated problems.

use std::borrow::Cow;
use std::time::Duration;

use super::dialect::Dialect;
use super::prompt::{Answer, Finish, Problem, Prompt, Tokens};
use super::{SimConfig, Trouble};

/// The origin of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) call: u64,
    /// Seconds since the epoch.
    pub(super) created: u64,
    /// The key of the prompt.
    pub(super) key: u64,
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
            let whole = config.output_tokens.saturating_add(config.reasoning_tokens);
            let finish = if tokens.completion() < whole {
                Finish::Length
            } else {
                Finish::Stop
            };
            (finish, words(config, prompt, tokens))
        }
        Some(Trouble::ContentFilter) if place.key & 1 == 0 => (Finish::Blocked, "".into()),
        Some(Trouble::ContentFilter) => (Finish::Filtered, "".into()),
        Some(Trouble::Refusal) => (Finish::Refused, "I'm sorry, I can't help with that.".into()),
        Some(Trouble::Length) => {
            let whole = words(config, prompt, tokens);
            let half = whole.chars().count() / 2;
            (Finish::Length, whole.chars().take(half).collect())
        }
        Some(Trouble::InvalidJson) => {
            let shape = prompt.shape.as_ref();
            let text = shape.map(|shape| shape.misfit()).unwrap_or_default();
            (Finish::Stop, text.into())
        }
        Some(_) => (Finish::Stop, "".into()),
    };
    let tools = prompt
        .tools
        .as_deref()
        .filter(|_| finish == Finish::Stop && odd.is_none());
    let calls = tools.map(|tools| tools.calls(&prompt.text));
    let calls = calls.unwrap_or_default();
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
        Some(Trouble::ContentFilter | Trouble::Empty) => tokens.without_output(),
        _ => tokens,
    }
}

/// The error for `kind`; `None` for kinds that are not errors of the API. `at` is the field that a bad request names.
pub(super) fn problem<'a>(
    kind: Trouble,
    config: &SimConfig,
    model: &'a str,
    at: &'static str,
) -> Option<Problem<'a>> {
    let retry_after = config.retry_after;
    Some(match kind {
        Trouble::UnknownModel => Problem::NoModel(model),
        Trouble::Error500 => Problem::ServerError,
        Trouble::Error503 => Problem::Unavailable {
            wait: retry_after.unwrap_or(Duration::from_secs(2)),
        },
        Trouble::Overloaded => Problem::Overloaded,
        Trouble::RateLimit => Problem::RateLimit {
            wait: Some(retry_after.unwrap_or(Duration::from_secs(1))),
        },
        Trouble::RateLimitForever => Problem::RateLimit {
            wait: Some(Duration::ZERO),
        },
        Trouble::Quota => Problem::NoCredit,
        Trouble::Unauthorized => Problem::WrongKey,
        Trouble::BadRequest => Problem::BadPrompt { at },
        Trouble::Drop
        | Trouble::Stall
        | Trouble::BrokenJson
        | Trouble::Truncated
        | Trouble::Html502
        | Trouble::ContentFilter
        | Trouble::Refusal
        | Trouble::Empty
        | Trouble::InvalidJson
        | Trouble::Length => return None,
    })
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
