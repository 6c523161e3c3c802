//! A client that waits at its connection, and the response that a stream begins before the answer is there.

use std::time::{Duration, Instant};

use batchwright::Request;

use super::limits;
use crate::api::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{Asked, Claim, Hash, Makes, hash, settled};

/// Interval of checks whether the client is still there.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// A comment is sent after this time without another part, so that no proxy or client takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A client that waits.
pub(super) struct Caller<'a, 'c> {
    pub app: &'a App,
    pub call: &'a mut Call<'c>,
    /// A request like those that it sent, for their limits.
    pub like: Request,
    /// The head of the response, until it is sent, if the client wants a stream.
    pub head: Option<Response>,
    /// When a part of the stream was last sent.
    pub sent: Option<Instant>,
}

impl<'a, 'c> Caller<'a, 'c> {
    /// The client of a request with these calls, which are like `like`.
    pub fn new(
        app: &'a App,
        call: &'a mut Call<'c>,
        like: Request,
        calls: usize,
        streams: bool,
    ) -> Self {
        let head = streams.then(|| {
            // Without the header nginx sends nothing before it has a few kilobytes.
            let head = Response::sent("text/event-stream").header("x-accel-buffering", "no");
            limits::ahead(app, &like, calls, head)
        });
        Self {
            app,
            call,
            like,
            head,
            sent: None,
        }
    }

    /// The number of earlier attempts, as OpenAI's clients report it; `None` for other clients, which may not retry.
    pub fn retries(&self) -> Option<u64> {
        let count = self.call.head.header("x-stainless-retry-count")?;
        count.parse().ok()
    }

    /// The hash by which a retry is recognized: that of the request and of the client's token.
    pub fn retry_hash(&self, request: Hash) -> Hash {
        let token = self.call.head.header("authorization").unwrap_or_default();
        hash(&[&request, token.as_bytes()])
    }

    /// Claims the idempotency key of the request, if it has one. Waits while another connection waits for the same
    /// answer.
    ///
    /// # Errors
    /// When the key was sent before with another request, the client is gone, or the server stops.
    pub fn claim(&mut self, request: Hash) -> Result<Option<Claim<'a>>, Problem> {
        let Some(key) = once::key(self.call)? else {
            return Ok(None);
        };
        let asked = Asked {
            request: Some(request),
            process: None,
            makes: Makes::Answer,
        };
        let mut patience = Duration::ZERO;
        loop {
            let records = &self.app.records;
            let claim = records.claim_key(key, asked, settled::time(), patience)?;
            let before = match &claim {
                Claim::Answered(before, _) | Claim::Busy(before) => *before,
                Claim::Mine(held) => held.request,
            };
            if let Err(problem) = once::refuse_another(before, request) {
                return Err(problem);
            }
            if !matches!(claim, Claim::Busy(_)) {
                return Ok(Some(claim));
            }
            if self.app.events.is_closed() {
                return Err(stopping());
            }
            self.begin()?;
            self.check()?;
            patience = LOOK;
        }
    }

    /// Sends the head of the response to a client that wants a stream.
    pub fn begin(&mut self) -> Result<(), Problem> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        self.sent = Some(Instant::now());
        let begun = self.call.body.begin_response(&head);
        begun.map_err(|_| gone())
    }

    /// Sends a part of a stream.
    pub fn send(&mut self, events: &str) -> Result<(), Problem> {
        self.sent = Some(Instant::now());
        let sent = self.call.body.send_part(events.as_bytes());
        sent.map_err(|_| gone())
    }

    /// Checks that the client is still there, and tells the client of a stream that the server is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn check(&mut self) -> Result<(), Problem> {
        if self.call.is_gone() {
            return Err(gone());
        }
        match self.sent {
            Some(sent) if sent.elapsed() >= HEARTBEAT => self.send(": waiting\n\n"),
            _ => Ok(()),
        }
    }
}

fn gone() -> Problem {
    Problem::new(499, "client_closed_request", "the client has disconnected")
}

pub(super) fn stopping() -> Problem {
    let why = "the server stops before this has ended; send it again";
    Problem::new(503, "stopping", why).header("retry-after", "1")
}
