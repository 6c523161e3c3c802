//! One connection from its first request to its end: selects the endpoint of a request, and decides when the connection
//! ends. It runs on the connection's own thread. `call` makes the replies to calls; other modules parse and format.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Vendor;
use super::batch::Store;
use super::dialect::Dialect;
use super::gate::Gate;
use super::http::{BODY_LIMIT, Method, Reader, Refusal, Request, Target};
use super::http::{Endpoint, Version};
use super::ledger::Ledger;
use super::prompt::Problem;
use super::reply::{Head, Rfc3339};
use super::{SimConfig, SimStats};

/// A connection without any input for this time is closed.
const IDLE: Duration = Duration::from_secs(60);

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SimConfig,
    pub(super) ledger: Ledger,
    pub(super) gate: Gate,
    pub(super) batches: Store,
    pub(super) started: Instant,
    /// The start in seconds since the epoch.
    pub(super) epoch: u64,
}

impl Shared {
    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The counts, including the progress of batches until now.
    pub(super) fn stats(&self) -> SimStats {
        self.batches.catch_up(self);
        self.ledger.stats()
    }

    pub(super) fn is_loading(&self, now: Duration) -> bool {
        self.config.loading.is_some_and(|loading| now < loading)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// Serves `stream` until either side closes it.
pub(super) fn connection(shared: &Shared, stream: &TcpStream) {
    let config = &shared.config;
    let ready = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(IDLE)));
    if let Err(error) = ready {
        log::debug!("simulator: connection not set up: {error}");
        return;
    }
    let key = config.api_key.as_ref().map(|key| key.0.clone());
    let mut reader = Reader::new(stream, key);
    let mut connection = Connection {
        shared,
        stream,
        body: Vec::new(),
        out: Vec::new(),
    };
    loop {
        let next = match reader.next() {
            Ok(request) => connection.answer(request),
            Err(refusal) => {
                connection.refuse(&refusal);
                Next::Close
            }
        };
        if next == Next::Close || shared.gate.is_stopped() {
            return;
        }
    }
}

/// Whether the vendor has an address of this kind. Azure has two kinds, which no other vendor has.
pub(super) fn is_in_its_place(request: &Request<'_>, config: &SimConfig) -> bool {
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
}

