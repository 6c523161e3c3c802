//! Reads requests from a connection: `http-net` parses the heads, as it does for the server. `serve` decides what a
//! request means.

use std::io::{self, ErrorKind, Read};

use http_net::{BodyFraming, FieldSpan, HttpError, Limits, Parsed};

use super::batch;

/// The maximum length of a body that is not for files or batches, in bytes.
const BODY_LIMIT: usize = 32 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const MOST_HEADERS: usize = 64;
const LIMITS: Limits = Limits::new()
    .with_max_start_line(HEAD_LIMIT)
    .with_max_header_bytes(HEAD_LIMIT)
    .with_max_headers(MOST_HEADERS)
    .with_max_body(u64::MAX);

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// The path in OpenAI's format, wherever a vendor has it.
    pub(super) path: String,
    /// Without Azure's version.
    pub(super) query: String,
    /// Whether the path is below `/openai`, as at Groq.
    pub(super) groq: bool,
    /// Whether it is an address of Azure with a version of the API.
    pub(super) versioned: bool,
    /// Whether the client wants the connection closed after the reply.
    pub(super) close: bool,
    pub(super) body: Vec<u8>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Request {
    /// The last header of a name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter().rev();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The token of the header `authorization`; empty if that has something else.
    pub(super) fn bearer(&self) -> Option<&str> {
        let token = |value: &'_ str| {
            let (scheme, _) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case("bearer ").then_some(7)
        };
        let value = self.header("authorization")?;
        Some(token(value).map_or("", |start| value[start..].trim()))
    }
}

/// Why a request cannot be read.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// The connection ended, or was silent for too long.
    Closed,
    /// The client speaks TLS.
    Handshake,
    /// The status and the message of the reply.
    Told(u16, &'static str),
}

const TOO_LARGE_HEAD: Refusal = Refusal::Told(431, "The request's head is too large.");

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Refusal {
        match error {
            HttpError::StartLineTooLong
            | HttpError::HeadersTooLarge
            | HttpError::TooManyHeaders
            | HttpError::FieldLineTooLong => TOO_LARGE_HEAD,
            _ => Refusal::Told(400, "The request's head cannot be read."),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Refusal {
        Refusal::Closed
    }
}

/// A request without its body, the bytes of its head, and those of its body.
type Head = (Request, usize, usize);

/// The first byte of a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads requests from `stream`, one after the other.
pub(super) struct Reader<S> {
    stream: S,
    /// Received bytes of the next request.
    buffer: Vec<u8>,
}

impl<S: Read> Reader<S> {
    pub(super) fn new(stream: S) -> Reader<S> {
        let buffer = Vec::new();
        Reader { stream, buffer }
    }

    /// Waits for the next request and reads all of it.
    pub(super) fn next(&mut self) -> Result<Request, Refusal> {
        loop {
            if self.buffer.first() == Some(&TLS_HANDSHAKE) {
                return Err(Refusal::Handshake);
            }
            if let Some((request, size, length)) = parse(&self.buffer)? {
                let body = self.body(size, length)?;
                return Ok(Request { body, ..request });
            }
            if self.buffer.len() >= HEAD_LIMIT {
                return Err(TOO_LARGE_HEAD);
            }
            let mut space = [0; 8 << 10];
            match self.stream.read(&mut space) {
                Ok(0) => return Err(Refusal::Closed),
                Ok(read) => self.buffer.extend_from_slice(&space[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn body(&mut self, size: usize, length: usize) -> io::Result<Vec<u8>> {
        self.buffer.drain(..size);
        let here = length.min(self.buffer.len());
        let mut body = Vec::with_capacity(length);
        body.extend(self.buffer.drain(..here));
        if here == length {
            return Ok(body);
        }
        let left = (length - here) as u64;
        (&mut self.stream).take(left).read_to_end(&mut body)?;
        if body.len() < length {
            Err(ErrorKind::UnexpectedEof.into())
        } else {
            Ok(body)
        }
    }
}

/// The head at the beginning of these bytes; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut space = [FieldSpan::default(); MOST_HEADERS];
    let (head, size) = match http_net::parse_request_head(bytes, &LIMITS, &mut space)? {
        Parsed::Complete { head, len } => (head, len),
        _ => return Ok(None),
    };
    let head = head.view();
    let length = match head.content_length() {
        None if head.framing() == BodyFraming::Chunked || head.method_str() == "POST" => {
            return Err(Refusal::Told(411, "A Content-Length header is required."));
        }
        length => length.unwrap_or(0) as usize,
    };
    let header = |(name, value): (&str, &[u8])| {
        let value = String::from_utf8_lossy(value.trim_ascii());
        (name.to_ascii_lowercase(), value.into_owned())
    };
    let query = head.query().unwrap_or_default();
    let (versions, pairs): (Vec<_>, Vec<_>) = query
        .split('&')
        .partition(|pair| pair.starts_with("api-version="));
    let deployed = deployed(head.path()).filter(|_| !versions.is_empty());
    let request = Request {
        method: head.method_str().to_owned(),
        groq: deployed.is_none() && head.path().starts_with("/openai/v1/"),
        versioned: deployed.is_some(),
        query: pairs.join("&"),
        path: deployed.unwrap_or_else(|| below_v1(head.path())),
        close: !head.keep_alive(),
        body: Vec::new(),
        headers: head.headers().map(header).collect(),
    };
    let limit = if length > BODY_LIMIT && batch::owns(&request.path) {
        batch::LARGEST_BODY
    } else {
        BODY_LIMIT
    };
    if length > limit {
        return Err(Refusal::Told(413, "The request's body is too large."));
    }
    Ok(Some((request, size, length)))
}

/// The path in OpenAI's format, for a path of Azure that names a deployment, or that is for files or batches.
fn deployed(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/openai/")?;
    let call = match rest.strip_prefix("deployments/") {
        Some(named) => {
            named
                .split_once('/')
                .filter(|(name, _)| !name.is_empty())?
                .1
        }
        None => rest,
    };
    let kept = call != rest || rest.starts_with("files") || rest.starts_with("batches");
    kept.then(|| format!("/v1/{call}"))
}

/// The path in OpenAI's format: those of DeepInfra are below `/v1/openai`, of Groq below `/openai/v1`, of OpenRouter
/// below `/api/v1`, and of Fireworks below `/inference/v1`.
fn below_v1(path: &str) -> String {
    for prefix in ["/v1/openai/", "/openai/v1/", "/api/v1/", "/inference/v1/"] {
        if let Some(rest) = path.strip_prefix(prefix) {
            return format!("/v1/{rest}");
        }
    }
    path.to_owned()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
