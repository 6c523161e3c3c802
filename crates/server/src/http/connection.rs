//! One connection: receives requests one after another, checks and answers each, and closes slow connections. And what a
//! listener and its connections share.

use std::collections::HashMap;
use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http_net::{HttpError, ServerConn, ServerEvent};
use parking_lot::{Condvar, Mutex};

use super::call::{Permit, Permits, new_request_id};
use super::{Body, Call, Head, Incoming, Response};
use crate::problem::Problem;

/// Number of bytes that are sent at once.
const CHUNK: usize = 16 << 10;
pub(crate) const DEFAULT_CONNECTIONS: usize = 4096;

/// Answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Checks a request by its head, before its body is read, and returns its handler.
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<Answer<'_>, Response>;
}

/// Answers an admitted request.
pub(crate) type Answer<'s> = Box<dyn FnOnce(&mut Call<'_>) -> Response + 's>;

/// Limits for clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long the server waits for a client to send bytes of a body, or to receive some.
    pub stall: Duration,
    /// How long a client that has a permit may take for its body.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_CONNECTIONS,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
            whole: Duration::from_secs(300),
        }
    }
}

/// A connection as the listener sees it.
pub(super) struct Open {
    pub stream: TcpStream,
    /// True while it has no request.
    pub idle: Mutex<bool>,
}

/// What all threads of a listener share.
pub(super) struct Shared {
    pub service: Arc<dyn Service>,
    pub limits: Limits,
    pub stopping: AtomicBool,
    pub permits: Permits,
    /// Shared by itself: a thread leaves it last, when it has let go of the service and its files.
    pub connections: Arc<Register>,
}

/// The open connections, by their numbers.
#[derive(Default)]
pub(super) struct Register {
    pub open: Mutex<HashMap<u64, Arc<Open>>>,
    pub gone: Condvar,
}

/// Serves a connection until it ends.
pub(super) fn serve(open: &Open, shared: &Shared) {
    let stream = &open.stream;
    let _ = stream.set_nodelay(true);
    let Ok(reached) = stream.local_addr() else {
        return;
    };
    let limits = http_net::Limits::new().with_max_body(u64::MAX);
    let mut wire = Wire {
        open,
        stream,
        http: ServerConn::with_limits(limits),
        out: Vec::new(),
        gathered: Vec::new(),
        limits: &shared.limits,
        until: None,
        body_ended: true,
        is_head: false,
        waits_for_us: false,
        body: Cursor::default(),
        permits: &shared.permits,
        permit: None,
        request: String::new(),
        request_id: String::new(),
    };
    let ended = wire.serve(shared, reached);
    if let Err(error) = &ended {
        log::debug!("a connection ended: {error}");
    }
}

struct Wire<'s> {
    open: &'s Open,
    stream: &'s TcpStream,
    http: ServerConn,
    out: Vec<u8>,
    /// Written and not encoded yet, so that many small writes make no chunk each.
    gathered: Vec<u8>,
    limits: &'s Limits,
    /// When the body of the present request must be here, if it has a permit.
    until: Option<Instant>,
    body_ended: bool,
    /// True where the request is answered without a body.
    is_head: bool,
    /// True if the client waits for `100 Continue` before it sends its body.
    waits_for_us: bool,
    /// Received bytes of the body.
    body: Cursor<Vec<u8>>,
    permits: &'s Permits,
    /// The permit for the body of the present request, if it is large.
    permit: Option<Permit<'s>>,
    /// The method and the path of the present request, for the log.
    request: String,
    request_id: String,
}

