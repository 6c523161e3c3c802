//! What replies say about limits and waits: three families of headers, those of a gateway on the
//! way, and four ways to write a time.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::hints::{RateHints, RateWindow};
use crate::llm::transport::HttpHeaders;

/// How a vendor tells its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RateHeaders {
    /// `x-ratelimit-*` headers; the limit of requests holds for that many seconds, that of tokens
    /// for a minute.
    #[serde(rename = "x_rate_limit")]
    XRateLimit { request_period: u64 },
    /// `anthropic-ratelimit-*` headers, with times of day.
    Anthropic,
    /// `x-ratelimit-*-requests-day` and `x-ratelimit-*-tokens-minute`, with seconds.
    Cerebras,
    /// Not at all: only refusals teach.
    Nothing,
}

/// The names of the headers of one limit: its size, what remains of it, and, if it is reported, when it is full again.
type Names = Vec<&'static str>;

/// The names of a provider's headers for requests and for tokens.
type Family = [Names; 2];

/// `tables/rate_headers.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'static"))]
struct HeaderTable {
    #[serde(rename = "notes")]
    _notes: IgnoredAny,
    x_rate_limit: Family,
    anthropic: Family,
    cerebras: Family,
    /// The limits of requests and of tokens, one per scope.
    gateway: [Vec<Names>; 2],
}

static HEADERS: LazyLock<HeaderTable> = LazyLock::new(|| {
    let table = serde_json::from_str(include_str!("tables/rate_headers.json"));
    table.expect("the tests read this file too")
});

/// What LiteLLM puts before the headers of whoever it has passed a call on to.
const PASSED_ON: &str = "llm_provider-";

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// Whatever a reply asks for, no wait is longer: about four months.
const LONGEST_WAIT: Duration = Duration::from_secs(10_000_000);

/// Clocks that differ by less are taken as equal: a reply takes time, and its date is in whole seconds.
const SAME_TIME: Duration = Duration::from_secs(5);

/// The present by the clock of the sender, since its times are meant by that one. The clock here may be wrong.
fn now_of_sender(headers: &HttpHeaders) -> SystemTime {
    let now = headers.received();
    let date = headers.get("date");
    let date = date.and_then(|text| httpdate::parse_http_date(text.trim()).ok());
    let apart = |date: &SystemTime| match date.duration_since(now) {
        Ok(ahead) => ahead,
        Err(behind) => behind.duration(),
    };
    date.filter(|date| apart(date) > SAME_TIME).unwrap_or(now)
}

pub(super) fn rate_hints(tells: RateHeaders, headers: &HttpHeaders) -> RateHints {
    let now = now_of_sender(headers);
    let (family, request_period) = match tells {
        RateHeaders::XRateLimit { request_period } => (&HEADERS.x_rate_limit, request_period),
        RateHeaders::Anthropic => (&HEADERS.anthropic, MINUTE),
        RateHeaders::Cerebras => (&HEADERS.cerebras, DAY),
        RateHeaders::Nothing => return gateway_hints(headers),
    };
    let [requests, tokens] = family;
    let header = |name: &str| own_or_passed_on(headers, name);
    let gateway = gateway_hints(headers);
    RateHints {
        requests: tighter(
            window(requests, request_period, now, header),
            gateway.requests,
        ),
        tokens: tighter(window(tokens, MINUTE, now, header), gateway.tokens),
    }
}

/// The limit with these headers, for a period in seconds.
fn window<'h>(
    names: &'static Names,
    period: u64,
    now: SystemTime,
    header: impl Fn(&str) -> Option<&'h str>,
) -> Option<RateWindow> {
    let [limit, remaining, reset @ ..] = &names[..] else {
        return None;
    };
    let reset = reset.first().and_then(|name| header(name));
    Some(RateWindow {
        limit: limit_in(header(limit)?)?,
        period: Duration::from_secs(period),
        remaining: header(remaining).and_then(left_in),
        reset: reset.and_then(|text| reset_in(text, period, now)),
        header: Some(limit),
    })
}

fn own_or_passed_on<'h>(headers: &'h HttpHeaders, name: &str) -> Option<&'h str> {
    headers.get(name).or_else(|| {
        // Most replies have come from nobody else.
        let any = headers.names_any(PASSED_ON);
        any.then(|| headers.get(&format!("{PASSED_ON}{name}")))?
    })
}

fn number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    number.is_finite().then_some(number)
}

fn limit_in(text: &str) -> Option<u64> {
    Some(number(text).filter(|limit| *limit >= 0.0)? as u64)
}

