//! Values as people write them on a command line or in the environment.

use std::time::Duration;

#[cfg(feature = "simulate")]
/// A time; a bare number is in milliseconds.
pub(super) fn millis(text: &str) -> Result<Duration, String> {
    duration(text, "ms")
}

/// A time; a bare number is in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, "s")
}

fn duration(text: &str, bare: &str) -> Result<Duration, String> {
    let bad = || format!("write a time as 50ms, 2s or 1m (a bare number is in {bare})");
    let (digits, unit) = match text.find(|letter: char| letter.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, bare),
    };
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(bad()),
    };
    let count: f64 = digits.trim().parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(count * scale).map_err(|_| bad())
}

/// A positive whole number.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("write a whole number of at least 1".to_owned()),
    }
}

/// Calls in flight. Each has a thread, and beyond this a process may run out of mappings, which
/// ends it without a word.
pub(super) fn calls(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(n @ 1..=10_000) => Ok(n),
        _ => Err("write a whole number from 1 to 10000".to_owned()),
    }
}

/// A time that is not zero; a bare number is in seconds.
pub(super) fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("a time above 0 is needed".to_owned()),
        time => Ok(time),
    }
}

/// A name, which must not be empty.
pub(super) fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a name is needed; leave the flag out to name none".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// A rate per minute.
pub(super) fn per_minute(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("write a number above 0".to_owned()),
    }
}

/// A temperature.
pub(super) fn temperature(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if (0.0..=2.0).contains(&value) => Ok(value),
        _ => Err("write a number from 0 to 2".to_owned()),
    }
}

/// A text, or the content of a file when it is written as `@path`.
pub(super) fn text_or_file(text: &str) -> Result<String, String> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map(|content| content.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("cannot read {path}: {error}")),
        None => Ok(text.to_owned()),
    }
}

/// The value of a flag, else of an environment variable; an empty variable counts as unset.
pub(super) fn or_env<T>(
    flag: Option<T>,
    variable: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if flag.is_some() {
        return Ok(flag);
    }
    match std::env::var(variable) {
        Ok(text) if !text.trim().is_empty() => parse(&text)
            .map(Some)
            .map_err(|why| format!("{variable}={text}: {why}")),
        _ => Ok(None),
    }
}
