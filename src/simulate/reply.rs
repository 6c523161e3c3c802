//! The bytes of replies: heads with their headers, chat answers, error bodies in OpenAI's form. When
//! to send which is left to `serve`.

use std::io::Write;
use std::time::Duration;

use super::chat::{Chat, Fault};
use super::limits::{Denial, GoDuration, Told, millis_up};

/// Everything in a reply's head but the length of its body.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) html: bool,
    pub(super) close: bool,
    pub(super) allow: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
    /// The requests and the tokens bucket.
    pub(super) limits: [Option<Told>; 2],
    /// The call's number, for `x-request-id`; 0 if the request is no call.
    pub(super) call: u64,
}

impl Head {
    pub(super) fn status(status: u16) -> Head {
        Head {
            status,
            ..Head::default()
        }
    }

    /// Appends the head and the body.
    pub(super) fn write(&self, out: &mut Vec<u8>, body: &[u8]) {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            411 => "Length Required",
            413 => "Content Too Large",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "",
        };
        let kind = if self.html {
            "text/html"
        } else {
            "application/json"
        };
        put(
            out,
            format_args!(
                "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
                self.status,
                body.len()
            ),
        );
        if self.call > 0 {
            put(out, format_args!("x-request-id: req_sim_{}\r\n", self.call));
        }
        for (name, told) in ["requests", "tokens"].into_iter().zip(&self.limits) {
            if let Some(told) = told {
                put(
                    out,
                    format_args!(
                        "x-ratelimit-limit-{name}: {}\r\nx-ratelimit-remaining-{name}: {}\r\n\
                         x-ratelimit-reset-{name}: {}\r\n",
                        told.limit,
                        told.remaining,
                        GoDuration(told.reset)
                    ),
                );
            }
        }
        if let Some(wait) = self.retry_after {
            let millis = millis_up(wait);
            let seconds = millis.div_ceil(1_000);
            put(
                out,
                format_args!("Retry-After: {seconds}\r\nretry-after-ms: {millis}\r\n"),
            );
        }
        if let Some(methods) = self.allow {
            put(out, format_args!("Allow: {methods}\r\n"));
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }
}

/// One answer to a chat call.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) call: u64,
    /// Seconds since the epoch.
    pub(super) created: u64,
    pub(super) text: &'a str,
    pub(super) finish: &'static str,
    pub(super) completion_tokens: u64,
}

impl Answer<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>, chat: &Chat<'_>) {
        put(
            out,
            format_args!(
                r#"{{"id":"chatcmpl-sim-{}","object":"chat.completion","created":{},"model":"#,
                self.call, self.created
            ),
        );
        quote(out, &chat.model);
        put(
            out,
            format_args!(
                r#","choices":[{{"index":0,"finish_reason":"{}","message":{{"role":"assistant","content":"#,
                self.finish
            ),
        );
        quote(out, self.text);
        put(
            out,
            format_args!(
                concat!(
                    r#","refusal":null}}}}],"usage":{{"prompt_tokens":{},"completion_tokens":{},"#,
                    r#""total_tokens":{},"prompt_tokens_details":{{"cached_tokens":0}},"#,
                    r#""completion_tokens_details":{{"reasoning_tokens":0}}}},"#,
                    r#""system_fingerprint":"fp_sim"}}"#
                ),
                chat.prompt_tokens,
                self.completion_tokens,
                chat.prompt_tokens.saturating_add(self.completion_tokens)
            ),
        );
    }
}

/// The inner fields of OpenAI's error body.
#[derive(Debug)]
pub(super) struct ErrorBody<'a> {
    pub(super) message: &'a str,
    pub(super) kind: &'a str,
    pub(super) param: Option<&'a str>,
    pub(super) code: Option<&'a str>,
}

impl<'a> ErrorBody<'a> {
    pub(super) const LOADING: &'static str =
        r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;

    pub(super) fn new(kind: &'a str, code: Option<&'a str>, message: &'a str) -> ErrorBody<'a> {
        ErrorBody {
            message,
            kind,
            param: None,
            code,
        }
    }

    pub(super) fn invalid(code: Option<&'a str>, message: &'a str) -> ErrorBody<'a> {
        ErrorBody::new("invalid_request_error", code, message)
    }

    /// The key is not repeated in the message, unlike OpenAI's own: it would end up in logs.
    pub(super) fn invalid_key() -> ErrorBody<'static> {
        ErrorBody::invalid(
            Some("invalid_api_key"),
            "Incorrect API key provided. Send the simulator's key as a bearer token.",
        )
    }

    pub(super) fn fault(fault: &'a Fault) -> ErrorBody<'a> {
        ErrorBody {
            param: fault.param,
            ..ErrorBody::invalid(fault.code, &fault.message)
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"error":{"message":"#);
        quote(out, self.message);
        out.extend_from_slice(br#","type":"#);
        quote(out, self.kind);
        for (name, value) in [("param", self.param), ("code", self.code)] {
            put(out, format_args!(",\"{name}\":"));
            match value {
                Some(value) => quote(out, value),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b"}}");
    }
}

pub(super) fn model_not_found(out: &mut Vec<u8>, model: &str) {
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    ErrorBody::invalid(Some("model_not_found"), &message).write(out);
}

pub(super) fn limited(out: &mut Vec<u8>, denial: &Denial, model: &str) {
    let Denial {
        bucket,
        per_minute,
        asked,
        wait,
    } = denial;
    let message = match wait {
        Some(wait) => format!(
            "Rate limit reached for {model} on {bucket} per min: Limit {per_minute}, Requested \
             {asked}. Please try again in {}.",
            GoDuration(*wait)
        ),
        None => format!(
            "Request too large for {model} on {bucket} per min: Limit {per_minute}, Requested \
             {asked}."
        ),
    };
    ErrorBody::new(bucket, Some("rate_limit_exceeded"), &message).write(out);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = out.write_fmt(text);
}

fn quote(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_answer_is_valid_json_whatever_is_in_its_text() {
        let body = r#"{"model":"a\"b","messages":[{"role":"user","content":"\u0001é"}]}"#;
        let chat = Chat::parse(body.as_bytes()).unwrap();
        let mut out = Vec::new();
        let answer = Answer {
            call: 7,
            created: 1_790_000_000,
            text: "line\n\"quoted\"",
            finish: "stop",
            completion_tokens: 3,
        };
        answer.write(&mut out, &chat);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["model"], "a\"b");
        assert_eq!(
            value["choices"][0]["message"]["content"],
            "line\n\"quoted\""
        );
        assert_eq!(
            value["usage"],
            json!({"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0}})
        );
    }

    #[test]
    fn an_error_body_has_all_four_fields() {
        let mut out = Vec::new();
        ErrorBody::invalid(None, "say \"what\"").write(&mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            json!({"error": {"message": "say \"what\"", "type": "invalid_request_error",
                "param": null, "code": null}})
        );
    }

    #[test]
    fn a_wait_is_given_in_whole_seconds_rounded_up_and_in_milliseconds() {
        let mut out = Vec::new();
        let mut head = Head::status(429);
        head.retry_after = Some(Duration::from_micros(1_200_100));
        head.write(&mut out, b"{}");
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Retry-After: 2\r\nretry-after-ms: 1201\r\n"));
        assert!(
            text.ends_with("Content-Length: 2\r\nRetry-After: 2\r\nretry-after-ms: 1201\r\n\r\n{}")
        );
    }
}
