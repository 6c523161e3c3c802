//! One connection from its first request to its end: selects the endpoint of a request, and decides when the connection
//! ends. It runs on the connection's own thread. `call` makes the replies to calls; other modules parse and format.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::batch::{self, Store};
use super::dialect::{Dialect, Endpoint};
use super::gate::Gate;
use super::http::{Reader, Refusal, Request};
use super::ledger::Ledger;
use super::problems::Problem;
use super::reply::Head;
use super::{BatchStats, SimConfig, SimStats, Vendor};

/// A connection without any input for this time is closed.
const IDLE: Duration = Duration::from_secs(60);

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SimConfig,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) gate: Arc<Gate>,
    /// Accessed by [`with_batches`](Shared::with_batches).
    pub(super) batches: Mutex<Store>,
    pub(super) started: Instant,
    /// The start in seconds since the epoch.
    pub(super) epoch: u64,
}

impl Shared {
    /// The counts, including the progress of batches until now.
    pub(super) fn stats(&self) -> SimStats {
        self.with_batches(|_, _| ());
        self.ledger.lock().stats()
    }

    pub(super) fn batch_stats(&self) -> BatchStats {
        self.with_batches(|store, now| store.stats(now, &self.config.batches))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// Serves `stream` until either side closes it.
pub(super) fn connection(shared: &Shared, stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE));
    let mut reader = Reader::new(stream);
    let mut connection = Connection {
        shared,
        stream,
        body: Vec::new(),
        out: Vec::new(),
        close: false,
    };
    loop {
        connection.body.clear();
        connection.out.clear();
        let next = match reader.next() {
            Ok(request) => connection.answer(request),
            Err(refusal) => connection.refuse(&refusal),
        };
        if next == Next::Close || shared.gate.is_stopped() {
            return;
        }
    }
}

/// Whether the vendor has an address of this kind. Azure has two kinds, which no other vendor has.
pub(super) fn is_in_its_place(request: &Request, config: &SimConfig) -> bool {
    match config.vendor {
        Some(Vendor::Azure) => request.groq || request.versioned,
        _ => !request.versioned,
    }
}

/// A connection being served.
pub(super) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stream: &'a TcpStream,
    /// The body of the reply, and the complete reply with its head.
    pub(super) body: Vec<u8>,
    pub(super) out: Vec<u8>,
    /// Whether it ends with this reply.
    pub(super) close: bool,
}

impl Connection<'_> {
    fn answer(&mut self, request: Request) -> Next {
        // A reply to HEAD must not have a body. Closing the connection avoids a special case for it.
        self.close = request.close || request.method == "HEAD";
        let arrived = Instant::now();
        let now = arrived.duration_since(self.shared.started);
        let config = &self.shared.config;
        let openai = Dialect::openai(&request, config);
        if let Some(endpoint) = Endpoint::of(&request.path) {
            let has_none = endpoint == Endpoint::Embeddings && openai.row().embeddings.is_none();
            if has_none || !is_in_its_place(&request, config) || request.method != "POST" {
                return self.nowhere(&request);
            }
            return self.call(&endpoint, &request, arrived, now);
        }
        if batch::owns(&request.path) {
            return self.batch(request);
        }
        let request = &request;
        let body = match request.path.as_str() {
            _ if request.method != "GET" => return self.nowhere(request),
            "/_sim/stats" => json!(self.shared.stats()),
            "/_sim/batches" => json!(self.shared.batch_stats()),
            "/health" | "/v1/health" => json!({"status": "ok"}),
            "/v1/models" => {
                if let Err(problem) = openai.admit(request, config) {
                    return self.error(Head::of(openai), &problem);
                }
                let default = ["sim-1".to_owned()];
                let models = config.models.as_deref().unwrap_or(&default).iter();
                let epoch = self.shared.epoch;
                let models = models.map(|id| {
                    json!({"id": id, "object": "model", "created": epoch, "owned_by": "simulator"})
                });
                json!({"object": "list", "data": models.collect::<Value>()})
            }
            _ => return self.nowhere(request),
        };
        self.write(&body);
        self.reply(Head::of(openai))
    }

    /// Appends JSON to the body of the reply.
    pub(super) fn write(&mut self, value: &Value) {
        // Neither writing into memory nor this value can fail.
        let _ = serde_json::to_writer(&mut self.body, value);
    }

    /// Replies with an error to a request that is not a call.
    pub(super) fn error(&mut self, mut head: Head, problem: &Problem) -> Next {
        self.problem(&mut head, problem);
        self.reply(head)
    }

    /// Appends an error, and counts it if it is malformed.
    pub(super) fn problem(&mut self, head: &mut Head, problem: &Problem) {
        if problem.malformed {
            self.shared.ledger.lock().counts.malformed += 1;
        }
        let (status, body) = head.dialect.problem(problem, head.call);
        self.write(&body);
        head.status = status;
        head.retry_after = problem.wait;
    }

    /// Replies that there is no such address.
    pub(super) fn nowhere(&mut self, request: &Request) -> Next {
        let problem = Problem::nowhere(&request.method, &request.path);
        self.error(Head::default(), &problem)
    }

    /// Sends the content of `body` as the reply to a request that is not a call.
    pub(super) fn reply(&mut self, mut head: Head) -> Next {
        head.close = self.close;
        head.write(&mut self.out, &self.body);
        if self.send().is_err() || head.close {
            return Next::Close;
        }
        Next::Keep
    }

    /// Replies to a request that cannot be served.
    fn refuse(&mut self, refusal: &Refusal) -> Next {
        let problem = match *refusal {
            Refusal::Closed => return Next::Close,
            Refusal::Handshake => Problem::told(400, "This server does not speak TLS."),
            Refusal::Told(status, message) => Problem::bad(status, message),
        };
        self.close = true;
        self.error(Head::default(), &problem)
    }

    pub(super) fn send(&self) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(&self.out)
    }
}
