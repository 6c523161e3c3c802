//! A provider that answers from a script, for the tests of the wires.

use std::collections::VecDeque;
use std::io::Read;

use parking_lot::Mutex;

use super::*;
use crate::base::clock::Wall;
use crate::base::secret::Secret;
use crate::llm::providers::config::LlmConfig;
use crate::llm::transport::{HttpReply, HttpRequest, Transfer};

/// The key of every scripted provider.
pub const KEY: &str = "sk-a-key-long-enough-to-be-real";

/// What a scripted provider was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and URL after `http://h/v1` or what its base is, such as `GET /batches`.
    pub what: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// Answers each call with the next reply, and keeps what was asked.
#[derive(Default)]
pub struct Script {
    replies: Mutex<VecDeque<Result<HttpReply, Error>>>,
    asked: Mutex<Vec<Asked>>,
}

impl Script {
    pub fn asked(&self) -> Vec<Asked> {
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

    fn transfer(&self, transfer: Transfer<'_>, _: &Context) -> Result<HttpReply, Error> {
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
        self.asked.lock().push(Asked {
            what: format!("{method} {path}"),
            headers: transfer.headers.to_vec(),
            body,
        });
        let next = self.replies.lock().pop_front();
        let mut reply = next.expect("a call that the script does not have")?;
        if let Some(sink) = transfer.into
            && (200..300).contains(&reply.status)
        {
            sink.write_all(&std::mem::take(&mut reply.body)).unwrap();
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
pub const DATE: Wall = Wall(1_795_150_800_000);

/// A provider at `http://h` that answers with these, one after the other.
pub fn scripted(
    provider: &str,
    replies: impl IntoIterator<Item = Result<HttpReply, Error>>,
) -> (BatchApi, Arc<Script>) {
    let script = Arc::new(Script::default());
    script.replies.lock().extend(replies);
    let config = LlmConfig::new(provider).model("m").base_url("http://h");
    let config = config.api_key(Secret::new(KEY));
    let api = config.batch_client_with(&|_| None, Some(script.clone()));
    (api.unwrap(), script)
}

/// The intent of a batch labelled `run-1`, a little before [`DATE`].
pub fn intent() -> BatchIntent {
    BatchIntent {
        label: "run-1".to_owned(),
        model: Some("m".to_owned()),
        items: 2,
        bytes: INPUT.len() as u64,
        begun: Wall(DATE.0 - 1_000),
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

/// What a provider says of a batch in this one reply.
pub fn status(provider: &str, body: impl ToString) -> BatchStatus {
    let (api, _) = scripted(provider, [says(200, body)]);
    api.status("b-1", &Context::new()).unwrap()
}

/// What a provider's line of results says.
pub fn line(provider: &str, line: impl ToString) -> BatchLine {
    let (api, _) = scripted(provider, []);
    api.read(line.to_string().as_bytes()).unwrap()
}

/// The failure in a line of results.
pub fn failure(provider: &str, text: impl ToString) -> Error {
    match line(provider, text).end {
        BatchEnd::Answered(answer) => answer.unwrap_err(),
        BatchEnd::NotProcessed(error) => panic!("not processed: {error}"),
    }
}