impl Wire<'_> {
    fn serve(&mut self, shared: &Shared, reached: SocketAddr) -> io::Result<()> {
        loop {
            *self.open.idle.lock() = true;
            // A stopping server ends idle connections once; this one may have become idle just after that.
            if shared.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
            let Some(head) = self.head()? else {
                return Ok(());
            };
            *self.open.idle.lock() = false;
            let path = head.path.clone();
            self.is_head = head.method == "HEAD";
            self.request = format!("{} {path}", head.method);
            self.request_id.clone_from(&head.request_id);
            let admitted = match head.waits_to_be_asked() {
                Ok(waits) => {
                    self.waits_for_us = waits;
                    shared.service.admit(&head, reached)
                }
                Err(problem) => Err(problem.response(&path)),
            };
            let response = match admitted {
                Ok(answer) => {
                    let response = self.answer(head, answer);
                    self.release();
                    self.skip_body();
                    response
                }
                // The body of a rejected request is not read: the response is sent, and then the connection ends.
                Err(refusal) => refusal,
            };
            if shared.stopping.load(Ordering::SeqCst) {
                self.http.set_keep_alive(false);
            }
            self.send(response)?;
            if !self.http.keep_alive() {
                return Ok(());
            }
        }
    }

    /// The next request; `None` if the client has finished, its head does not arrive in time, or is no HTTP, which is
    /// answered.
    fn head(&mut self) -> io::Result<Option<Head>> {
        let mut deadline = Instant::now() + self.limits.idle;
        let mut begun = false;
        if self.http.requests_served() == 0 {
            // A new connection must send a request in this time.
            deadline = Instant::now() + self.limits.head;
        }
        loop {
            let event = match self.http.poll() {
                Ok(event) => event,
                Err(error) => {
                    self.refuse(&error)?;
                    return Ok(None);
                }
            };
            match event {
                ServerEvent::Request(head) => {
                    let head = Head::of(&head);
                    self.body_ended = !head.has_body;
                    self.body = Cursor::default();
                    return Ok(Some(head));
                }
                ServerEvent::Closed => return Ok(None),
                // The end of the last request's body, if no handler read it.
                ServerEvent::RequestEnd | ServerEvent::Body(_) => {}
                ServerEvent::NeedInput => {
                    // It counts as idle until its head is complete, because the beginning of a head costs the sender
                    // nothing.
                    if self.http.progress() == http_net::Progress::Head && !begun {
                        begun = true;
                        deadline = Instant::now() + self.limits.head;
                    }
                    let left = deadline.saturating_duration_since(Instant::now());
                    match self.fill(left) {
                        Ok(()) => {}
                        Err(error) if is_timeout(&error) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    fn answer(&mut self, head: Head, answer: Answer<'_>) -> Response {
        let (path, request_id) = (head.path.clone(), head.request_id.clone());
        let mut call = Call {
            head,
            params: Vec::new(),
            client: self.stream,
            body: self,
        };
        catch_unwind(AssertUnwindSafe(|| answer(&mut call))).unwrap_or_else(|_| {
            log::error!("a handler panicked at {path}, request {request_id}");
            let why = "internal error; see the server's log";
            Problem::new(500, "internal_error", why).response(&path)
        })
    }

    /// Sends `100 Continue` if the client waits for it.
    fn invite(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        if mem::take(&mut self.waits_for_us) && self.http.send_continue(&mut line).is_ok() {
            self.send_all(&line)?;
        }
        Ok(())
    }

    /// Skips a small body that no handler wanted and that has arrived with its head, so that the connection can be reused.
    fn skip_body(&mut self) {
        while !self.body_ended && !self.waits_for_us {
            self.body_ended = !matches!(self.http.poll(), Ok(ServerEvent::Body(_)));
        }
    }

    /// Encodes the head of a response.
    fn respond(&mut self, response: &Response) -> io::Result<()> {
        log::info!(
            "{}: {}, request {}",
            self.request,
            response.status,
            self.request_id
        );
        let mut head = http_net::Response::new(response.status);
        for (name, value) in &response.headers {
            head = head.header(name, value);
        }
        for (name, value) in PROTECTION {
            if !response.has(name) {
                head = head.header(name, value);
            }
        }
        head = head
            .header("date", httpdate::fmt_http_date(SystemTime::now()))
            .header("x-request-id", &self.request_id);
        head = match &response.body {
            Body::Full(bytes) => head.body(bytes.clone()),
            Body::Stream(Some(length), _) => head.content_length(*length),
            Body::Stream(None, _) => head.chunked(),
        };
        self.out.clear();
        self.http.respond(&head, &mut self.out).map_err(|error| {
            log::error!("no answer could be made to {}: {error}", self.request);
            misuse(error)
        })
    }

    fn send(&mut self, response: Response) -> io::Result<()> {
        self.respond(&response)?;
        match response.body {
            Body::Full(_) => {}
            _ if self.is_head => self.end_body()?,
            Body::Stream(_, write) => {
                self.send_out()?;
                self.gathered.clear();
                write(self)?;
                self.encode()?;
                self.end_body()?;
            }
        }
        self.send_out()
    }

    fn encode(&mut self) -> io::Result<()> {
        let gathered = &self.gathered;
        let encoded = self.http.send_body(gathered, &mut self.out);
        encoded.map_err(misuse)?;
        self.gathered.clear();
        Ok(())
    }

    fn end_body(&mut self) -> io::Result<()> {
        self.http.end_body(&mut self.out).map_err(misuse)
    }

    fn send_out(&mut self) -> io::Result<()> {
        let out = mem::take(&mut self.out);
        let sent = self.send_all(&out);
        self.out = out;
        self.out.clear();
        sent
    }

    /// Each write must send something in time.
    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.limits.stall))?;
        (&mut &*self.stream).write_all(bytes)
    }

    /// Reads received bytes, or waits this long for some.
    fn fill(&mut self, wait: Duration) -> io::Result<()> {
        if wait.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(wait))?;
        loop {
            match (&mut &*self.stream).read(self.http.read_buf()) {
                Ok(0) => self.http.feed_eof(),
                Ok(n) => self.http.commit(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }

    /// Receives more of the body of the present request; false at its end.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            match self.http.poll() {
                Ok(ServerEvent::Body(part)) => {
                    self.body = Cursor::new(part.to_vec());
                    return Ok(true);
                }
                Ok(ServerEvent::NeedInput) => {
                    self.invite()?;
                    let left = |until: Instant| until.saturating_duration_since(Instant::now());
                    let stall = self.limits.stall;
                    let filled = self.fill(self.until.map_or(stall, left).min(stall));
                    filled.map_err(|error| {
                        if is_timeout(&error) {
                            too_slow().into()
                        } else {
                            error
                        }
                    })?;
                }
                Ok(_) => return Ok(false),
                Err(error) => {
                    let why = format!("the body is broken: {error}");
                    return Err(Problem::invalid(why).into());
                }
            }
        }
    }

    /// Answers input that is not HTTP.
    fn refuse(&mut self, error: &HttpError) -> io::Result<()> {
        let Some(status) = error.status() else {
            return Ok(());
        };
        let problem = Problem::new(
            status,
            "bad_request",
            format!("invalid HTTP request: {error}"),
        );
        self.request = "invalid HTTP".to_owned();
        self.request_id = new_request_id();
        self.send(problem.response("/"))
    }
}

impl Incoming for Wire<'_> {
    fn take_permit(&mut self) -> Result<(), Problem> {
        if self.permit.is_none() {
            self.permit = Some(self.permits.take()?);
            self.until = Some(Instant::now() + self.limits.whole);
        }
        Ok(())
    }

    fn release(&mut self) {
        (self.permit, self.until) = (None, None);
    }
}

/// The body of the present request.
impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.body.read(buffer)?;
            if read > 0 || self.body_ended {
                return Ok(read);
            }
            let received = self.receive();
            self.body_ended = !matches!(received, Ok(true));
            received?;
        }
    }
}

/// The body of the response that is being generated.
impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encode()?;
        self.send_out()
    }
}

fn too_slow() -> Problem {
    Problem::new(408, "too_slow", "the request was sent too slowly")
}

fn misuse(error: HttpError) -> io::Error {
    io::Error::other(error.to_string())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Default headers of every response for browsers: it is not displayed as a page, not cached, and not readable by other
/// sites.
const PROTECTION: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
