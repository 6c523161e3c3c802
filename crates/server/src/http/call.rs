//! A request as a handler sees it, and its response.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright::unstable::UniqueJson;
use http_net::RequestHead;
use parking_lot::{Condvar, Mutex};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::Problem;

/// Maximum size of a JSON body in bytes: far above any job.
const JSON_BYTES: u64 = 8 << 20;
/// Bodies up to this length need no permit.
const SMALL: u64 = 1 << 20;
/// Permits, and how long a request waits for one.
const PERMITS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest `x-request-id` of a client that is used, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// A request without its body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    /// In capitals.
    pub method: String,
    /// As received, without the query.
    pub path: String,
    /// Decoded, in their order.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// True where a body may follow.
    pub has_body: bool,
    /// Its length, if reported.
    pub(super) length: Option<u64>,
    /// True if the target is a path.
    pub has_path: bool,
    /// The `x-request-id` of the response: the client's, or a new one.
    pub request_id: String,
}

impl Head {
    pub(super) fn of(head: &RequestHead<'_>) -> Self {
        let target = head.target();
        let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
        let headers = head.headers();
        let headers = headers.map(|(name, value)| {
            let value = String::from_utf8_lossy(value).into_owned();
            (name.to_ascii_lowercase(), value)
        });
        let this = Self {
            method: head.method_str().to_owned(),
            path: path.to_owned(),
            query: query(parameters),
            headers: headers.collect(),
            length: head.content_length(),
            has_path: path.starts_with('/'),
            has_body: head.content_length() != Some(0)
                && !matches!(head.framing(), http_net::BodyFraming::None),
            request_id: String::new(),
        };
        let sent = this.header("x-request-id");
        let sent = sent.filter(|id| id.len() <= LONGEST_REQUEST_ID && is_visible(id));
        let request_id = sent.map_or_else(new_request_id, str::to_owned);
        Self { request_id, ..this }
    }

    /// The headers of this name, which is in lower case.
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(n, _)| n == name);
        named.map(|(_, value)| value.as_str())
    }

    /// How many headers have this name, which is in lower case.
    pub fn count(&self, name: &str) -> usize {
        self.all(name).count()
    }

    /// The first header of this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Whether the client waits for `100 Continue` before it sends its body.
    ///
    /// # Errors
    /// 417 when it expects something else, which nobody here knows of.
    pub(super) fn waits_to_be_asked(&self) -> Result<bool, Problem> {
        let known = |expected: &str| expected.eq_ignore_ascii_case("100-continue");
        match self.all("expect").find(|expected| !known(expected)) {
            None => Ok(self.header("expect").is_some()),
            Some(other) => {
                let why = format!("only 100-continue is supported, not {other:?}");
                Err(Problem::new(417, "expectation_failed", why))
            }
        }
    }
}

/// The body of a request, as it arrives. An error of it is a [`Problem`] inside.
pub(crate) trait Incoming: Read {
    /// Takes the permit that a large body needs, unless it has it; waits for a while.
    ///
    /// # Errors
    /// 503 when there is none in time.
    fn take_permit(&mut self) -> Result<(), Problem>;

    /// Nothing of the body is in memory any more.
    fn release(&mut self);
}

/// Permits for large JSON bodies, which are in memory as a whole with what is parsed from them: only a few at once.
#[derive(Default)]
pub(super) struct Permits {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Permits {
    /// Takes a permit; waits for one.
    ///
    /// # Errors
    /// 503 when none is free in time.
    pub fn take(&self) -> Result<Permit<'_>, Problem> {
        let mut taken = self.taken.lock();
        let full = |taken: &mut usize| *taken == PERMITS;
        let waited = self.freed.wait_while_for(&mut taken, full, PATIENCE);
        if waited.timed_out() {
            let why = format!(
                "{PERMITS} other requests with large bodies are being received: send this one again later"
            );
            return Err(Problem::new(503, "busy", why).header("retry-after", "2"));
        }
        *taken += 1;
        Ok(Permit(self))
    }
}

/// A permit, returned when it is dropped.
pub(super) struct Permit<'p>(&'p Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.freed.notify_one();
    }
}

/// A request that a handler processes.
pub(crate) struct Call<'c> {
    /// The request without its body.
    pub head: Head,
    /// The values of the names in the route's pattern, decoded.
    pub params: Vec<(&'static str, String)>,
    /// Its body.
    pub body: &'c mut dyn Incoming,
    /// The connection of the response.
    pub(super) client: &'c TcpStream,
}

