//! The heads of replies, with the headers that each dialect has. The dialects write the bodies; `call`, `serve` and
//! `batch` decide which reply to send.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::Vendor;
use super::dialect::Dialect;
use super::limits::{GoDuration, Told, millis_up};

pub(super) use super::words::{Rfc3339, reason};

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
        use Vendor::{Azure, Cerebras, Groq, Local, OpenAi};
        for (name, told) in NAMES.into_iter().zip(self.limits) {
            let Some(mut told) = told else { continue };
            let daily = matches!(self.dialect, Dialect::OpenAi(Some(Groq | Cerebras)));
            let period = match name {
                "requests" if daily => {
                    told = per_day(told, self.call);
                    "day"
                }
                _ => "minute",
            };
            let (header, reset) = match self.dialect {
                Dialect::OpenAi(Some(Cerebras)) => (
                    format!("x-ratelimit-WHAT-{name}-{period}"),
                    told.reset.as_secs_f64().to_string(),
                ),
                Dialect::OpenAi(None | Some(OpenAi | Azure | Groq | Local)) => (
                    format!("x-ratelimit-WHAT-{name}"),
                    GoDuration(told.reset).to_string(),
                ),
                Dialect::Anthropic => {
                    let seconds = millis_up(told.reset).div_ceil(1_000);
                    let reset = Rfc3339(self.now.saturating_add(seconds));
                    (
                        format!("anthropic-ratelimit-{name}-WHAT"),
                        reset.to_string(),
                    )
                }
                Dialect::OpenAi(_) | Dialect::Gemini => return,
            };
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
        let seconds = millis.div_ceil(1_000);
        match self.dialect {
            Dialect::Gemini => return,
            Dialect::OpenAi(Some(vendor)) if !vendor.tells_waits() => return,
            Dialect::OpenAi(Some(Vendor::Groq)) if self.status != 429 => return,
            Dialect::OpenAi(Some(Vendor::Groq | Vendor::OpenRouter)) | Dialect::Anthropic => {}
            Dialect::OpenAi(_) => put(out, format_args!("retry-after-ms: {millis}\r\n")),
        }
        put(out, format_args!("Retry-After: {seconds}\r\n"));
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

pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_wait_is_given_in_whole_seconds_rounded_up_and_in_milliseconds() {
        let text = head(Dialect::OpenAi(None));
        assert!(
            text.ends_with("\r\nretry-after-ms: 1201\r\nRetry-After: 2\r\n\r\n{}"),
            "{text}"
        );
        assert!(text.contains("x-request-id: req_sim_3\r\n"));
    }

    #[test]
    fn groqs_requests_are_per_day() {
        let text = head(Dialect::OpenAi(Some(Vendor::Groq)));
        for line in [
            "x-ratelimit-limit-requests: 86400\r\n",
            "x-ratelimit-remaining-requests: 86397\r\n",
            "x-ratelimit-reset-requests: 3s\r\n",
            "x-ratelimit-limit-tokens: 60\r\n",
            "Retry-After: 2\r\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("retry-after-ms"));
    }

    #[test]
    fn limits_of_cerebras_name_their_period() {
        let text = head(Dialect::OpenAi(Some(Vendor::Cerebras)));
        for line in [
            "x-ratelimit-limit-requests-day: 86400\r\n",
            "x-ratelimit-remaining-tokens-minute: 7\r\n",
            "x-ratelimit-reset-tokens-minute: 1.5\r\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("limit-tokens:"), "{text}");
    }

    #[test]
    fn anthropics_resets_are_points_in_time() {
        let text = head(Dialect::Anthropic);
        for line in [
            "\r\nrequest-id: req_sim_3\r\n",
            "anthropic-ratelimit-requests-limit: 60\r\n",
            "anthropic-ratelimit-tokens-remaining: 7\r\n",
            "anthropic-ratelimit-tokens-reset: 2026-11-20T05:00:02Z\r\n",
            "Retry-After: 2\r\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("x-ratelimit"));
    }

    #[test]
    fn some_tell_nothing() {
        let quiet = [Vendor::Xai, Vendor::DeepSeek, Vendor::Fireworks];
        let quiet = quiet.map(|vendor| Dialect::OpenAi(Some(vendor)));
        for dialect in quiet.into_iter().chain([Dialect::Gemini]) {
            let text = head(dialect).to_lowercase();
            assert!(
                !text.contains("ratelimit") && !text.contains("retry-after"),
                "{text}"
            );
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_795_150_800, "2026-11-20T05:00:00Z"),
        ] {
            assert_eq!(Rfc3339(seconds).to_string(), text);
        }
    }
}
