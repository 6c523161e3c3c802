//! What the provider allows, in the headers that OpenAI has for it: as the worker's limiter sees it when the answer
//! goes out. A limit that nobody knows has none.

use std::cmp::Reverse;
use std::time::Duration;

use batchwright::Request;
use batchwright::progress::{ProviderLimits, RateStatus};

use crate::app::App;
use crate::http::Response;

/// Header names of a limit, what is left of it, and when it is whole again.
type Names = [&'static str; 3];

const REQUESTS: Names = [
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
];
const TOKENS: Names = [
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// The answer to such a request with what the provider allows that gave it, named with the model that it told; where
/// none did, the one that is asked first.
pub(super) fn told(
    app: &App,
    request: &Request,
    answered_by: Option<(&str, Option<&str>)>,
    response: Response,
) -> Response {
    let all = app.limits.of(request);
    let asked = all
        .iter()
        .map(|l| (l.provider.as_str(), l.model.as_deref()));
    let step = answered_by.and_then(|by| step(asked, by)).unwrap_or(0);
    match all.get(step) {
        Some(limits) => with(response, limits, 0),
        None => response,
    }
}

/// The same for a response that begins before the calls for its answer do: these count as made.
pub(super) fn ahead(app: &App, request: &Request, calls: usize, response: Response) -> Response {
    match app.limits.of(request).first() {
        Some(limits) => with(response, limits, calls),
        None => response,
    }
}

/// Which of those that are asked, one after another, answered. One provider may be asked for several models, and tells
/// them by longer names: `gpt-x` answers as `gpt-x-2026-01-01`.
fn step<'a>(
    asked: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    (provider, told): (&str, Option<&str>),
) -> Option<usize> {
    let fit = |model: Option<&str>| match (model, told) {
        (Some(model), Some(told)) if told.starts_with(model) => model.len(),
        _ => 0,
    };
    let of_provider = asked.enumerate().filter(|(_, (name, _))| *name == provider);
    // Of equals the one that is asked first.
    let best = of_provider.max_by_key(|(step, (_, model))| (fit(*model), Reverse(*step)));
    best.map(|(step, _)| step)
}

fn with(response: Response, limits: &ProviderLimits, calls: usize) -> Response {
    let quota = &limits.quota;
    let requests = quota.requests.map(|rate| after(rate, calls));
    let all = [(REQUESTS, requests), (TOKENS, quota.tokens)];
    all.into_iter()
        .filter_map(|(names, rate)| Some((names, rate?)))
        .fold(response, |response, (names, rate): (Names, RateStatus)| {
            response
                .header(names[0], rate.limit.to_string())
                .header(names[1], rate.remaining.to_string())
                .header(names[2], written(rate.reset_after))
        })
}

/// A limit of requests per minute after this number of further requests.
fn after(mut rate: RateStatus, calls: usize) -> RateStatus {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
    let each = Duration::from_secs(60).div_f64(rate.limit.max(1) as f64);
    rate.remaining = rate.remaining.saturating_sub(calls.into());
    rate.reset_after += each * calls;
    rate
}

/// As OpenAI writes a time: `6m0s`, `7.66s`, `20ms`; not shorter than it is.
fn written(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let seconds = (millis % 60_000) as f64 / 1e3;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_model_that_answered() {
        let asked = [
            ("a", Some("x")),
            ("a", Some("x-mini")),
            ("a", None),
            ("b", Some("x")),
        ];
        for (answered_by, expected) in [
            (("a", Some("x-mini-2026-01-01")), Some(1)),
            (("a", Some("x-2026-01-01")), Some(0)),
            (("a", Some("y")), Some(0)),
            (("a", None), Some(0)),
            (("b", Some("z")), Some(3)),
            (("c", Some("x")), None),
        ] {
            assert_eq!(
                step(asked.into_iter(), answered_by),
                expected,
                "{answered_by:?}"
            );
        }
    }

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (millis, text) in [
            (0.0, "0s"),
            (0.2, "1ms"),
            (20.0, "20ms"),
            (999.1, "1s"),
            (1_000.0, "1s"),
            (7_660.0, "7.66s"),
            (59_001.0, "59.001s"),
            (60_000.0, "1m0s"),
            (179_560.0, "2m59.56s"),
            (360_000.0, "6m0s"),
            (3_723_000.0, "1h2m3s"),
            (7_200_000.0, "2h0m0s"),
        ] {
            let time = Duration::from_secs_f64(millis / 1e3);
            assert_eq!(written(time), text);
        }
    }
}
