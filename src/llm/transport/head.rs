//! The heads of requests and replies, that is, all bytes before the body.

use std::borrow::Cow;
use std::io::{self, Read};

use super::body_length::BodyLength;
use super::fault::Fault;
use super::headers::{Field, HttpHeaders, has_word, is_name, is_value};
use super::input::Input;
use super::target::Target;

/// A head that does not end within these bytes ends its call.
pub(super) const ENDLESS: usize = 1024 * 1024;
/// Number of header lines that need no allocation.
const USUAL_LINES: usize = 64;

/// The first byte of an alert (RFC 8446, section 5.1).
const TLS_ALERT: u8 = 0x15;

const PROTOCOL: &[u8] = b"HTTP/1.";
const NO_REPLY: &str = "the server closed it without a reply";

/// The value of the `User-Agent` header.
pub(super) const USER_AGENT: &str = concat!("batchwright/", env!("CARGO_PKG_VERSION"));

/// Appends the head of a request; with a `login`, which may be empty, that of one to a proxy.
pub(super) fn write_request(
    head: &mut Vec<u8>,
    method: &str,
    target: &Target,
    login: Option<&str>,
    headers: &[(Cow<'static, str>, String)],
    length: Option<u64>,
) -> Result<(), Fault> {
    let line = |head: &mut Vec<u8>, name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
    };
    // A proxy gets the whole address (RFC 9112, section 3.2.2).
    let server = login.map_or_else(String::new, |_| format!("http://{}", target.authority));
    let login = login.unwrap_or_default();
    for part in [method, " ", &server, &target.path, " HTTP/1.1\r\n", login] {
        head.extend_from_slice(part.as_bytes());
    }
    let is_given = |own: &str| {
        headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(own))
    };
    for (name, value) in [
        ("host", &*target.authority),
        ("user-agent", USER_AGENT),
        ("accept", "*/*"),
        ("accept-encoding", "identity"),
    ] {
        if !is_given(name) {
            line(head, name, value);
        }
    }
    if let Some(basic) = &target.basic
        && !is_given("authorization")
    {
        line(head, "authorization", basic);
    }
    for (name, value) in headers {
        if !is_name(name.as_bytes()) || !is_value(value.as_bytes()) {
            return Err(Fault::BadRequest);
        }
        line(head, name, value);
    }
    if let Some(length) = length {
        line(head, "content-length", &length.to_string());
    }
    head.extend_from_slice(b"\r\n");
    Ok(())
}

/// The head of a reply.
pub(super) struct Head {
    pub status: u16,
    pub headers: HttpHeaders,
    pub body: BodyLength,
    /// The server keeps the connection open.
    pub keeps: bool,
}

impl Head {
    /// Reads the next head, whatever its status. `answered` learns that there were bytes.
    pub fn read(
        input: &mut Input,
        from: &mut impl Read,
        answered: &mut bool,
    ) -> Result<Self, Fault> {
        let mut searched = 0;
        loop {
            let unread = input.unread();
            // Old servers send an additional line end after a body.
            let rest = unread.iter().take_while(|byte| b"\r\n".contains(byte));
            let rest = rest.count();
            input.consume(rest);
            let unread = input.unread();
            if !unread.starts_with(&PROTOCOL[..unread.len().min(PROTOCOL.len())]) {
                return Err(match unread {
                    [TLS_ALERT, ..] => Fault::Tls,
                    _ => Fault::BadReply("it is not HTTP/1.1"),
                });
            }
            if let Some(end) = end_of_head(&unread[searched..]) {
                let end = searched + end;
                let head = Self::parse(&unread[..end])?;
                input.consume(end);
                return Ok(head);
            }
            if unread.len() > ENDLESS {
                return Err(Fault::EndlessHead);
            }
            // The empty line may have begun.
            searched = unread.len().saturating_sub(2);
            if input.fill(from)? == 0 {
                return Err(if *answered {
                    Fault::cut()
                } else {
                    io::Error::new(io::ErrorKind::UnexpectedEof, NO_REPLY).into()
                });
            }
            *answered = true;
        }
    }

    /// Reads a head that is complete.
    fn parse(head: &[u8]) -> Result<Self, Fault> {
        let lines = memchr::memchr_iter(b'\n', head).count();
        if lines <= USUAL_LINES {
            return Self::parse_into(head, &mut [httparse::EMPTY_HEADER; USUAL_LINES]);
        }
        Self::parse_into(head, &mut vec![httparse::EMPTY_HEADER; lines])
    }

    fn parse_into<'h>(head: &'h [u8], fields: &mut [httparse::Header<'h>]) -> Result<Self, Fault> {
        let mut reply = httparse::Response::new(fields);
        let read = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_multiple_spaces_in_response_status_delimiters(true)
            .ignore_invalid_headers_in_responses(true)
            .parse_response(&mut reply, head);
        if !matches!(read, Ok(httparse::Status::Complete(_))) {
            return Err(Fault::BadReply("its head is not valid HTTP"));
        }
        let status = reply.code.unwrap_or_default();
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - head.as_ptr().addr();
            start..start + part.len()
        };
        let fields = reply.headers.iter();
        let fields = fields.map(|field| Field {
            name: place(field.name.as_bytes()),
            value: place(field.value),
        });
        let fields = fields.collect();
        let body = BodyLength::of(status, reply.headers)?;
        let keeps = keeps(reply.version == Some(1), reply.headers);
        Ok(Self {
            status,
            headers: HttpHeaders::new(head.to_vec(), fields),
            body,
            keeps: keeps && body != BodyLength::UntilClose,
        })
    }

    /// Another head follows.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// The position after the empty line that ends a head.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Whether the connection is kept after the reply (RFC 9112, section 9.3).
fn keeps(is_1_1: bool, fields: &[httparse::Header<'_>]) -> bool {
    let says = |word: &str| {
        let fields = fields.iter();
        let mut connection = fields.filter(|field| field.name.eq_ignore_ascii_case("connection"));
        connection.any(|field| has_word(field.value, word))
    };
    !says("close") && (is_1_1 || says("keep-alive"))
}
