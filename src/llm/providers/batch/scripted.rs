//! A provider that answers from a script, for the tests of the wires.

use std::collections::{HashMap, VecDeque};
use std::io::Read;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::base::{Secret, Sent};
use crate::llm::providers::config::LlmConfig;
use crate::llm::transport::{HttpReply, HttpRequest, HttpTransfer};

/// The key of every scripted provider.
pub const KEY: &str = "sk-a-key-long-enough-to-be-real";

/// What a scripted provider was asked.
#[derive(Debug, Clone)]
pub struct RecordedCall {
    /// Method and URL after `http://h/v1` or what its base is, such as `GET /batches`.
    pub what: String,
    pub headers: Vec<(Cow<'static, str>, String)>,
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

/// A reply, and the call that it is for, if only that one may get it: with its whole URL, or what is after the base.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Played {
    pub call: Option<String>,
    /// Zero if the reply is lost.
    #[serde(default = "ok")]
    pub status: u16,
    /// JSON, or a text.
    #[serde(default)]
    pub body: Value,
    #[serde(default)]
    pub headers: HashMap<String, String>,
}

fn ok() -> u16 {
    200
}

/// A reply of that status and body, with a date.
pub fn says(status: u16, body: impl ToString) -> Played {
    let date = (
        "date".to_owned(),
        "Fri, 20 Nov 2026 05:00:00 GMT".to_owned(),
    );
    Played {
        call: None,
        status,
        body: body.to_string().into(),
        headers: [date].into(),
    }
}

/// What [`says`] has as its date.
pub const DATE: Timestamp = Timestamp(1_795_150_800_000);

/// Answers each call with the next reply, and keeps what was asked.
#[derive(Default)]
pub struct Script {
    pub replies: Mutex<VecDeque<Played>>,
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

    /// What was asked. All that is in the script must have been.
    pub fn played(&self) -> Vec<RecordedCall> {
        let left = self.replies.lock().len();
        assert_eq!(left, 0, "calls were not made");
        self.asked.lock().clone()
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
        let url = transfer.url;
        let path = url.strip_prefix("http://h").unwrap_or(url);
        let bases = ["/openai/v1", "/v1beta", "/v1"];
        let below = bases.iter().find_map(|base| path.strip_prefix(base));
        let method = format!("{:?}", transfer.method).to_uppercase();
        let what = format!("{method} {}", below.unwrap_or(path));
        let next = self.replies.lock().pop_front();
        let reply = next.expect("a call that the script does not have");
        if let Some(call) = reply.call {
            assert!(
                call == what || call == format!("{method} {url}"),
                "{what} for {call}"
            );
        }
        self.asked.lock().push(RecordedCall {
            what,
            headers: transfer.headers.to_vec(),
            body,
        });
        if reply.status == 0 {
            return Err(Error::new(ErrorKind::Transient, "gone").with_sent(Sent::Maybe));
        }
        let text = reply.body.as_str().map(str::to_owned);
        let mut body = text.unwrap_or_else(|| reply.body.to_string()).into_bytes();
        if let Some(sink) = transfer.into
            && (200..300).contains(&reply.status)
        {
            for piece in std::mem::take(&mut body).chunks(5) {
                let written = sink.write_all(piece);
                written.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            }
        }
        let headers = reply
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value));
        Ok(HttpReply {
            status: reply.status,
            headers: headers.collect(),
            body,
        })
    }
}

/// A provider at `http://h` that answers with these, one after the other.
pub fn scripted(
    provider: &str,
    replies: impl IntoIterator<Item = Played>,
) -> (BatchApi, Arc<Script>) {
    let script = Arc::new(Script::default());
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
