//! The heads of replies, with the headers that each dialect has. The dialects write the bodies; `call`, `serve` and
//! `batch` decide which reply to send.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::dialect::Dialect;
use super::limits::{NAMES, Told, in_seconds, millis_up};
use super::template::{reason, rfc3339};

/// Everything in a reply's head but the length of its body.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) dialect: Dialect,
    /// The media type of the body, if it is not JSON.
    pub(super) media: Option<&'static str>,
    pub(super) close: bool,
    /// One more header.
    pub(super) extra: Option<(&'static str, String)>,
    pub(super) retry_after: Option<Duration>,
    /// The requests and the tokens bucket.
    pub(super) limits: [Option<Told>; 2],
    /// The call's number, for the header with the request's id; 0 if the request is not a call.
    pub(super) call: u64,
    /// Whether the reply is about files or batches. Such replies have a `Date` header.
    pub(super) of_batches: bool,
    /// Seconds since the epoch.
    pub(super) now: u64,
}

impl Head {
    /// The head of a good reply.
    pub(super) fn of(dialect: Dialect) -> Head {
        Head {
            status: 200,
            dialect,
            ..Head::default()
        }
    }

    /// Appends the head and the body.
    pub(super) fn write(&self, out: &mut Vec<u8>, body: &[u8]) {
        self.write_for(out, body.len());
        out.extend_from_slice(body);
    }

    /// Appends the head of a body of that size.
    pub(super) fn write_for(&self, out: &mut Vec<u8>, size: usize) {
        let (status, reason) = (self.status, reason(self.status));
        let media = self.media.unwrap_or("application/json");
        put(
            out,
            format_args!(
                "HTTP/1.1 {status} {reason}\r\nContent-Type: {media}\r\nContent-Length: {size}\r\n"
            ),
        );
        self.write_id(out);
        self.write_limits(out);
        self.write_wait(out);
        if let Some((name, value)) = &self.extra {
            put(out, format_args!("{name}: {value}\r\n"));
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        let name = match self.dialect {
            Dialect::OpenAi(_) => "x-request-id",
            Dialect::Anthropic => "request-id",
            Dialect::Gemini => "",
        };
        if self.of_batches {
            let date = httpdate::fmt_http_date(SystemTime::now());
            put(out, format_args!("Date: {date}\r\n"));
        }
        if self.of_batches && !name.is_empty() {
            put(out, format_args!("{name}: req_sim_batch\r\n"));
        } else if self.call > 0 && !name.is_empty() {
            put(out, format_args!("{name}: req_sim_{}\r\n", self.call));
        }
    }

    /// Appends what is left of both limits, with the header names of the vendor.
    fn write_limits(&self, out: &mut Vec<u8>) {
        let row = self.dialect.row();
        let Some(header) = &row.limits else { return };
        for (name, told) in NAMES.into_iter().zip(self.limits) {
            let Some(mut told) = told else { continue };
            let mut period = "minute";
            if row.daily && name == "requests" {
                told = per_day(told, self.call);
                period = "day";
            }
            let seconds = millis_up(told.reset).div_ceil(1_000);
            let reset = match self.dialect {
                Dialect::Anthropic => rfc3339(self.now.saturating_add(seconds)),
                _ if header.contains("PERIOD") => told.reset.as_secs_f64().to_string(),
                _ => in_seconds(told.reset),
            };
            let header = header.replace("NAME", name).replace("PERIOD", period);
            for (what, value) in [
                ("limit", told.limit.to_string()),
                ("remaining", told.remaining.to_string()),
                ("reset", reset),
            ] {
                let header = header.replace("WHAT", what);
                put(out, format_args!("{header}: {value}\r\n"));
            }
        }
    }

    fn write_wait(&self, out: &mut Vec<u8>) {
        let Some(wait) = self.retry_after else { return };
        let millis = millis_up(wait);
        for name in &self.dialect.row().waits {
            let value = if name.ends_with("-ms") {
                millis
            } else {
                millis.div_ceil(1_000)
            };
            put(out, format_args!("{name}: {value}\r\n"));
        }
    }
}

/// Groq's headers with these names are about a day; its limit per minute is not reported.
fn per_day(minute: Told, calls: u64) -> Told {
    let limit = minute.limit.saturating_mul(24 * 60);
    let used = calls.min(limit);
    Told {
        limit,
        remaining: limit - used,
        reset: Duration::from_secs_f64(86_400.0 * used as f64 / limit.max(1) as f64),
    }
}

pub(super) fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = out.write_fmt(text);
}