/// What is left; less than nothing is nothing.
fn left_in(text: &str) -> Option<u64> {
    Some(number(text)?.max(0.0) as u64)
}

/// The limits of a gateway on the way.
fn gateway_hints(headers: &HttpHeaders) -> RateHints {
    if !headers.names_any("x-ratelimit-") {
        return RateHints::default();
    }
    let of = |scopes: &'static Vec<Names>| {
        let windows = scopes
            .iter()
            .map(|names| window(names, MINUTE, headers.received(), |name| headers.get(name)));
        windows.fold(None, tighter)
    };
    let [requests, tokens] = &HEADERS.gateway;
    RateHints {
        requests: of(requests),
        tokens: of(tokens),
    }
}

/// What two limits that hold at the same time come to: the lower rate, and no more left than either
/// has. Of limits for different times the lower rate counts alone.
fn tighter(one: Option<RateWindow>, other: Option<RateWindow>) -> Option<RateWindow> {
    let (Some(a), Some(b)) = (one, other) else {
        return one.or(other);
    };
    let rate = |window: &RateWindow| window.limit as f64 / window.period.as_secs_f64();
    let (low, high) = if rate(&b) < rate(&a) { (b, a) } else { (a, b) };
    let fewer_left = high.period == low.period
        && high
            .remaining
            .is_some_and(|left| low.remaining.is_none_or(|own| left < own));
    Some(if fewer_left {
        RateWindow {
            remaining: high.remaining,
            reset: high.reset.or(low.reset),
            ..low
        }
    } else {
        low
    })
}

/// How long the server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a
/// date, else, for an allowance it calls empty, the time until that is full again.
pub(super) fn retry_after(tells: RateHeaders, headers: &HttpHeaders) -> Option<Duration> {
    let now = now_of_sender(headers);
    let number = |text: &str, scale: f64| wait(text.trim().parse::<f64>().ok()? * scale);
    let header = |name| own_or_passed_on(headers, name);
    if let Some(wait) = header("retry-after-ms").and_then(|t| number(t, 1e-3)) {
        return Some(wait);
    }
    // LiteLLM names the whole minute of its windows here too, but a place is free as soon as one of
    // the calls in flight ends.
    if headers.get("rate_limit_type") == Some("max_parallel_requests") {
        return None;
    }
    if let Some(text) = header("retry-after") {
        return moment(text, now).or_else(|| number(text, 1.0)).or_else(|| {
            let date = httpdate::parse_http_date(text.trim()).ok()?;
            Some(time_to(date, now))
        });
    }
    let hints = rate_hints(tells, headers);
    [hints.requests, hints.tokens]
        .into_iter()
        .flatten()
        .filter(|window| window.remaining == Some(0))
        .filter_map(|window| window.reset)
        .max()
}

/// Bare numbers from here on are moments, in seconds since 1970; from a thousand times as much on, in milliseconds.
const MOMENTS: f64 = 1e9;
/// A bare number that exceeds this number of periods is in milliseconds.
const PERIODS: f64 = 10.0;

/// The time until a moment that is written as a number.
fn moment(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = number(text).filter(|number| *number >= MOMENTS)?;
    let scale = if seconds < 1e3 * MOMENTS { 1.0 } else { 1e-3 };
    let since = Duration::try_from_secs_f64(seconds * scale).ok()?;
    Some(time_to(SystemTime::UNIX_EPOCH.checked_add(since)?, now))
}

/// When a limit per `period` (seconds) is full again. Some gateways write milliseconds or moments where seconds are meant.
fn reset_in(text: &str, period: u64, now: SystemTime) -> Option<Duration> {
    if let Some(left) = moment(text, now) {
        return Some(left);
    }
    match number(text).filter(|number| *number > PERIODS * period as f64) {
        Some(millis) => wait(millis * 1e-3),
        None => duration(text).or_else(|| until(text, now)),
    }
}

/// The time until a moment written as RFC 3339 has it.
fn until(text: &str, now: SystemTime) -> Option<Duration> {
    let moment = humantime::parse_rfc3339(text.trim()).ok()?;
    Some(time_to(moment, now))
}

fn time_to(moment: SystemTime, now: SystemTime) -> Duration {
    let left = moment.duration_since(now).unwrap_or(Duration::ZERO);
    left.min(LONGEST_WAIT)
}

fn wait(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && seconds >= 0.0)
        .then(|| Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64())))
}

/// A duration as Go prints it (`1h2m3.5s`, `12ms`), which a protobuf duration (`57.2s`) is too, or
/// a bare number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return wait(seconds);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        total += value
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| wait(total)).flatten()
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
