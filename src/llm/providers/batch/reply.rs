//! Parts of replies that several Batch APIs share: times, counts and texts.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::base::Timestamp;

/// A count: a number, or one in quotes.
pub(super) fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A field with a text that is not empty.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    let text = value.get(field)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The texts of these fields that are not empty.
pub(super) fn texts(value: &Value, fields: &[&str]) -> Vec<String> {
    let texts = fields.iter().filter_map(|field| text(value, field));
    texts.map(str::to_owned).collect()
}

/// A time: Unix seconds, RFC 3339, or a bare date, which is its beginning (UTC).
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => {
            let seconds = number.as_f64().filter(|seconds| *seconds > 0.0)?;
            Some(Timestamp((seconds * 1e3) as i64))
        }
        Value::String(text) => written(text.trim()),
        _ => None,
    }
}

/// A time at which something ends. For a bare date it is the end of that day plus one day to be safe.
pub(super) fn end(value: &Value) -> Option<Timestamp> {
    let written = time(value)?;
    let by_the_day = value.as_str().is_some_and(|text| is_a_day(text.trim()));
    Some(if by_the_day {
        written.after(2 * DAY)
    } else {
        written
    })
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn is_a_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<f64>().is_err()
}

fn written(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<f64>() {
        return time(&Value::from(seconds));
    }
    if is_a_day(text) {
        return written(&format!("{text}T00:00:00Z"));
    }
    // The time of day has the only `+`, and the third `-` if it has one.
    let zone = text.rfind(['+', '-']).filter(|at| *at > 10);
    let (local, ahead) = match zone {
        Some(at) => (&text[..at], offset(&text[at..])?),
        None => (text.trim_end_matches(['Z', 'z']), 0),
    };
    let local: SystemTime = humantime::parse_rfc3339_weak(local).ok()?;
    Some(Timestamp(Timestamp::from(local).0.saturating_sub(ahead)))
}

/// `+05:30` in milliseconds.
fn offset(zone: &str) -> Option<i64> {
    let (hours, minutes) = zone[1..].split_once(':')?;
    let number = |text: &str| text.parse::<u8>().ok().map(i64::from);
    let minutes = number(hours)? * 60 + number(minutes)?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    Some(sign * minutes * 60_000)
}
