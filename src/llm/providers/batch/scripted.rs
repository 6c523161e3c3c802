//! A provider for tests: it expects certain exchanges, in their order, and answers as it is told.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::base::cancel::Context;
use crate::base::clock::Wall;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::secret::Secret;
use crate::llm::batch::{BatchInput, BatchIntent};
use crate::llm::providers::config::LlmConfig;
use crate::llm::transport::{HttpReply, HttpRequest, Method, Transfer, Transport};

use super::BatchApi;

pub(super) const KEY: &str = "sk-scripted-0123456789";

#[derive(Default)]
pub(super) struct Scripted(Mutex<Script>);

#[derive(Default)]
struct Script {
    expected: VecDeque<(String, HttpReply)>,
    seen: Vec<Seen>,
}

/// What the provider was sent.
pub(super) struct Seen {
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| *own == name);
        values.next().map(|(_, value)| &**value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Scripted {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The Batch API of a vendor at `http://h`, for the model `m`.
    pub fn api(self: &Arc<Self>, provider: &str) -> BatchApi {
        let config = LlmConfig::new(provider).model("m").base_url("http://h");
        let config = config.api_key(Secret::new(KEY));
        config
            .batch_client_with(&|_| None, Some(self.clone()))
            .unwrap()
    }

    /// The next exchange: its method and URL, and what it is answered with.
    pub fn on(self: &Arc<Self>, call: &str, status: u16, body: impl ToString) -> &Arc<Self> {
        self.on_with(call, status, &[], body)
    }

    pub fn on_with(
        self: &Arc<Self>,
        call: &str,
        status: u16,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> &Arc<Self> {
        let reply = HttpReply {
            status,
            headers: headers.iter().copied().collect(),
            body: body.to_string().into_bytes(),
        };
        self.0.lock().expected.push_back((call.to_owned(), reply));
        self
    }

    /// What was sent since the last look. All that was expected must have come.
    pub fn seen(&self) -> Vec<Seen> {
        let mut script = self.0.lock();
        let left: Vec<_> = script.expected.iter().map(|(call, _)| call).collect();
        assert!(left.is_empty(), "these calls were not made: {left:?}");
        std::mem::take(&mut script.seen)
    }
}

impl Transport for Scripted {
    fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        panic!("a batch's calls stream: {request:?}");
    }

    fn transfer(&self, transfer: Transfer<'_>, _: &Context) -> Result<HttpReply, Error> {
        let mut script = self.0.lock();
        let method = match transfer.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        };
        let call = format!("{method} {}", transfer.url);
        let (expected, mut reply) = script
            .expected
            .pop_front()
            .unwrap_or_else(|| panic!("not expected: {call}"));
        assert_eq!(call, expected);
        let mut body = Vec::new();
        if let Some((reader, length)) = transfer.body {
            reader.read_to_end(&mut body).unwrap();
            assert_eq!(body.len() as u64, length, "{call}");
        }
        script.seen.push(Seen {
            headers: transfer.headers.to_vec(),
            body,
        });
        if let (Some(sink), 200..300) = (transfer.into, reply.status) {
            for piece in std::mem::take(&mut reply.body).chunks(5) {
                sink.write_all(piece).map_err(|error| {
                    Error::new(ErrorKind::Invalid, error.to_string()).with_sent(Sent::Maybe)
                })?;
            }
        }
        Ok(reply)
    }
}

/// Lines in memory.
pub(super) struct Lines(pub &'static [u8]);

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(self.0))
    }
}

/// Of the batch `r7-p3`, begun at 2026-11-20T05:00:00Z.
pub(super) fn intent(items: u64, lines: &Lines) -> BatchIntent {
    BatchIntent {
        label: "r7-p3".to_owned(),
        model: Some("m".to_owned()),
        items,
        bytes: lines.0.len() as u64,
        begun: Wall(1_795_150_800_000),
    }
}
