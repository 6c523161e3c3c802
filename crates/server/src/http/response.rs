//! The response to a request.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

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
    Empty,
    #[debug("Full({} bytes)", _0.len())]
    Full(Cow<'static, [u8]>),
    /// Written while it is generated; each flush sends the written part. An error ends the connection, so that a client
    /// does not take a part for the complete response.
    #[debug("Stream")]
    Stream(Box<Writes>),
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Empty,
        }
    }

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
            status: 200,
            headers: vec![("content-type", kind.to_owned())],
            body: Body::Stream(Box::new(write)),
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
