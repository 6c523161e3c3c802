//! One connection from its first request to its close: which endpoint answers, and when the connection
//! ends. Runs on the connection's own thread; chat calls are left to `call`, parsing and formatting to
//! their modules.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::SimConfig;
use super::gate::Gate;
use super::http::{BODY_LIMIT, Method, Reader, Refusal, Request, Target};
use super::ledger::Ledger;
use super::reply::{ErrorBody, Head};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SimConfig,
    pub(super) ledger: Ledger,
    pub(super) gate: Gate,
    pub(super) started: Instant,
    /// The start in seconds since the epoch.
    pub(super) epoch: u64,
}

impl Shared {
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
        .and_then(|()| stream.set_read_timeout(Some(config.idle_timeout)));
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
    let mut served = 0;
    loop {
        let next = match reader.next() {
            Ok(request) => connection.answer(&request),
            Err(refusal) => {
                connection.refuse(&refusal);
                Next::Close
            }
        };
        served += 1;
        let worn = config
            .max_requests_per_connection
            .is_some_and(|most| served >= most);
        if next == Next::Close || worn || shared.gate.is_stopped() {
            return;
        }
    }
}

/// A connection being served.
pub(super) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stream: &'a TcpStream,
    /// The body of the reply that is being made, and the whole of it.
    pub(super) body: Vec<u8>,
    pub(super) out: Vec<u8>,
}

impl Connection<'_> {
    fn answer(&mut self, request: &Request<'_>) -> Next {
        self.body.clear();
        self.out.clear();
        let (wanted, allow) = match &request.target {
            Target::Chat => (Method::Post, "POST"),
            Target::Models | Target::Health | Target::Stats => (Method::Get, "GET"),
            Target::Other(path) => {
                let message = format!("Invalid URL ({} {path})", name(&request.method));
                return self.error(request, 404, &ErrorBody::invalid(None, &message));
            }
        };
        if request.method != wanted {
            let message = format!("Not allowed to {} here.", name(&request.method));
            ErrorBody::invalid(Some("method_not_supported"), &message).write(&mut self.body);
            let head = Head {
                allow: Some(allow),
                ..Head::status(405)
            };
            return self.reply(request, head);
        }
        let arrived = Instant::now();
        let now = arrived.duration_since(self.shared.started);
        match request.target {
            Target::Chat => return self.chat(request, arrived, now),
            Target::Stats => {
                let stats = self.shared.ledger.stats();
                // Writing into memory does not fail, nor do numbers.
                let _ = serde_json::to_writer(&mut self.body, &stats);
            }
            _ if self.shared.is_loading(now) => {
                self.body.extend_from_slice(ErrorBody::LOADING.as_bytes());
                return self.reply(request, Head::status(503));
            }
            Target::Models if !request.authorized => {
                return self.error(request, 401, &ErrorBody::invalid_key());
            }
            Target::Models => {
                let body = models(&self.shared.config, self.shared.epoch);
                self.body.extend_from_slice(body.as_bytes());
            }
            Target::Health | Target::Other(_) => {
                self.body.extend_from_slice(br#"{"status":"ok"}"#);
            }
        }
        self.reply(request, Head::status(200))
    }

    fn error(&mut self, request: &Request<'_>, status: u16, error: &ErrorBody<'_>) -> Next {
        error.write(&mut self.body);
        self.reply(request, Head::status(status))
    }

    /// Sends what is in `body` in answer to a request that is no call.
    fn reply(&mut self, request: &Request<'_>, mut head: Head) -> Next {
        // The reply to HEAD must not have a body; closing saves telling that method apart.
        head.close = request.close || matches!(request.method, Method::Other(_));
        head.write(&mut self.out, &self.body);
        if self.send().is_err() || head.close {
            return Next::Close;
        }
        Next::Keep
    }

    /// Answers what is not a request that can be served.
    fn refuse(&mut self, refusal: &Refusal) {
        let (status, message) = match refusal {
            Refusal::Closed => return,
            Refusal::BadHead => (400, "The request's head cannot be read."),
            Refusal::HeadTooLarge => (431, "The request's head is too large."),
            Refusal::LengthRequired => (411, "A Content-Length header is required."),
            Refusal::BodyTooLarge => (413, "The request's body is larger than 32 MiB."),
        };
        self.body.clear();
        self.out.clear();
        ErrorBody::invalid(None, message).write(&mut self.body);
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

    /// Reads away what the client is still sending: closing on unread data would reset the connection,
    /// and the reply be lost.
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

fn name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Other(name) => name,
    }
}

fn models(config: &SimConfig, created: u64) -> String {
    let entry = |id: &str| json!({"id": id, "object": "model", "created": created, "owned_by": "simulator"});
    let data: Vec<_> = match &config.models {
        Some(models) => models.iter().map(|id| entry(id)).collect(),
        None => vec![entry("sim-1")],
    };
    json!({"object": "list", "data": data}).to_string()
}
