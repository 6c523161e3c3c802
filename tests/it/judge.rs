//! A client of a vendor that gets any reply, and what must hold of every outcome. The targets in `fuzz/` use it too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::client::{RateHints, Sent};
use batchwright::unstable::{HttpReply, HttpRequest, Transport};
use batchwright::{
    Client, Context, Error, ErrorKind, FinishReason, LlmClient, LlmConfig, Request, Response,
    Secret,
};

/// Upper limit of the wait that a reply can request.
const LONGEST_WAIT: Duration = Duration::from_secs(10_000_000);
const RAW_LIMIT: usize = 16 * 1024;

/// A transport with one reply.
#[derive(Default)]
struct Next(Mutex<Option<HttpReply>>);

impl Transport for Next {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        let reply = self.0.lock().unwrap().take();
        Ok(reply.expect("one reply for each call"))
    }
}

/// A client of a vendor, and the reply to its next call.
pub struct Line {
    vendor: &'static str,
    pub client: Client,
    next: Arc<Next>,
}

impl Line {
    pub fn to(vendor: &'static str) -> Self {
        let next = Arc::new(Next::default());
        let config = LlmConfig::new(vendor)
            .model("m")
            .api_key(Secret::new("test-key-of-nobody-0123456789"))
            .base_url("http://127.0.0.1:9");
        let client = config.client_over(next.clone()).expect("a client");
        Self {
            vendor,
            client,
            next,
        }
    }

    /// What becomes of this reply to a prompt.
    ///
    /// # Panics
    /// If it is no outcome that the reply may have.
    pub fn complete(&self, reply: &HttpReply) -> Result<Response, Error> {
        self.put(reply);
        let result = self.client.complete(&Request::new("x"), &Context::new());
        self.judge(reply, &result, fault_of_answer);
        result
    }

    /// Puts the reply to the next call.
    pub fn put(&self, reply: &HttpReply) {
        *self.next.0.lock().unwrap() = Some(reply.clone());
    }

    /// Judges the result of a call that got this reply.
    ///
    /// # Panics
    /// If it is no outcome that the reply may have, or an answer with a fault.
    pub fn judge<T: std::fmt::Debug>(
        &self,
        reply: &HttpReply,
        result: &Result<T, Error>,
        fault: fn(&T) -> Option<&'static str>,
    ) {
        let success = (200..300).contains(&reply.status);
        let fault = match result {
            Ok(_) if !success => Some("an answer in a failure"),
            Ok(answer) => fault(answer),
            Err(error) => fault_of_error(reply, error),
        };
        if let Some(fault) = fault {
            let (status, body) = (reply.status, &reply.body[..reply.body.len().min(2000)]);
            let body = String::from_utf8_lossy(body);
            panic!("{}: {fault}: {result:?} for {status} {body}", self.vendor);
        }
    }
}

pub fn has_absurd_reset(hints: RateHints) -> bool {
    let windows = [hints.requests, hints.tokens].into_iter().flatten();
    windows.filter_map(|w| w.reset).any(|w| w > LONGEST_WAIT)
}

fn fault_of_answer(answer: &Response) -> Option<&'static str> {
    // It has tool calls, or the provider paused its turn.
    let calls = !answer.details().tool_calls.is_empty();
    let silent = calls || answer.finish_reason.as_str() == "pause_turn";
    let cut = answer.finish_reason == FinishReason::Length;
    // The sums over a million calls must not overflow.
    let tokens = answer.usage.map(|u| u.input_tokens.max(u.output_tokens));
    let faults = [
        (has_absurd_reset(answer.rate_hints()), "an absurd reset"),
        (answer.text.is_empty() && !silent, "an answer without text"),
        (
            answer.text.trim().is_empty() && !cut && !silent,
            "a blank answer that was not cut",
        ),
        (tokens > Some(u64::MAX / 1_000_000), "an absurd usage"),
        (answer.provider.is_empty(), "an answer of no provider"),
    ];
    first(&faults)
}

fn fault_of_error(reply: &HttpReply, error: &Error) -> Option<&'static str> {
    let raw = error.raw().unwrap_or_default();
    let kept = error.raw_bytes().unwrap_or(raw.as_bytes());
    // What looks like a form of the key is masked.
    let is_masked = kept.windows(3).any(|part| part == b"***");
    let lost = if error.is_unusable_reply() {
        kept != reply.body && !is_masked
    } else {
        error.kind() == ErrorKind::Malformed
            && error.sent() == Sent::Maybe
            && raw.is_empty() != reply.body.is_empty()
    };
    let faults = [
        (has_absurd_reset(error.rate_hints()), "an absurd reset"),
        (error.status() != Some(reply.status), "another status"),
        (error.sent() == Sent::No, "a reply to what was never sent"),
        (error.retry_after() > Some(LONGEST_WAIT), "an absurd wait"),
        // The message is stored for every failed item, and written to the results.
        (error.message().len() > 128 * 1024, "an endless message"),
        (
            !error.is_unusable_reply() && raw.len() > RAW_LIMIT,
            "an unbounded raw reply",
        ),
        (lost, "a malformed reply that is lost"),
    ];
    first(&faults)
}

fn first(faults: &[(bool, &'static str)]) -> Option<&'static str> {
    let found = faults.iter().find(|(wrong, _)| *wrong);
    found.map(|(_, what)| *what)
}