impl Call<'_> {
    /// True if the client has closed the connection; for handlers that wait.
    pub fn is_gone(&self) -> bool {
        let peek = || {
            self.client.set_nonblocking(true)?;
            let peeked = self.client.peek(&mut [0]);
            self.client.set_nonblocking(false)?;
            peeked
        };
        match peek() {
            Ok(came) => came == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// The value of this name in the route's pattern.
    ///
    /// # Errors
    /// When it is no such thing: 404, as nothing can have that name.
    pub fn param<T: FromStr>(&self, name: &str) -> Result<T, Problem> {
        let text = self.params.iter().find(|(n, _)| *n == name);
        let text = text.map(|(_, value)| value.as_str()).unwrap_or_default();
        text.parse()
            .map_err(|_| Problem::not_found(format!("unknown {name} {text:?}")))
    }

    /// A parameter of the query, if it is there.
    ///
    /// # Errors
    /// When it is no such thing.
    pub fn query<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some((_, text)) = self.head.query.iter().find(|(n, _)| n == name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                Err(Problem::invalid(format!("{name}: {text:?} is not a valid value")).param(name))
            }
        }
    }

    /// How many items a page has: the query parameter `limit`, from 1 to `most`.
    ///
    /// # Errors
    /// If it is not such a number.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        match self.query("limit")? {
            None => Ok(default),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(_) => {
                let why = format!("limit: write a whole number from 1 to {most}");
                Err(Problem::invalid(why).param("limit"))
            }
        }
    }

    /// Whether the query asks for the oldest items first, with `order=asc`.
    ///
    /// # Errors
    /// If `order` is neither `asc` nor `desc`.
    pub fn is_ascending(&self) -> Result<bool, Problem> {
        match self.query::<String>("order")?.as_deref() {
            None | Some("desc") => Ok(false),
            Some("asc") => Ok(true),
            Some(_) => Err(Problem::invalid("order: write asc or desc").param("order")),
        }
    }

    /// Rejects query parameters other than these, because a misspelled one would be ignored.
    ///
    /// # Errors
    /// When there is another one.
    pub fn takes(&self, names: &[&str]) -> Result<(), Problem> {
        let mut named = self.head.query.iter().map(|(name, _)| name.as_str());
        let Some(other) = named.find(|name| !names.contains(name)) else {
            return Ok(());
        };
        let why = match names {
            [] => "this path has no query parameters".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        };
        let why = format!("unknown parameter {other:?}; {why}");
        Err(Problem::invalid(why).param(other))
    }

    /// The whole body, which has at most this number of bytes.
    ///
    /// # Errors
    /// When it is longer, too slow or cut off, or there is no permit for it.
    pub fn bytes(&mut self, most: u64) -> Result<Vec<u8>, Problem> {
        if self.head.length.is_some_and(|length| length > most) {
            return Err(Problem::too_large(most));
        }
        if self.head.length.is_some_and(|length| length > SMALL) {
            self.body.take_permit()?;
        }
        let mut body = Vec::new();
        (&mut self.body)
            .take(SMALL.min(most) + 1)
            .read_to_end(&mut body)?;
        if body.len() as u64 > SMALL {
            self.body.take_permit()?;
            let rest = most + 1 - body.len() as u64;
            (&mut self.body).take(rest).read_to_end(&mut body)?;
        }
        if body.len() as u64 > most {
            return Err(Problem::too_large(most));
        }
        Ok(body)
    }

    /// The body as a JSON object of at most this number of bytes.
    ///
    /// # Errors
    /// When it is none, with the place; also when a key is there twice, of which one would go unseen.
    pub fn object(&mut self, most: u64) -> Result<Map<String, Value>, Problem> {
        let body = self.bytes(most)?;
        let why = match serde_json::from_slice(&body) {
            Ok(UniqueJson(Value::Object(object))) => return Ok(object),
            Ok(_) => "expected an object".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Problem::invalid(format!(
            "the body is not a JSON object: {why}"
        )))
    }

    /// The body as JSON of this shape.
    ///
    /// # Errors
    /// When it is not, with the place.
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let kind = self
            .head
            .header("content-type")
            .unwrap_or("application/json");
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") && !kind.ends_with("+json") {
            let why = format!("send JSON with content-type: application/json, not {kind:?}");
            return Err(Problem::unsupported_media_type(why));
        }
        let body = self.object(JSON_BYTES)?;
        serde_json::from_value(Value::Object(body))
            .map_err(|error| Problem::invalid(format!("the body is not as expected: {error}")))
    }
}

/// Whether a text is not empty and has only visible characters of ASCII.
pub(crate) fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn new_request_id() -> String {
    format!("req_{}", ProcessId::new().to_string().replace('-', ""))
}

/// The parts of a query, decoded.
fn query(text: &str) -> Vec<(String, String)> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (
                decoded(&name.replace('+', " ")),
                decoded(&value.replace('+', " ")),
            )
        })
        .collect()
}

/// Decodes `%` followed by two hex digits as a byte.
pub(crate) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

type Writes = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// The body of a response.
#[derive(derive_more::Debug)]
pub(crate) enum Body {
    #[debug("Full({} bytes)", _0.len())]
    Full(Cow<'static, [u8]>),
    /// Written while it is generated; each flush sends the written part. An error ends the connection, so that a client
    /// does not take a part for the complete response. Its length, where that is known.
    #[debug("Stream({_0:?})")]
    Stream(Option<u64>, Box<Writes>),
}

impl Response {
    /// An answer in JSON.
    pub fn json(status: u16, value: &(impl Serialize + ?Sized)) -> Self {
        let mut body = serde_json::to_vec(value).expect("what is answered has a form in JSON");
        // So that the prompt of a shell begins on a new line.
        body.push(b'\n');
        Self::full(status, "application/json", body)
    }

    /// An answer that is there as a whole.
    pub fn full(status: u16, kind: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Self {
            status,
            headers: vec![("content-type", kind.to_owned())],
            body: Body::Full(body.into()),
        }
    }

    /// A response that is written while it is generated.
    pub fn stream(
        kind: &'static str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self {
            body: Body::Stream(None, Box::new(write)),
            ..Self::full(200, kind, Vec::new())
        }
    }

    /// A file of this length, read while it is sent.
    pub fn file(mut file: File, length: u64) -> Self {
        let write = move |out: &mut dyn Write| io::copy(&mut file, out).map(drop);
        Self {
            body: Body::Stream(Some(length), Box::new(write)),
            ..Self::full(200, "application/octet-stream", Vec::new())
        }
    }

    /// With one header more.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// True where this header is there already.
    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| *n == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_split_and_decoded() {
        let parts = query("a=1&b=x%20y+z&c&=d&e=%zz");
        let expected = [
            ("a", "1"),
            ("b", "x y z"),
            ("c", ""),
            ("", "d"),
            ("e", "%zz"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parts, expected);
    }
}
