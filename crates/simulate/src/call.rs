//! One call: its question to the ledger, its latency, and the reply for each verdict. It runs on the connection's
//! thread, as a part of its [`Connection`].

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Trouble;
use super::dialect::{Content, Dialect, Endpoint, Work};
use super::http::Request;
use super::ledger::{Call, Delivery, Verdict};
use super::problems::{self, Problem};
use super::prompt::Tokens;
use super::reply::Head;
use super::serve::{Connection, Next, Shared};
use super::trouble::{Form, unit};

/// How long a call with [`Trouble::Stall`] hangs before its connection is closed.
const STALL: Duration = Duration::from_secs(20);

/// How much of a reply is sent before the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    Cut,
    Nothing,
}

impl Connection<'_> {
    /// Replies to a call that `arrived` at `now` after the start.
    pub(super) fn call(
        &mut self,
        endpoint: &Endpoint,
        request: &Request,
        arrived: Instant,
        now: Duration,
    ) -> Next {
        let Shared { config, ledger, .. } = self.shared;
        let dialect = Dialect::of(endpoint, request, config);
        // This is read before the call is counted, because the gate may be released before the call waits at it, and
        // the client may be gone by then.
        let held = self.shared.gate.is_held();
        let admitted = dialect.admit(request, config);
        let read = admitted.and_then(|()| dialect.read(endpoint, request, config));
        let mut call = ledger.lock().arrive(now, read.as_ref().ok(), config);
        let mut head = Head {
            call: call.number,
            limits: call.limits,
            close: self.close,
            now: self.shared.epoch + now.as_secs(),
            ..Head::of(dialect)
        };
        let (sent, waited) = match read {
            Ok(mut work) => {
                call.cost = self.cost(&call, &work);
                self.prepare(&call, &mut work, &mut head, arrived)
            }
            Err(problem) => {
                self.problem(&mut head, &problem);
                (Sent::Whole, false)
            }
        };
        self.finish(&head, &call, sent, waited || held)
    }

    /// Prepares the reply to a valid call, after its latency; the last value is whether it waited.
    fn prepare(
        &mut self,
        call: &Call,
        work: &mut Work,
        head: &mut Head,
        arrived: Instant,
    ) -> (Sent, bool) {
        let kind = match call.verdict {
            Verdict::Plain => None,
            Verdict::Trouble(kind) => Some(kind),
            Verdict::Busy => Some(Trouble::RateLimit),
            Verdict::Limited(denial) => {
                self.problem(head, &Problem::limited(&denial, &work.model));
                return (Sent::Whole, false);
            }
        };
        let waited = match kind {
            Some(Trouble::Stall) => {
                self.stall();
                true
            }
            Some(kind) if kind.is_refusal() => false,
            _ => self.wait(arrived, call),
        };
        let sent = match kind {
            Some(kind) => self.trouble(kind, work, head),
            None => self.good(work, head, None),
        };
        (sent, waited)
    }

    /// What the call costs, in picodollars, also if its reply will not be sent whole.
    fn cost(&self, call: &Call, work: &Work) -> u64 {
        let config = &self.shared.config;
        let odd = match call.verdict {
            Verdict::Plain => None,
            Verdict::Trouble(kind) if kind.is_paid() => Some(kind),
            Verdict::Trouble(_) | Verdict::Limited(_) | Verdict::Busy => return 0,
        };
        match &work.content {
            Content::Answer(prompt) => {
                let tokens = Tokens::of(prompt, config, odd);
                config.cost(&prompt.model, tokens, prompt.flex)
            }
            Content::Vectors(_) | Content::Sound(_) => 0,
        }
    }

    /// Prepares the reply to a call that meets the problem `kind`.
    fn trouble(&mut self, kind: Trouble, work: &mut Work, head: &mut Head) -> Sent {
        match kind {
            Trouble::Drop | Trouble::Stall => return Sent::Nothing,
            Trouble::BrokenJson if work.form == Form::Sound => {
                self.body.extend_from_slice(b"{\"status\": \"queued\"");
            }
            Trouble::BrokenJson => {
                self.good(work, head, None);
                self.body.truncate(self.body.len() / 2);
            }
            Trouble::Truncated => {
                self.good(work, head, None);
                return Sent::Cut;
            }
            Trouble::Html502 => {
                self.body.extend_from_slice(
                    b"<html><head><title>502 Bad Gateway</title></head>\
                      <body><h1>502 Bad Gateway</h1></body></html>\n",
                );
                head.status = 502;
                head.media = Some("text/html");
            }
            kind => {
                let at = match work.content {
                    Content::Vectors(_) | Content::Sound(_) => "input",
                    Content::Answer(_) => "messages",
                };
                match problems::of(kind, &self.shared.config, &work.model, at) {
                    Some(problem) => self.problem(head, &problem),
                    None => return self.good(work, head, Some(kind)),
                }
            }
        }
        Sent::Whole
    }

    /// Prepares the requested reply; with `odd`, one with status 200 that is not the requested one.
    fn good(&mut self, work: &mut Work, head: &mut Head, odd: Option<Trouble>) -> Sent {
        match &mut work.content {
            Content::Vectors(pack) => {
                if odd.is_some() {
                    pack.inputs.clear();
                }
                self.write(&head.dialect.vectors(pack));
            }
            Content::Sound(speech) => {
                if odd.is_some() {
                    speech.text.clear();
                }
                speech.write(&mut self.body);
                head.media = Some("audio/wav");
            }
            Content::Answer(prompt) => {
                if head.dialect.row().blank {
                    // Sent while it is busy.
                    self.body.extend_from_slice(b"\n\n\n");
                }
                let (config, place) = (&self.shared.config, (head.call, head.now));
                self.write(&head.dialect.reply(config, prompt, odd, place));
            }
        }
        Sent::Whole
    }

    /// Waits for the latency; returns whether there was any.
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

    /// Hangs until the client disconnects, the time is over, or the simulator stops. The socket reports all of these.
    fn stall(&self) {
        let _ = self.stream.set_read_timeout(Some(STALL));
        let _ = self.stream.peek(&mut [0]);
    }

    /// Ends a call: settles it, then sends the content of `body`.
    fn finish(&mut self, head: &Head, call: &Call, sent: Sent, waited: bool) -> Next {
        let Shared { ledger, gate, .. } = self.shared;
        // A stall ends with its connection, so it does not wait at the gate.
        let stalled = call.verdict == Verdict::Trouble(Trouble::Stall);
        let held = !stalled && gate.pass();
        let delivery = match call.verdict {
            _ if sent != Sent::Nothing && (waited || held) && is_gone(self.stream) => {
                Delivery::Gone
            }
            Verdict::Plain if head.status == 200 => Delivery::Answered,
            _ => Delivery::Failed,
        };
        ledger.lock().settle(call, delivery);
        if sent == Sent::Nothing {
            return Next::Close;
        }
        head.write(&mut self.out, &self.body);
        if sent == Sent::Cut {
            self.out.truncate(self.out.len() - self.body.len() / 2);
        }
        if self.send().is_err() {
            ledger.lock().undelivered(call, delivery);
            return Next::Close;
        }
        if sent == Sent::Cut || head.close {
            return Next::Close;
        }
        Next::Keep
    }
}

/// Whether the client has closed its end. This is checked only after a wait, because it takes three system calls. A
/// client that has closed only its sending side counts as gone; HTTP clients keep both sides open.
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
