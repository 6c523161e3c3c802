//! Reads limits and waits from the headers of replies: three families of headers, and four formats of times.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::base::json_read::table;
use crate::base::{RateHints, RateWindow};
use crate::llm::transport::HttpHeaders;

/// How a vendor reports its limits.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateHeaders {
    /// Its headers in `tables/rate_headers.json`.
    names: &'static str,
    /// The limit of requests applies to this number of seconds. The limit of tokens applies to a minute.
    request_period: u64,
}

/// The names of the headers of one limit: its size, what remains of it, and when it is full again.
type Names = [&'static str; 3];

/// `tables/rate_headers.json`: the names of headers for requests and for tokens.
static HEADERS: LazyLock<Vec<(&str, [Names; 2])>> =
    LazyLock::new(|| table(include_str!("tables/rate_headers.json")));

const MINUTE: u64 = 60;

/// The maximum wait, about four months. Longer waits are reduced to it.
const LONGEST_WAIT: Duration = Duration::from_secs(10_000_000);

/// Clocks with a smaller difference count as equal: a reply takes time, and its date has whole seconds.
const SAME_TIME: Duration = Duration::from_secs(5);

/// The current time by the clock of the sender, which its times refer to. The local clock may be wrong.
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

pub(super) fn rate_hints(tells: Option<RateHeaders>, headers: &HttpHeaders) -> RateHints {
    let of = |tells: RateHeaders| {
        let (_, [requests, tokens]) = HEADERS.iter().find(|(name, _)| *name == tells.names)?;
        Some(RateHints {
            requests: window(requests, tells.request_period, headers),
            tokens: window(tokens, MINUTE, headers),
        })
    };
    tells.and_then(of).unwrap_or_default()
}

/// The limit with these headers, for a period in seconds.
fn window(names: &'static Names, period: u64, headers: &HttpHeaders) -> Option<RateWindow> {
    let [limit, remaining, reset] = names;
    let reset = headers.get(reset);
    Some(RateWindow {
        limit: number(headers.get(limit)?).filter(|limit| *limit >= 0.0)? as u64,
        period: Duration::from_secs(period),
        // A negative number means 0.
        remaining: headers
            .get(remaining)
            .and_then(number)
            .map(|left| left as u64),
        reset: reset.and_then(|text| reset_in(text, period, now_of_sender(headers))),
    })
}

fn number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    number.is_finite().then_some(number)
}

/// How long the server asks the client to wait: `retry-after-ms`, or else `retry-after` in seconds or as a date, or
/// else the time until an exhausted limit is full again.
pub(super) fn retry_after(tells: Option<RateHeaders>, headers: &HttpHeaders) -> Option<Duration> {
    let now = now_of_sender(headers);
    // LiteLLM passes on the headers of the provider behind it under names of its own.
    let header = |name: &str| {
        let passed_on = || headers.get(&format!("llm_provider-{name}"));
        headers.get(name).or_else(passed_on)
    };
    if let Some(wait) = header("retry-after-ms").and_then(|text| wait(number(text)? * 1e-3)) {
        return Some(wait);
    }
    // LiteLLM reports a whole minute here too, but there is room again as soon as one of the calls in flight ends.
    if headers.get("rate_limit_type") == Some("max_parallel_requests") {
        return None;
    }
    if let Some(text) = header("retry-after") {
        let date = || httpdate::parse_http_date(text.trim()).ok();
        let seconds = || wait(number(text)?);
        return moment(text, now)
            .or_else(seconds)
            .or_else(|| Some(time_to(date()?, now)));
    }
    let hints = rate_hints(tells, headers);
    [hints.requests, hints.tokens]
        .into_iter()
        .flatten()
        .filter(|window| window.remaining == Some(0))
        .filter_map(|window| window.reset)
        .max()
}

/// Numbers of at least this size are points in time, in seconds since 1970. From 1,000 times this size on they are in
/// milliseconds.
const MOMENTS: f64 = 1e9;
/// A number larger than this number of periods is in milliseconds.
const PERIODS: f64 = 10.0;

/// The time until a point in time that is written as a number.
fn moment(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = number(text).filter(|number| *number >= MOMENTS)?;
    let scale = if seconds < 1e3 * MOMENTS { 1.0 } else { 1e-3 };
    let since = Duration::try_from_secs_f64(seconds * scale).ok()?;
    Some(time_to(SystemTime::UNIX_EPOCH.checked_add(since)?, now))
}

/// The time until a limit per `period` (in seconds) is full again. Some gateways write milliseconds or points in time
/// instead of seconds.
fn reset_in(text: &str, period: u64, now: SystemTime) -> Option<Duration> {
    if let Some(left) = moment(text, now) {
        return Some(left);
    }
    match number(text).filter(|number| *number > PERIODS * period as f64) {
        Some(millis) => wait(millis * 1e-3),
        None => duration(text).or_else(|| {
            let moment = humantime::parse_rfc3339(text.trim()).ok()?;
            Some(time_to(moment, now))
        }),
    }
}

fn time_to(moment: SystemTime, now: SystemTime) -> Duration {
    let left = moment.duration_since(now).unwrap_or(Duration::ZERO);
    left.min(LONGEST_WAIT)
}

fn wait(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && seconds >= 0.0)
        .then(|| Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64())))
}

/// A duration in Go's format (`1h2m3.5s`, `12ms`), which includes that of protocol buffers (`57.2s`), or a number of
/// seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    match text.strip_suffix('s').unwrap_or(text).parse::<f64>() {
        Ok(seconds) => wait(seconds),
        // The longest text that Go writes. The shortest one with which `humantime` panics has two more bytes.
        Err(_) if text.len() > 24 => None,
        Err(_) => Some(humantime::parse_duration(text).ok()?.min(LONGEST_WAIT)),
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
