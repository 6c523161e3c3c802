//! A provider that answers from a script, for the tests of the wires.

use std::collections::VecDeque;
use std::io::Read;

use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::base::{Secret, Timestamp};
use crate::llm::providers::config::LlmConfig;
use crate::llm::transport::{HttpReply, HttpRequest, HttpTransfer};

/// The key of every scripted provider.
pub const KEY: &str = "sk-a-key-long-enough-to-be-real";

/// What a scripted provider was asked.
#[derive(Debug, Clone)]
pub struct RecordedCall {
    /// Method and URL after `http://h/v1` or what its base is, such as `GET /batches`.
    pub what: String,
    pub headers: Vec<(std::borrow::Cow<'static, str>, String)>,
    pub body: String,
}

impl RecordedCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(own, _)| *own == name)?;
        Some(value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A reply, and the call that it is for, if only that one may get it.
type Reply = (Option<String>, Result<HttpReply, Error>);

/// Answers each call with the next reply, and keeps what was asked.
#[derive(Default)]
pub struct Script {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<RecordedCall>>,
}

impl Script {
    /// The provider that answers from it.
    pub fn api(self: &Arc<Self>, provider: &str) -> BatchApi {
        let config = LlmConfig::new(provider).model("m").base_url("http://h");
        let config = config.api_key(Secret::new(KEY));
        let api = config.batch_client_with(&|_| None, Some(self.clone()));
        api.unwrap()
    }

    /// Answers this call next: method and whole URL.
    pub fn on(&self, call: &str, status: u16, body: impl ToString) -> &Self {
        self.on_with(call, status, &[], body)
    }

    /// The same with these headers in the reply.
    pub fn on_with(
        &self,
        call: &str,
        status: u16,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> &Self {
        let reply = HttpReply {
            status,
            headers: headers.iter().copied().collect(),
            body: body.to_string().into_bytes(),
        };
        let mut replies = self.replies.lock();
        replies.push_back((Some(call.to_owned()), Ok(reply)));
        self
    }

    /// What was asked since the last look. All that is in the script must have been.
    pub fn played(&self) -> Vec<RecordedCall> {
        let replies = self.replies.lock();
        let left: Vec<_> = replies.iter().map(|(call, _)| call).collect();
        assert!(left.is_empty(), "these calls were not made: {left:?}");
        std::mem::take(&mut self.asked.lock())
    }

    pub fn asked(&self) -> Vec<RecordedCall> {
        self.asked.lock().clone()
    }

    /// Method and URL of all calls.
    pub fn calls(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.what).collect()
    }
}

impl Transport for Script {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        unreachable!("batches stream")
    }

    fn transfer(&self, transfer: HttpTransfer<'_>, _: &Context) -> Result<HttpReply, Error> {
        let mut body = String::new();
        if let Some((reader, length)) = transfer.body {
            reader.read_to_string(&mut body).unwrap();
            assert_eq!(body.len() as u64, length, "the length announced");
        }
        let path = transfer
            .url
            .strip_prefix("http://h")
            .unwrap_or(transfer.url);
        let path = ["/openai/v1", "/v1beta", "/v1"]
            .iter()
            .find_map(|base| path.strip_prefix(base))
            .unwrap_or(path);
        let method = format!("{:?}", transfer.method).to_uppercase();
        self.asked.lock().push(RecordedCall {
            what: format!("{method} {path}"),
            headers: transfer.headers.to_vec(),
            body,
        });
        let next = self.replies.lock().pop_front();
        let (call, reply) = next.expect("a call that the script does not have");
        if let Some(call) = call {
            assert_eq!(format!("{method} {}", transfer.url), call);
        }
        let mut reply = reply?;
        if let Some(sink) = transfer.into
            && (200..300).contains(&reply.status)
        {
            for piece in std::mem::take(&mut reply.body).chunks(5) {
                sink.write_all(piece)
                    .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            }
        }
        Ok(reply)
    }
}

/// A reply of that status and body, with a date.
pub fn says(status: u16, body: impl ToString) -> Result<HttpReply, Error> {
    let date = [("date", "Fri, 20 Nov 2026 05:00:00 GMT")];
    Ok(HttpReply {
        status,
        headers: date.into_iter().collect(),
        body: body.to_string().into_bytes(),
    })
}

/// What [`says`] has as its date.
pub const DATE: Timestamp = Timestamp(1_795_150_800_000);

/// A provider at `http://h` that answers with these, one after the other.
pub fn scripted(
    provider: &str,
    replies: impl IntoIterator<Item = Result<HttpReply, Error>>,
) -> (BatchApi, Arc<Script>) {
    let script = Arc::new(Script::default());
    let replies = replies.into_iter().map(|reply| (None, reply));
    script.replies.lock().extend(replies);
    (script.api(provider), script)
}

/// The intent of a batch labelled `run-1`, a little before [`DATE`].
pub fn intent() -> BatchIntent {
    BatchIntent {
        label: "run-1".to_owned(),
        model: Some("m".to_owned()),
        items: 2,
        bytes: INPUT.len() as u64,
        begun: Timestamp(DATE.0 - 1_000),
    }
}

/// The file of the batch.
pub fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(DATE),
    }
}

pub const INPUT: &str = "{\"a\":1}\n{\"b\":2}\n";

/// The input [`INPUT`].
pub struct Lines;

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(INPUT.as_bytes()))
    }
}

/// An input that must not be asked for.
pub struct NoInput;

impl BatchInput for NoInput {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        unreachable!("this step sends no input")
    }
}

/// What a provider's line of results says.
pub fn line(provider: &str, line: impl ToString) -> BatchLine {
    let (api, _) = scripted(provider, []);
    api.read(line.to_string().as_bytes()).unwrap()
}
