//! Reading requests off a connection: heads by httparse, bodies by Content-Length, into one buffer
//! that is reused from request to request. What a request means is left to `serve`.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use super::batch;

/// The largest body that is read, in bytes.
pub(super) const BODY_LIMIT: usize = 32 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const FIRST_SIZE: usize = 8 << 10;
/// A buffer that has grown beyond this is given back after the request that needed it.
const KEPT_SIZE: usize = 256 << 10;

/// One request; the body lies in the reader's buffer.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    /// Whether the path is below `/openai`, where Groq has it.
    pub(super) groq: bool,
    /// Whether it is an address as Azure has it, with a version of the API behind it.
    pub(super) versioned: bool,
    /// Whether the address carries a key.
    pub(super) key_in_url: bool,
    pub(super) credentials: Credentials,
    pub(super) version: Version,
    /// Whether the client wants the connection closed after the reply.
    pub(super) close: bool,
    pub(super) body: &'a [u8],
    /// The body of a request for files or batches instead: it may be large, and is kept.
    pub(super) upload: Vec<u8>,
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

/// What a request for files or batches says in its head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
}

/// Where calls go to; with the model, where that is part of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Responses,
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

/// What a header has for a key. Where none in particular is asked for, any but an empty one is right.
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

/// Why there is no request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The connection ended or stayed silent too long.
    Closed,
    /// The head cannot be understood.
    BadHead,
    HeadTooLarge,
    /// A body without Content-Length.
    LengthRequired,
    BodyTooLarge,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Refusal {
        Refusal::Closed
    }
}

struct Head {
    size: usize,
    method: Method,
    target: Target,
    groq: bool,
    versioned: bool,
    key_in_url: bool,
    credentials: Credentials,
    version: Version,
    close: bool,
    expects_continue: bool,
    length: usize,
}

impl Head {
    fn request(self, body: &[u8], upload: Vec<u8>) -> Request<'_> {
        Request {
            method: self.method,
            target: self.target,
            groq: self.groq,
            versioned: self.versioned,
            key_in_url: self.key_in_url,
            credentials: self.credentials,
            version: self.version,
            close: self.close,
            body,
            upload,
        }
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
    /// The right key is `key`; without one, any is.
    pub(super) fn new(stream: S, key: Option<String>) -> Reader<S> {
        Reader {
            stream,
            key,
            buffer: vec![0; FIRST_SIZE],
            start: 0,
            end: 0,
        }
    }

    /// Waits for the next request and reads it whole.
    pub(super) fn next(&mut self) -> Result<Request<'_>, Refusal> {
        self.tidy();
        let head = loop {
            if self.end > self.start {
                let bytes = &self.buffer[self.start..self.end];
                if let Some(head) = parse_head(bytes, self.key.as_deref())? {
                    break head;
                }
                if bytes.len() >= HEAD_LIMIT {
                    return Err(Refusal::HeadTooLarge);
                }
            }
            self.read_some()?;
        };
        let body = self.start + head.size;
        if let Target::Batch(_) = head.target {
            let upload = self.read_upload(body, &head)?;
            return Ok(head.request(&[], upload));
        }
        let after = body + head.length;
        if self.end < after {
            if head.expects_continue && self.end == body {
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
        Ok(head.request(&self.buffer[body..after], Vec::new()))
    }

    /// Reads a body into memory of its own, once.
    fn read_upload(&mut self, body: usize, head: &Head) -> io::Result<Vec<u8>> {
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

    /// Forgets the previous request, keeping what was sent behind it.
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

fn parse_head(bytes: &[u8], key: Option<&str>) -> Result<Option<Head>, Refusal> {
    let mut space = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut space);
    let size = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::BadHead),
    };
    let address = parsed.path.unwrap_or_default();
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let version = query
        .split('&')
        .find(|pair| pair.starts_with("api-version="));
    let deployed = version.and_then(|_| deployed(path));
    let versioned = deployed.is_some();
    let (path, groq) = match deployed {
        Some(path) => (Cow::Owned(path), false),
        None => below_v1(path),
    };
    let unversioned: String;
    let query = if versioned {
        let rest = query.split('&').filter(|pair| Some(*pair) != version);
        unversioned = rest.collect::<Vec<_>>().join("&");
        &unversioned
    } else {
        query
    };
    let mut head = Head {
        size,
        method: method(parsed.method.unwrap_or_default()),
        target: target(&path, query),
        groq,
        versioned,
        key_in_url: query.split('&').any(|pair| pair.starts_with("key=")),
        credentials: Credentials::default(),
        version: Version::Absent,
        close: parsed.version == Some(0),
        expects_continue: false,
        length: 0,
    };
    let mut length = None;
    for header in parsed.headers.iter() {
        let (name, value) = (header.name, header.value.trim_ascii());
        if let Target::Batch(address) = &mut head.target {
            let value = String::from_utf8_lossy(value).into_owned();
            address.headers.push((name.to_ascii_lowercase(), value));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let read = std::str::from_utf8(value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<usize>().ok())
                .ok_or(Refusal::BadHead)?;
            if length.is_some_and(|length| length != read) {
                return Err(Refusal::BadHead);
            }
            length = Some(read);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Refusal::LengthRequired);
        } else if name.eq_ignore_ascii_case("authorization") {
            head.credentials.bearer = shown(bearer(value).unwrap_or_default(), key);
        } else if name.eq_ignore_ascii_case("x-api-key") {
            head.credentials.x_api_key = shown(value, key);
        } else if name.eq_ignore_ascii_case("api-key") {
            head.credentials.api_key = shown(value, key);
        } else if name.eq_ignore_ascii_case("x-goog-api-key") {
            head.credentials.x_goog_api_key = shown(value, key);
        } else if name.eq_ignore_ascii_case("anthropic-version") {
            head.version = match value {
                b"2023-06-01" => Version::Old,
                b"2026-10-21" => Version::New,
                _ => Version::Other,
            };
        } else if name.eq_ignore_ascii_case("connection") {
            for token in value.split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                if token.eq_ignore_ascii_case(b"close") {
                    head.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    head.close = false;
                }
            }
        } else if name.eq_ignore_ascii_case("expect") {
            head.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
        }
    }
    let limit = match &head.target {
        Target::Batch(address) => batch::body_limit(&address.path),
        _ => BODY_LIMIT,
    };
    head.length = match length {
        Some(length) if length > limit => return Err(Refusal::BodyTooLarge),
        Some(length) => length,
        None if head.method == Method::Post => return Err(Refusal::LengthRequired),
        None => 0,
    };
    Ok(Some(head))
}

/// A path as OpenAI has it, of one that names a deployment of Azure, or what Azure keeps beside them.
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

/// A path as OpenAI has it, and whether it stood where Groq has it. DeepInfra's stand below
/// `/v1/openai`, OpenRouter's below `/api/v1`, and Fireworks' below `/inference/v1`.
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

fn shown(value: &[u8], key: Option<&str>) -> Shown {
    match key {
        Some(key) if value != key.as_bytes() => Shown::Wrong,
        None if value.is_empty() => Shown::Wrong,
        _ => Shown::Right,
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(token.trim_ascii())
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
        "/v1/responses" => Target::Call(Endpoint::Responses),
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
            headers: Vec::new(),
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
