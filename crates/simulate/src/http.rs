//! Reading requests off a connection: heads by httparse, bodies by Content-Length, into one buffer
//! that is reused from request to request. What a request means is left to `serve`.

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
    Messages,
    Generate(String),
    Embeddings,
    BatchEmbed(String),
}

/// The key in each of the headers that can have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) bearer: Shown,
    pub(super) x_api_key: Shown,
    pub(super) x_goog_api_key: Shown,
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
    let (path, groq) = match path.strip_prefix("/openai") {
        Some(path) if path.starts_with("/v1/") => (path, true),
        _ => (path, false),
    };
    let mut head = Head {
        size,
        method: method(parsed.method.unwrap_or_default()),
        target: target(path, query),
        groq,
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
        "/v1/messages" => Target::Call(Endpoint::Messages),
        "/v1/embeddings" => Target::Call(Endpoint::Embeddings),
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
mod tests {
    use super::*;

    /// Hands out its bytes in pieces of a fixed size and remembers what was written.
    struct Wire<'a> {
        input: &'a [u8],
        piece: usize,
        output: Vec<u8>,
    }

    impl Read for Wire<'_> {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let size = self.piece.min(space.len()).min(self.input.len());
            let (now, later) = self.input.split_at(size);
            space[..size].copy_from_slice(now);
            self.input = later;
            Ok(size)
        }
    }

    impl Write for Wire<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reader<'a>(input: &'a [u8], piece: usize, key: Option<&str>) -> Reader<Wire<'a>> {
        let wire = Wire {
            input,
            piece,
            output: Vec::new(),
        };
        Reader::new(wire, key.map(str::to_owned))
    }

    const TWO: &[u8] = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\
        GET /health HTTP/1.1\r\nConnection: close\r\n\r\n";

    #[test]
    fn requests_arrive_whole_however_they_are_cut() {
        for piece in 1..TWO.len() {
            let mut reader = reader(TWO, piece, None);
            let first = reader.next().unwrap();
            let chat = Target::Call(Endpoint::Chat);
            assert_eq!((first.method, first.target), (Method::Post, chat));
            assert_eq!((first.body, first.close), (&b"hello"[..], false));
            let second = reader.next().unwrap();
            assert_eq!(
                (second.method, second.target),
                (Method::Get, Target::Health)
            );
            assert!(second.close && second.body.is_empty());
            assert!(matches!(reader.next(), Err(Refusal::Closed)));
        }
    }

    #[test]
    fn a_large_body_is_read_and_its_buffer_given_back() {
        let size = 3 << 20;
        let mut input = format!("POST / HTTP/1.1\r\ncontent-length: {size}\r\n\r\n").into_bytes();
        input.resize(input.len() + size, b'x');
        input.extend_from_slice(TWO);
        let mut reader = reader(&input, 70_000, None);
        assert_eq!(reader.next().unwrap().body.len(), size);
        assert_eq!(reader.next().unwrap().body, b"hello");
        assert!(reader.next().is_ok());
        assert!(reader.buffer.capacity() <= KEPT_SIZE);
    }

    #[test]
    fn broken_heads_are_refused() {
        let refusal = |head: &str| reader(head.as_bytes(), 1_000, None).next().unwrap_err();
        let post = "POST /v1/chat/completions HTTP/1.1\r\n";
        assert!(matches!(refusal("what?\r\n\r\n"), Refusal::BadHead));
        assert!(matches!(
            refusal(&format!("{post}\r\n")),
            Refusal::LengthRequired
        ));
        assert!(matches!(
            refusal(&format!("{post}Transfer-Encoding: chunked\r\n\r\n")),
            Refusal::LengthRequired
        ));
        assert!(matches!(
            refusal(&format!("{post}Content-Length: +1\r\n\r\n")),
            Refusal::BadHead
        ));
        assert!(matches!(
            refusal(&format!("{post}Content-Length: 33554433\r\n\r\n")),
            Refusal::BodyTooLarge
        ));
        assert!(matches!(
            refusal(&format!("{post}X: {}", "x".repeat(HEAD_LIMIT))),
            Refusal::HeadTooLarge
        ));
    }

    #[test]
    fn only_the_right_bearer_is_authorized() {
        let cases = [
            ("Authorization: Bearer k1\r\n", Shown::Right),
            ("authorization: bearer k1 \r\n", Shown::Right),
            ("Authorization: Bearer k2\r\n", Shown::Wrong),
            ("Authorization: Basic k1\r\n", Shown::Wrong),
            ("", Shown::Nothing),
        ];
        for (line, wanted) in cases {
            let head = format!("GET /v1/models HTTP/1.1\r\n{line}\r\n");
            let mut reader = reader(head.as_bytes(), 1_000, Some("k1"));
            let request = reader.next().unwrap();
            assert_eq!(request.credentials.bearer, wanted, "{line}");
        }
    }

    #[test]
    fn a_client_that_asks_first_is_told_to_continue() {
        let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
        let mut reader = reader(head, head.len() - 2, None);
        assert_eq!(reader.next().unwrap().body, b"ok");
        assert_eq!(reader.stream.output, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn paths_lead_to_endpoints() {
        let generate = Endpoint::Generate("gemini-x".to_owned());
        let embed = Endpoint::BatchEmbed("e".to_owned());
        let cases = [
            (
                "/openai/v1/chat/completions",
                Target::Call(Endpoint::Chat),
                true,
            ),
            (
                "/openai/v1/embeddings",
                Target::Call(Endpoint::Embeddings),
                true,
            ),
            ("/v1/messages", Target::Call(Endpoint::Messages), false),
            (
                "/v1beta/models/gemini-x:generateContent",
                Target::Call(generate),
                false,
            ),
            (
                "/v1beta/models/e:batchEmbedContents?alt=json",
                Target::Call(embed),
                false,
            ),
            (
                "/v1beta/models/e:sing",
                Target::Other("/v1beta/models/e:sing".to_owned()),
                false,
            ),
            ("/openai", Target::Other("/openai".to_owned()), false),
        ];
        for (path, target, groq) in cases {
            let head = format!("GET {path} HTTP/1.1\r\n\r\n");
            let mut reader = reader(head.as_bytes(), 1_000, None);
            let request = reader.next().unwrap();
            assert_eq!((request.target, request.groq), (target, groq), "{path}");
            assert!(!request.key_in_url);
        }
    }

    #[test]
    fn keys_and_versions_are_found_wherever_they_are() {
        let head = b"GET /v1beta/models?alt=json&key=k1 HTTP/1.1\r\nX-Api-Key: k1\r\n\
            x-goog-api-key: k2\r\nAnthropic-Version: 2026-10-21\r\n\r\n";
        let mut reader = reader(head, 1_000, Some("k1"));
        let request = reader.next().unwrap();
        let wanted = Credentials {
            bearer: Shown::Nothing,
            x_api_key: Shown::Right,
            x_goog_api_key: Shown::Wrong,
        };
        assert_eq!(request.credentials, wanted);
        assert_eq!((request.version, request.key_in_url), (Version::New, true));
    }
}
