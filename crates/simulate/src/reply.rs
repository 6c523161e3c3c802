//! The heads of replies, with the headers that each dialect has. The dialects write the bodies; `call`, `serve` and
//! `batch` decide which reply to send.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::dialect::Dialect;
use super::limits::{Told, in_seconds, millis_up};
use super::words::{Rfc3339, reason};

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

const NAMES: [&str; 2] = ["requests", "tokens"];

impl Head {
    pub(super) fn status(status: u16) -> Head {
        Head {
            status,
            ..Head::default()
        }
    }

    /// Appends the head and the body.
    pub(super) fn write(&self, out: &mut Vec<u8>, body: &[u8]) {
        self.write_for(out, Some(body.len() as u64));
        out.extend_from_slice(body);
    }

    /// Appends the head of a body of that size; without a size, of a chunked one.
    pub(super) fn write_for(&self, out: &mut Vec<u8>, size: Option<u64>) {
        let (status, reason) = (self.status, reason(self.status));
        let media = self.media.unwrap_or("application/json");
        put(
            out,
            format_args!("HTTP/1.1 {status} {reason}\r\nContent-Type: {media}\r\n"),
        );
        match size {
            Some(size) => put(out, format_args!("Content-Length: {size}\r\n")),
            None => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
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
        for (name, told) in NAMES.into_iter().zip(self.limits) {
            let Some(mut told) = told else { continue };
            let mut period = "minute";
            if row.daily && name == "requests" {
                told = per_day(told, self.call);
                period = "day";
            }
            let seconds = millis_up(told.reset).div_ceil(1_000);
            let (header, reset) = match (self.dialect, &row.limits) {
                (Dialect::Anthropic, _) => {
                    let reset = Rfc3339(self.now.saturating_add(seconds)).to_string();
                    ("anthropic-ratelimit-NAME-WHAT", reset)
                }
                (Dialect::OpenAi(_), Some(header)) => {
                    if header.contains("PERIOD") {
                        (header.as_str(), told.reset.as_secs_f64().to_string())
                    } else {
                        (header.as_str(), in_seconds(told.reset))
                    }
                }
                _ => return,
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
        let in_seconds = ["Retry-After".to_owned()];
        let names = match self.dialect {
            Dialect::OpenAi(_) => self.dialect.row().waits.as_slice(),
            Dialect::Anthropic => &in_seconds,
            Dialect::Gemini => &[],
        };
        for name in names {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vendor;

    fn head(dialect: Dialect) -> String {
        let mut out = Vec::new();
        let told = Told {
            limit: 60,
            remaining: 7,
            reset: Duration::from_millis(1_500),
        };
        let head = Head {
            dialect,
            retry_after: Some(Duration::from_micros(1_200_100)),
            limits: [Some(told), Some(told)],
            call: 3,
            now: 1_795_150_800,
            ..Head::status(429)
        };
        head.write(&mut out, b"{}");
        String::from_utf8(out).unwrap()
    }

    /// Dialects, and headers that they have, or have not.
    #[test]
    fn each_dialect_tells_limits_and_waits_in_its_own_headers() {
        let vendor = |vendor| Dialect::OpenAi(Some(vendor));
        for (dialect, has, lacks) in [
            (
                Dialect::OpenAi(None),
                "x-request-id: req_sim_3|x-ratelimit-reset-tokens: 1.5s|retry-after-ms: 1201|Retry-After: 2",
                "anthropic",
            ),
            (
                vendor(Vendor::Groq),
                "x-ratelimit-limit-requests: 86400|x-ratelimit-remaining-requests: 86397|\
                 x-ratelimit-reset-requests: 3s|x-ratelimit-limit-tokens: 60|Retry-After: 2",
                "retry-after-ms",
            ),
            (
                vendor(Vendor::Cerebras),
                "x-ratelimit-limit-requests-day: 86400|x-ratelimit-remaining-tokens-minute: 7|\
                 x-ratelimit-reset-tokens-minute: 1.5",
                "limit-tokens:",
            ),
            (
                Dialect::Anthropic,
                "request-id: req_sim_3|anthropic-ratelimit-requests-limit: 60|Retry-After: 2|\
                 anthropic-ratelimit-tokens-remaining: 7|anthropic-ratelimit-tokens-reset: 2026-11-20T05:00:02Z",
                "x-ratelimit",
            ),
            (vendor(Vendor::Xai), "x-request-id: req_sim_3", "ratelimit"),
            (
                vendor(Vendor::DeepSeek),
                "x-request-id: req_sim_3",
                "Retry-After",
            ),
            (
                Dialect::Gemini,
                "HTTP/1.1 429 Too Many Requests",
                "ratelimit",
            ),
        ] {
            let text = head(dialect);
            assert!(text.ends_with("\r\n\r\n{}"), "{text}");
            for line in has.split('|') {
                assert!(text.contains(&format!("{line}\r\n")), "{line} {text}");
            }
            assert!(!text.contains(lacks), "{lacks} {text}");
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
        ] {
            assert_eq!(Rfc3339(seconds).to_string(), text);
        }
    }
}
