//! One chat call: what is asked of the ledger, how long the call takes, and what each verdict looks like
//! on the wire. Runs on the connection's thread, as part of its [`Connection`].

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::chat::Chat;
use super::http::Request;
use super::ledger::{Ask, Call, Delivery, Verdict};
use super::reply::{self, Answer, ErrorBody, Head};
use super::script::{prompt_key, unit};
use super::serve::{Connection, Next, Shared};
use super::{SimConfig, Trouble};

/// How much of a reply goes out before the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    Cut,
    Nothing,
}

impl Connection<'_> {
    /// Answers a call that `arrived`, `now` after the start.
    pub(super) fn chat(&mut self, request: &Request<'_>, arrived: Instant, now: Duration) -> Next {
        let Shared { config, ledger, .. } = self.shared;
        // Looked up before the call is counted: a hold may end before the call comes to wait for it,
        // and the client be gone by then.
        let held = self.shared.gate.is_held();
        let reject = || ledger.arrive(now, Ask::Rejected, config);
        if self.shared.is_loading(now) {
            self.body.extend_from_slice(ErrorBody::LOADING.as_bytes());
            return self.finish(request, &reject(), Head::status(503), Sent::Whole, held);
        }
        if !request.authorized {
            ErrorBody::invalid_key().write(&mut self.body);
            return self.finish(request, &reject(), Head::status(401), Sent::Whole, held);
        }
        let chat = match Chat::parse(request.body) {
            Ok(chat) => chat,
            Err(fault) => {
                ErrorBody::fault(&fault).write(&mut self.body);
                return self.finish(request, &reject(), Head::status(400), Sent::Whole, held);
            }
        };
        let key = prompt_key(&chat.text);
        if !config.knows_model(&chat.model) {
            let call = ledger.arrive(now, Ask::UnknownModel { key }, config);
            reply::model_not_found(&mut self.body, &chat.model);
            return self.finish(request, &call, Head::status(404), Sent::Whole, held);
        }
        let output = completion(config, &chat);
        let tokens = chat.prompt_tokens.saturating_add(output);
        let call = ledger.arrive(now, Ask::Prompt { key, tokens }, config);
        match call.verdict {
            Verdict::Limited(denial) => {
                reply::limited(&mut self.body, &denial, &chat.model);
                let mut head = Head::status(429);
                head.retry_after = denial.wait.filter(|_| config.retry_after_header);
                self.finish(request, &call, head, Sent::Whole, held)
            }
            Verdict::Trouble(Trouble::Stall) => {
                self.stall();
                self.finish(request, &call, Head::default(), Sent::Nothing, true)
            }
            Verdict::Trouble(kind) => {
                let waited = held | (!kind.is_refusal() && self.wait(arrived, &call));
                let (head, sent) = self.trouble(kind, &call, now, &chat);
                self.finish(request, &call, head, sent, waited)
            }
            Verdict::Plain => {
                let waited = held | self.wait(arrived, &call);
                let cut = output < config.output_tokens;
                let finish = if cut { "length" } else { "stop" };
                self.write_answer(&call, now, &chat, finish, output);
                self.finish(request, &call, Head::status(200), Sent::Whole, waited)
            }
        }
    }

    /// Prepares the reply to a call that meets `kind`.
    fn trouble(
        &mut self,
        kind: Trouble,
        call: &Call,
        now: Duration,
        chat: &Chat<'_>,
    ) -> (Head, Sent) {
        let config = &self.shared.config;
        let output = completion(config, chat);
        let mut head = Head::status(200);
        let error = match kind {
            Trouble::Drop | Trouble::Stall => return (head, Sent::Nothing),
            Trouble::BrokenJson => {
                self.write_answer(call, now, chat, "stop", output);
                self.body.truncate(self.body.len() / 2);
                return (head, Sent::Whole);
            }
            Trouble::Truncated => {
                self.write_answer(call, now, chat, "stop", output);
                return (head, Sent::Cut);
            }
            Trouble::ContentFilter => {
                self.write_answer(call, now, chat, "content_filter", 0);
                return (head, Sent::Whole);
            }
            Trouble::Empty => {
                self.write_answer(call, now, chat, "stop", 0);
                return (head, Sent::Whole);
            }
            Trouble::Html502 => {
                head.status = 502;
                head.html = true;
                self.body.extend_from_slice(
                    b"<html><head><title>502 Bad Gateway</title></head>\
                      <body><h1>502 Bad Gateway</h1></body></html>\n",
                );
                return (head, Sent::Whole);
            }
            Trouble::UnknownModel => {
                head.status = 404;
                reply::model_not_found(&mut self.body, &chat.model);
                return (head, Sent::Whole);
            }
            Trouble::Error500 => {
                head.status = 500;
                ErrorBody::new("server_error", None, "The server had an error. Sorry.")
            }
            Trouble::Error503 => {
                head.status = 503;
                head.retry_after = Some(config.retry_after.unwrap_or(Duration::from_secs(2)));
                ErrorBody::new(
                    "service_unavailable_error",
                    Some("server_is_overloaded"),
                    "The server is overloaded. Please try again later.",
                )
            }
            Trouble::RateLimit | Trouble::RateLimitForever => {
                head.status = 429;
                let wait = match kind {
                    Trouble::RateLimit => config.retry_after.unwrap_or(Duration::from_secs(1)),
                    _ => Duration::ZERO,
                };
                head.retry_after = Some(wait).filter(|_| config.retry_after_header);
                ErrorBody::new(
                    "requests",
                    Some("rate_limit_exceeded"),
                    "Rate limit reached. Please try again later.",
                )
            }
            Trouble::Quota => {
                head.status = 429;
                ErrorBody::new(
                    "insufficient_quota",
                    Some("insufficient_quota"),
                    "You exceeded your current quota, please check your plan and billing details.",
                )
            }
            Trouble::Unauthorized => {
                head.status = 401;
                ErrorBody::invalid_key()
            }
            Trouble::BadRequest => {
                head.status = 400;
                ErrorBody {
                    param: Some("messages"),
                    ..ErrorBody::invalid(None, "The simulator refuses this prompt.")
                }
            }
        };
        error.write(&mut self.body);
        (head, Sent::Whole)
    }

    fn write_answer(
        &mut self,
        call: &Call,
        now: Duration,
        chat: &Chat<'_>,
        finish: &'static str,
        completion_tokens: u64,
    ) {
        let echo;
        let text = match &self.shared.config.answer {
            _ if completion_tokens == 0 => "",
            Some(canned) => canned,
            None => {
                let end = chat.text.char_indices().nth(60);
                echo = format!(
                    "echo: {}",
                    &chat.text[..end.map_or(chat.text.len(), |(at, _)| at)]
                );
                &echo
            }
        };
        let answer = Answer {
            call: call.number,
            created: self.shared.epoch + now.as_secs(),
            text,
            finish,
            completion_tokens,
        };
        answer.write(&mut self.body, chat);
    }

    /// Waits out the latency; tells whether there was any.
    fn wait(&self, arrived: Instant, call: &Call) -> bool {
        let config = &self.shared.config;
        let mut latency = config.latency;
        if !config.jitter.is_zero() {
            latency += config.jitter.mul_f64(unit(config.seed ^ call.number));
        }
        if latency.is_zero() {
            return false;
        }
        self.shared.gate.wait_until(arrived + latency);
        true
    }

    /// Hangs until the client gives up, the time is over or the simulator stops, all of which the
    /// socket itself reports.
    fn stall(&self) {
        let stall = self.shared.config.stall;
        let deadline = Instant::now() + stall;
        let timeout = Some(stall.max(Duration::from_millis(1)));
        let pipelined = self.stream.set_read_timeout(timeout).is_ok()
            && matches!(self.stream.peek(&mut [0]), Ok(1));
        if pipelined {
            self.shared.gate.wait_until(deadline);
        }
    }

    /// Ends a call: settles it, then sends what is in `body`.
    fn finish(
        &mut self,
        request: &Request<'_>,
        call: &Call,
        mut head: Head,
        sent: Sent,
        waited: bool,
    ) -> Next {
        let Shared { ledger, gate, .. } = self.shared;
        // Nobody may wait for ever in a stall: it is over when its connection is.
        let stalled = call.verdict == Verdict::Trouble(Trouble::Stall);
        let held = !stalled && gate.pass();
        let delivery = match call.verdict {
            _ if sent != Sent::Nothing && (waited || held) && is_gone(self.stream) => {
                Delivery::Gone
            }
            Verdict::Plain if head.status == 200 => Delivery::Answered,
            _ => Delivery::Failed,
        };
        ledger.settle(call, delivery);
        if sent == Sent::Nothing {
            return Next::Close;
        }
        head.call = call.number;
        head.limits = call.limits;
        head.close = request.close;
        head.write(&mut self.out, &self.body);
        if sent == Sent::Cut {
            self.out.truncate(self.out.len() - self.body.len() / 2);
        }
        if self.send().is_err() {
            ledger.undelivered(call, delivery);
            return Next::Close;
        }
        if sent == Sent::Cut || request.close {
            return Next::Close;
        }
        Next::Keep
    }
}

fn completion(config: &SimConfig, chat: &Chat<'_>) -> u64 {
    config.output_tokens.min(chat.cap.unwrap_or(u64::MAX))
}

/// Whether the client has closed its end. Asked only after a wait, for it costs three system calls. A
/// client that only ends its sending side counts as gone; those for HTTP keep both sides open.
fn is_gone(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let gone = match stream.peek(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || gone
}
