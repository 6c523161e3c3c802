//! A minimal server for behaviour that no simulator has.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::common::Desk;

/// One request to a [`Fake`] server.
pub struct Asked {
    /// The request line and the header fields.
    pub head: String,
    /// The path in the request line.
    pub path: String,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A minimal server for behaviour that no simulator has. It stores its requests.
pub struct Fake {
    pub address: String,
    asked: Arc<Mutex<Vec<Arc<Asked>>>>,
}

/// Status line and further header fields, each with its line end, and the body; `None` for no reply.
pub type Answer = Option<(String, Vec<u8>)>;

/// An answer of this status.
pub fn says(status: u16, body: impl ToString) -> Answer {
    Some((format!("{status} X\r\n"), body.to_string().into_bytes()))
}

/// The body of an answer with this message, which was paid for.
pub fn reply(message: Value) -> Value {
    json!({
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    })
}

impl Fake {
    /// One that answers calls with what it computes from their bodies.
    pub fn answering(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self::start(move |asked| match asked.json() {
            Value::Null => says(404, "{}"),
            body => says(200, answer(&body)),
        })
    }

    /// One that quotes the request's header in every reply, as some gateways do.
    pub fn echo(status: u16) -> Self {
        Self::start(move |asked| {
            let quoted = asked.head.replace("\r\n", " | ").replace('"', "'");
            // Some encoders escape the slash.
            let text = format!("you sent {}", quoted.replace('/', "\\/"));
            let body = match status {
                200 => format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}"),
                _ => format!("{{\"error\":{{\"message\":\"{text}\"}}}}"),
            };
            Some((format!("{status} X\r\nx-echo: {quoted}\r\n"), body.into()))
        })
    }

    /// `run in.jsonl -o out.jsonl` with it as the provider `custom`.
    pub fn run(&self, desk: &Desk, words: &str) -> Command {
        let words = format!("run in.jsonl -o out.jsonl --provider custom --model m {words}");
        let mut command = desk.command(words.split_whitespace());
        command.env("CUSTOM_LLM_BASE_URL", self.url());
        command
    }

    /// The bodies of the calls.
    pub fn bodies(&self) -> Vec<Value> {
        self.calls().iter().map(|asked| asked.json()).collect()
    }

    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    pub fn start_at(
        address: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<Arc<Asked>>>>::default();
        let (answer, kept) = (Arc::new(answer), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (answer.clone(), kept.clone());
                thread::spawn(move || while exchange(&stream, &*answer, &kept).is_some() {});
            }
        });
        Self { address, asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn asked(&self) -> Vec<Arc<Asked>> {
        self.asked.lock().unwrap().clone()
    }

    /// The requests with a body.
    pub fn calls(&self) -> Vec<Arc<Asked>> {
        let mut calls = self.asked();
        calls.retain(|asked| !asked.body.is_empty());
        calls
    }
}

fn exchange(
    stream: &TcpStream,
    answer: &dyn Fn(&Asked) -> Answer,
    kept: &Mutex<Vec<Arc<Asked>>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|n| *n > 0)?;
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split("\ncontent-length: ").nth(1);
    let length = length.map_or(Some(0), |rest| rest.lines().next()?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let mut all = kept.lock().unwrap();
    let asked = Arc::new(Asked { head, path, body });
    all.push(asked.clone());
    drop(all);
    let Some((status, body)) = answer(&asked) else {
        // Until the client gives up.
        let _ = reader.read(&mut [0]);
        return None;
    };
    let head = format!("HTTP/1.1 {status}content-length: {}\r\n\r\n", body.len());
    (&*stream)
        .write_all(&[head.as_bytes(), &body].concat())
        .ok()
}