impl Connection<'_> {
    fn answer(&mut self, request: Request<'_>) -> Next {
        self.body.clear();
        self.out.clear();
        if let Target::Batch(_) = request.target {
            return self.batch(request);
        }
        let request = &request;
        let openai = Dialect::openai(request, &self.shared.config);
        let (wanted, allow) = match &request.target {
            Target::Call(_) if !is_in_its_place(request, &self.shared.config) => {
                return self.nowhere(request, "at another vendor's address");
            }
            Target::Call(Endpoint::Embeddings) if !openai.has_embeddings() => {
                return self.nowhere(request, "/v1/embeddings");
            }
            Target::Props if self.shared.config.slots.is_none() => {
                return self.nowhere(request, "/props");
            }
            Target::Other(path) => return self.nowhere(request, path),
            Target::Call(_) => (Method::Post, "POST"),
            _ => (Method::Get, "GET"),
        };
        if request.method != wanted {
            self.shared.ledger.malformed();
            let message = format!("Not allowed to {} here.", name(&request.method));
            invalid(&mut self.body, Some("method_not_supported"), &message);
            let head = Head {
                extra: Some(("Allow", allow.to_owned())),
                ..Head::status(405)
            };
            return self.reply(request, head);
        }
        let arrived = Instant::now();
        let now = arrived.duration_since(self.shared.started);
        let config = &self.shared.config;
        let body = match &request.target {
            Target::Call(endpoint) => return self.call(endpoint, request, arrived, now),
            Target::Stats => json!(self.shared.stats()),
            Target::BatchStats => json!(self.shared.batches.stats(self.shared)),
            _ if self.shared.is_loading(now) => {
                return self.error(request, openai, &Problem::Loading);
            }
            Target::Models | Target::GeminiModels => {
                let dialect = match request.target {
                    Target::GeminiModels => Dialect::Gemini,
                    _ if request.version != Version::Absent => Dialect::Anthropic,
                    _ => openai,
                };
                if let Err(problem) = dialect.admit(request, config) {
                    return self.error(request, dialect, &problem);
                }
                models(config, dialect, self.shared.epoch)
            }
            Target::Props => json!({"total_slots": config.slots}),
            Target::Health | Target::Batch(_) | Target::Other(_) => json!({"status": "ok"}),
        };
        // Neither writing into memory nor this value can fail.
        let _ = serde_json::to_writer(&mut self.body, &body);
        self.reply(request, Head::status(200))
    }

    fn error(&mut self, request: &Request<'_>, dialect: Dialect, problem: &Problem<'_>) -> Next {
        if let Problem::Fault(_) = problem {
            self.shared.ledger.malformed();
        }
        let status = dialect.problem(&mut self.body, problem, 0);
        self.reply(request, Head::status(status))
    }

    /// Replies that there is no such address. Only a request that sends something counts as malformed.
    pub(super) fn nowhere(&mut self, request: &Request<'_>, path: &str) -> Next {
        if request.method == Method::Post {
            self.shared.ledger.malformed();
        }
        let message = format!("Invalid URL ({} {path})", name(&request.method));
        invalid(&mut self.body, None, &message);
        self.reply(request, Head::status(404))
    }

    /// Sends the content of `body` as the reply to a request that is not a call.
    fn reply(&mut self, request: &Request<'_>, mut head: Head) -> Next {
        // A reply to HEAD must not have a body. Closing the connection avoids a special case for it.
        head.close = request.close || matches!(request.method, Method::Other(_));
        head.write(&mut self.out, &self.body);
        if self.send().is_err() || head.close {
            return Next::Close;
        }
        Next::Keep
    }

    /// Replies to a request that cannot be served.
    fn refuse(&mut self, refusal: &Refusal) {
        let (status, message) = match refusal {
            Refusal::Closed => return,
            Refusal::Handshake => (400, "This server does not speak TLS."),
            Refusal::BadHead => (400, "The request's head cannot be read."),
            Refusal::HeadTooLarge => (431, "The request's head is too large."),
            Refusal::LengthRequired => (411, "A Content-Length header is required."),
            Refusal::BodyTooLarge => (413, "The request's body is too large."),
        };
        self.body.clear();
        self.out.clear();
        if !matches!(refusal, Refusal::Handshake) {
            self.shared.ledger.malformed();
        }
        invalid(&mut self.body, None, message);
        let head = Head {
            close: true,
            ..Head::status(status)
        };
        head.write(&mut self.out, &self.body);
        if self.send().is_ok() {
            self.linger();
        }
    }

    pub(super) fn send(&self) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(&self.out)
    }

    /// Reads and drops what the client is still sending. Closing a connection with unread data would reset it, and the
    /// reply would be lost.
    fn linger(&self) {
        let mut stream = self.stream;
        let ready = stream
            .shutdown(Shutdown::Write)
            .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(1))));
        let mut space = [0; 4 << 10];
        let mut left = 2 * BODY_LIMIT;
        while ready.is_ok() && left > 0 {
            match stream.read(&mut space) {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    }
}

pub(super) fn name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Other(name) => name,
    }
}

/// Appends an error body in OpenAI's format, for requests that belong to no API.
fn invalid(out: &mut Vec<u8>, code: Option<&str>, message: &str) {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null,
        "code": code});
    let _ = serde_json::to_writer(out, &json!({"error": error}));
}

fn models(config: &SimConfig, dialect: Dialect, created: u64) -> Value {
    let default = ["sim-1".to_owned()];
    let models = config.models.as_deref().unwrap_or(&default);
    let entry = |id: &String| match dialect {
        Dialect::OpenAi(_) => {
            json!({"id": id, "object": "model", "created": created, "owned_by": "simulator"})
        }
        Dialect::Anthropic => json!({"type": "model", "id": id, "display_name": id,
            "created_at": Rfc3339(created).to_string()}),
        Dialect::Gemini => json!({"name": format!("models/{id}"), "displayName": id,
            "supportedGenerationMethods": ["generateContent", "batchEmbedContents"]}),
    };
    let list: Vec<_> = models.iter().map(entry).collect();
    match dialect {
        Dialect::OpenAi(_) => json!({"object": "list", "data": list}),
        Dialect::Anthropic => json!({"data": list, "has_more": false,
            "first_id": models.first(), "last_id": models.last()}),
        Dialect::Gemini => json!({"models": list}),
    }
}
