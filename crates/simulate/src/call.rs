//! One call: its question to the ledger, its latency, and the reply for each verdict. It runs on the connection's
//! thread, as a part of its [`Connection`].

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Trouble;
use super::answer::{self, Place};
use super::dialect::{Content, Dialect, Endpoint, Work};
use super::http::Request;
use super::ledger::{Ask, Call, Delivery, Verdict};
use super::prompt::Problem;
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

/// A valid call.
struct Job {
    dialect: Dialect,
    work: Work,
    now: Duration,
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
        let read = admitted.and_then(|()| Ok(dialect.read(endpoint, request, config)?));
        let work = match read {
            Ok(work) => work,
            Err(problem) => {
                let ask = if problem.malformed {
                    Ask::Malformed
                } else {
                    Ask::Rejected
                };
                let call = ledger.arrive(now, ask, config);
                let head = self.problem(dialect, &problem, &call, now);
                return self.finish(request, &call, head, Sent::Whole, held);
            }
        };
        if let (Content::Answer(_), Some(recorder)) = (&work.content, &config.recorder) {
            recorder.record(&request.body);
        }
        if !config.knows_model(&work.model) {
            let call = ledger.arrive(now, Ask::UnknownModel { keys: &work.keys }, config);
            let head = self.problem(dialect, &Problem::no_model(&work.model), &call, now);
            return self.finish(request, &call, head, Sent::Whole, held);
        }
        let mut call = ledger.arrive(now, Ask::Work(&work), config);
        let mut job = Job { dialect, work, now };
        call.cost = self.cost(&call, &job);
        let (head, sent, waited) = self.prepare_reply(&call, &mut job, arrived);
        self.finish(request, &call, head, sent, waited || held)
    }

    /// Prepares the reply to a valid call, after its latency; the last value is whether it waited.
    fn prepare_reply(
        &mut self,
        call: &Call,
        job: &mut Job,
        arrived: Instant,
    ) -> (Head, Sent, bool) {
        let kind = match call.verdict {
            Verdict::Plain => None,
            Verdict::Trouble(kind) => Some(kind),
            Verdict::Busy => Some(Trouble::RateLimit),
            Verdict::Limited(denial) => {
                let problem = Problem::limited(&denial, &job.work.model);
                let head = self.problem(job.dialect, &problem, call, job.now);
                return (head, Sent::Whole, false);
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
        let (head, sent) = match kind {
            Some(kind) => self.trouble(kind, call, job),
            None => (self.good(call, job, None), Sent::Whole),
        };
        (head, sent, waited)
    }

    /// What the call costs, in picodollars, also if its reply will not be sent whole.
    fn cost(&self, call: &Call, job: &Job) -> u64 {
        let config = &self.shared.config;
        let odd = match call.verdict {
            Verdict::Plain => None,
            Verdict::Trouble(kind) if kind.is_paid() => Some(kind),
            Verdict::Trouble(_) | Verdict::Limited(_) | Verdict::Busy => return 0,
        };
        match &job.work.content {
            Content::Answer(prompt) => {
                let tokens = answer::tokens(prompt, config, odd);
                config.cost(&prompt.model, tokens, prompt.flex)
            }
            Content::Vectors(_) | Content::Sound(_) => 0,
        }
    }

    /// Prepares the reply to a call that meets the problem `kind`.
    fn trouble(&mut self, kind: Trouble, call: &Call, job: &mut Job) -> (Head, Sent) {
        let config = &self.shared.config;
        match kind {
            Trouble::Drop | Trouble::Stall => return (Head::default(), Sent::Nothing),
            Trouble::BrokenJson if job.work.form == Form::Sound => {
                self.body.extend_from_slice(b"{\"status\": \"queued\"");
                return (self.head(job.dialect, job.now), Sent::Whole);
            }
            Trouble::BrokenJson => {
                let head = self.good(call, job, None);
                self.body.truncate(self.body.len() / 2);
                return (head, Sent::Whole);
            }
            Trouble::Truncated => return (self.good(call, job, None), Sent::Cut),
            Trouble::Html502 => {
                self.body.extend_from_slice(
                    b"<html><head><title>502 Bad Gateway</title></head>\
                      <body><h1>502 Bad Gateway</h1></body></html>\n",
                );
                let head = Head {
                    status: 502,
                    media: Some("text/html"),
                    ..self.head(job.dialect, job.now)
                };
                return (head, Sent::Whole);
            }
            _ => {}
        }
        let at = match job.work.content {
            Content::Vectors(_) | Content::Sound(_) => "input",
            Content::Answer(_) => "messages",
        };
        let head = match answer::problem(kind, config, &job.work.model, at) {
            Some(problem) => self.problem(job.dialect, &problem, call, job.now),
            None => self.good(call, job, Some(kind)),
        };
        (head, Sent::Whole)
    }

    /// Prepares the requested reply; with `odd`, one with status 200 that is not the requested one.
    fn good(&mut self, call: &Call, job: &mut Job, odd: Option<Trouble>) -> Head {
        let mut head = self.head(job.dialect, job.now);
        match &mut job.work.content {
            Content::Vectors(pack) => {
                if odd.is_some() {
                    pack.inputs.clear();
                }
                job.dialect.vectors(&mut self.body, pack);
            }
            Content::Sound(speech) => {
                if odd.is_some() {
                    speech.text.clear();
                }
                speech.write(&mut self.body);
                head.media = Some("audio/wav");
            }
            Content::Answer(prompt) => {
                let place = Place {
                    call: call.number,
                    created: self.shared.epoch + job.now.as_secs(),
                };
                let config = &self.shared.config;
                answer::write(&mut self.body, job.dialect, config, prompt, odd, place);
            }
        }
        head
    }

    fn problem(&mut self, dialect: Dialect, problem: &Problem, call: &Call, now: Duration) -> Head {
        let status = dialect.problem(&mut self.body, problem, call.number);
        Head {
            status,
            retry_after: problem.wait,
            ..self.head(dialect, now)
        }
    }

    fn head(&self, dialect: Dialect, now: Duration) -> Head {
        Head {
            dialect,
            now: self.shared.epoch + now.as_secs(),
            ..Head::status(200)
        }
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
        let deadline = Instant::now() + STALL;
        let pipelined = self.stream.set_read_timeout(Some(STALL)).is_ok()
            && matches!(self.stream.peek(&mut [0]), Ok(1));
        if pipelined {
            self.shared.gate.wait_until(deadline);
        }
    }

    /// Ends a call: settles it, then sends the content of `body`.
    fn finish(
        &mut self,
        request: &Request,
        call: &Call,
        mut head: Head,
        sent: Sent,
        waited: bool,
    ) -> Next {
        let Shared { ledger, gate, .. } = self.shared;
        // A stall ends with its connection, so it does not wait at the gate.
        let stalled = call.verdict == Verdict::Trouble(Trouble::Stall);
        let held = !stalled && gate.pass();
        head.call = call.number;
        head.limits = call.limits;
        head.close = request.close;
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
