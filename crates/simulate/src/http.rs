//! Reads requests from a connection: `http-net` parses the heads, as it does for the server. Bodies are read by
//! Content-Length into one buffer, which the next request reuses. `serve` decides what a request means.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use http_net::{BodyFraming, FieldSpan, HttpError, Limits, Parsed};

use super::batch;

/// The maximum length of a body, in bytes.
pub(super) const BODY_LIMIT: usize = 32 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const MOST_HEADERS: usize = 64;
const LIMITS: Limits = Limits::new()
    .with_max_start_line(HEAD_LIMIT)
    .with_max_header_bytes(HEAD_LIMIT)
    .with_max_headers(MOST_HEADERS)
    .with_max_body(u64::MAX);
const FIRST_SIZE: usize = 8 << 10;
/// A buffer that has grown beyond this size is freed after its request.
const KEPT_SIZE: usize = 256 << 10;

/// One request. Its body is in the reader's buffer.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    /// Whether the path is below `/openai`, as at Groq.
    pub(super) groq: bool,
    /// Whether it is an address of Azure with a version of the API.
    pub(super) versioned: bool,
    /// Whether the address contains a key.
    pub(super) key_in_url: bool,
    pub(super) credentials: Credentials,
    pub(super) version: Version,
    /// Whether the client wants the connection closed after the reply.
    pub(super) close: bool,
    pub(super) body: &'a [u8],
    /// The body of a request for files or batches, which may be large and is kept.
    pub(super) upload: Vec<u8>,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The length of the body, and whether the client waits for `100 Continue` before it sends the body.
    length: usize,
    expects_continue: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Call(Endpoint),
    Models,
    GeminiModels,
    Health,
    Props,
    Stats,
    BatchStats,
    Batch(Address),
    Other(String),
}

/// The address of a request for files or batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) path: String,
    pub(super) query: String,
}

/// The endpoint of a call, with the model if it is a part of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Messages,
    Generate(String),
    Embeddings,
    Speech,
    BatchEmbed(String),
}

/// The key in each of the headers that can have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) bearer: Shown,
    pub(super) x_api_key: Shown,
    pub(super) x_goog_api_key: Shown,
    pub(super) api_key: Shown,
}

/// The key in a header. If the simulator requires no certain key, any key is right that is not empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shown {
    #[default]
    Nothing,
    Wrong,
    Right,
}

/// The header `anthropic-version`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Version {
    #[default]
    Absent,
    /// 2023-06-01.
    Old,
    /// 2026-10-21.
    New,
    Other,
}

/// The first byte of a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a request cannot be read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The connection ended, or was silent for too long.
    Closed,
    /// The client speaks TLS, or asks after a connection without a reply whether this server does.
    Handshake,
    /// The head is malformed.
    BadHead,
    HeadTooLarge,
    /// A body without Content-Length.
    LengthRequired,
    BodyTooLarge,
}

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Refusal {
        match error {
            HttpError::StartLineTooLong
            | HttpError::HeadersTooLarge
            | HttpError::TooManyHeaders
            | HttpError::FieldLineTooLong => Refusal::HeadTooLarge,
            HttpError::BodyTooLarge => Refusal::BodyTooLarge,
            _ => Refusal::BadHead,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Refusal {
        Refusal::Closed
    }
}

/// Reads requests from `stream`, one after the other.
pub(super) struct Reader<S> {
    stream: S,
    key: Option<String>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<S: Read + Write> Reader<S> {
    /// A reader that accepts only `key`; without it, any key.
    pub(super) fn new(stream: S, key: Option<String>) -> Reader<S> {
        Reader {
            stream,
            key,
            buffer: vec![0; FIRST_SIZE],
            start: 0,
            end: 0,
        }
    }

    /// Waits for the next request and reads all of it.
    pub(super) fn next(&mut self) -> Result<Request<'_>, Refusal> {
        self.tidy();
        let (size, request) = loop {
            if self.end > self.start {
                let bytes = &self.buffer[self.start..self.end];
                if bytes[0] == TLS_HANDSHAKE {
                    return Err(Refusal::Handshake);
                }
                if let Some(parsed) = parse_head(bytes, self.key.as_deref())? {
                    break parsed;
                }
                if bytes.len() >= HEAD_LIMIT {
                    return Err(Refusal::HeadTooLarge);
                }
            }
            self.read_some()?;
        };
        let body = self.start + size;
        if let Target::Batch(_) = request.target {
            let upload = self.read_upload(body, &request)?;
            return Ok(Request { upload, ..request });
        }
        let after = body + request.length;
        if self.end < after {
            if request.expects_continue && self.end == body {
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if self.buffer.len() < after {
                self.buffer.resize(after, 0);
            }
            while self.end < after {
                self.read_some()?;
            }
        }
        self.start = after;
        Ok(Request {
            body: &self.buffer[body..after],
            ..request
        })
    }

    /// Reads a body into a separate buffer, without copying it again.
    fn read_upload(&mut self, body: usize, head: &Request<'_>) -> io::Result<Vec<u8>> {
        let here = head.length.min(self.end - body);
        let mut upload = Vec::new();
        upload.reserve_exact(head.length);
        upload.extend_from_slice(&self.buffer[body..body + here]);
        self.start = body + here;
        if here < head.length {
            if head.expects_continue && here == 0 {
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let left = (head.length - here) as u64;
            (&mut self.stream).take(left).read_to_end(&mut upload)?;
            if upload.len() < head.length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(upload)
    }

    fn read_some(&mut self) -> io::Result<()> {
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets the previous request, but keeps the bytes after it.
    fn tidy(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() > KEPT_SIZE && self.end <= FIRST_SIZE {
            self.buffer.truncate(FIRST_SIZE);
            self.buffer.shrink_to_fit();
        }
    }
}

/// The length of a head, and its request; `None` while it is incomplete.
fn parse_head(
    bytes: &[u8],
    key: Option<&str>,
) -> Result<Option<(usize, Request<'static>)>, Refusal> {
    let mut space = [FieldSpan::default(); MOST_HEADERS];
    let (head, size) = match http_net::parse_request_head(bytes, &LIMITS, &mut space) {
        Ok(Parsed::Complete { head, len }) => (head, len),
        Ok(_) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let head = head.view();
    let read = |(name, value): (&str, &[u8])| {
        let value = String::from_utf8_lossy(value.trim_ascii());
        (name.to_ascii_lowercase(), value.into_owned())
    };
    let headers: Vec<_> = head.headers().map(read).collect();
    let (path, query) = (head.path(), head.query().unwrap_or_default());
    let is_version = |pair: &&str| pair.starts_with("api-version=");
    let deployed = query.split('&').find(is_version).and(deployed(path));
    let versioned = deployed.is_some();
    let (path, groq) = match deployed {
        Some(path) => (Cow::Owned(path), false),
        None => below_v1(path),
    };
    let pairs = query
        .split('&')
        .filter(|pair| !(versioned && is_version(pair)));
    let query = pairs.collect::<Vec<_>>().join("&");
    let method = method(head.method_str());
    let target = target(&path, &query);
    let limit = match &target {
        Target::Batch(address) => batch::body_limit(&address.path),
        _ => BODY_LIMIT,
    };
    let length = match head.content_length() {
        _ if head.framing() == BodyFraming::Chunked => return Err(Refusal::LengthRequired),
        None if method == Method::Post => return Err(Refusal::LengthRequired),
        length => length.unwrap_or(0),
    };
    if length > limit as u64 {
        return Err(Refusal::BodyTooLarge);
    }
    let request = Request {
        method,
        target,
        groq,
        versioned,
        key_in_url: query.split('&').any(|pair| pair.starts_with("key=")),
        credentials: credentials(&headers, key),
        version: match find(&headers, "anthropic-version") {
            None => Version::Absent,
            Some("2023-06-01") => Version::Old,
            Some("2026-10-21") => Version::New,
            Some(_) => Version::Other,
        },
        close: !head.keep_alive(),
        expects_continue: head.expects_continue(),
        length: length as usize,
        headers,
        body: &[],
        upload: Vec::new(),
    };
    Ok(Some((size, request)))
}

/// The last header of a name.
pub(super) fn find<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    let mut headers = headers.iter().rev();
    let found = headers.find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

fn credentials(headers: &[(String, String)], key: Option<&str>) -> Credentials {
    let header = |name| find(headers, name).map_or(Shown::Nothing, |value| shown(value, key));
    Credentials {
        bearer: find(headers, "authorization").map_or(Shown::Nothing, |value| {
            shown(bearer(value).unwrap_or_default(), key)
        }),
        x_api_key: header("x-api-key"),
        x_goog_api_key: header("x-goog-api-key"),
        api_key: header("api-key"),
    }
}

/// The path in OpenAI's format, for a path of Azure that names a deployment, or that is for files or batches.
fn deployed(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/openai/")?;
    if let Some(named) = rest.strip_prefix("deployments/") {
        let (name, call) = named.split_once('/')?;
        return (!name.is_empty()).then(|| format!("/v1/{call}"));
    }
    let kept = ["files", "batches"].into_iter().any(|kept| {
        let below = rest.strip_prefix(kept);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    });
    kept.then(|| format!("/v1/{rest}"))
}

/// The path in OpenAI's format, and whether it was at Groq's place. Paths of DeepInfra are below `/v1/openai`, of
/// OpenRouter below `/api/v1`, and of Fireworks below `/inference/v1`.
fn below_v1(path: &str) -> (Cow<'_, str>, bool) {
    if let Some(rest) = path.strip_prefix("/v1/openai/") {
        return (Cow::Owned(format!("/v1/{rest}")), false);
    }
    for prefix in ["/openai", "/api", "/inference"] {
        if let Some(rest) = path.strip_prefix(prefix)
            && rest.starts_with("/v1/")
        {
            return (Cow::Borrowed(rest), prefix == "/openai");
        }
    }
    (Cow::Borrowed(path), false)
}

fn shown(value: &str, key: Option<&str>) -> Shown {
    match key {
        Some(key) if value != key => Shown::Wrong,
        None if value.is_empty() => Shown::Wrong,
        _ => Shown::Right,
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case("bearer ")
        .then_some(token.trim())
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    }
}

fn target(path: &str, query: &str) -> Target {
    match path {
        "/v1/chat/completions" => Target::Call(Endpoint::Chat),
        "/v1/messages" => Target::Call(Endpoint::Messages),
        "/v1/embeddings" => Target::Call(Endpoint::Embeddings),
        "/v1/audio/speech" => Target::Call(Endpoint::Speech),
        "/v1/models" => Target::Models,
        "/v1beta/models" => Target::GeminiModels,
        "/health" | "/v1/health" => Target::Health,
        "/props" => Target::Props,
        "/_sim/stats" => Target::Stats,
        "/_sim/batches" => Target::BatchStats,
        path if batch::owns(path) => Target::Batch(Address {
            path: path.to_owned(),
            query: query.to_owned(),
        }),
        other => gemini(other).unwrap_or_else(|| Target::Other(other.to_owned())),
    }
}

/// `/v1beta/models/NAME:VERB`.
fn gemini(path: &str) -> Option<Target> {
    let (model, verb) = path.strip_prefix("/v1beta/models/")?.rsplit_once(':')?;
    let endpoint = match verb {
        "generateContent" => Endpoint::Generate(model.to_owned()),
        "batchEmbedContents" => Endpoint::BatchEmbed(model.to_owned()),
        _ => return None,
    };
    Some(Target::Call(endpoint))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
