//! A client for tests that uses plain sockets, so that a test sees the exact bytes of a reply and how the connection
//! ends.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::{SimConfig, Simulator};

#[path = "../../../tests/it/cases.rs"]
mod cases;
#[path = "../../../tests/it/has.rs"]
mod has;
pub(super) use cases::cases;
pub(super) use has::Has;

/// Far longer than anything here takes; only a test that is broken waits this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Asserts its status.
    #[track_caller]
    pub(super) fn is(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}{body}", self.head);
        self
    }

    /// A header's value; names in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(super) fn code(&self) -> Value {
        self.json()["error"]["code"].clone()
    }
}

pub(super) fn body(text: &str) -> Vec<u8> {
    let message = json!({"role": "user", "content": text});
    json!({"model": "sim-1", "messages": [message]})
        .to_string()
        .into_bytes()
}

/// An object with these fields in place of its own.
pub(super) fn with(mut object: Value, fields: &str) -> Value {
    let fields: Value = serde_json::from_str(fields).expect("JSON");
    for (name, value) in fields.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

/// Starts a simulator and connects to it.
pub(super) fn start(config: SimConfig) -> (Simulator, Client) {
    let sim = Simulator::start(config).expect("a simulator");
    let client = Client::connect(&sim);
    (sim, client)
}

impl Client {
    pub(super) fn connect(sim: &Simulator) -> Client {
        let stream = TcpStream::connect(sim.addr()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream
            .get_ref()
            .write_all(bytes)
            .expect("a connection");
    }

    pub(super) fn send(&mut self, line: &str, headers: &str, body: &[u8]) {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.write(&[head.as_bytes(), body].concat());
    }

    /// Sends a request and reads its reply.
    pub(super) fn call(&mut self, line: &str, headers: &str, body: &[u8]) -> Reply {
        self.send(line, headers, body);
        self.read()
    }

    pub(super) fn post(&mut self, path: &str, headers: &str, body: &Value) -> Reply {
        let body = body.to_string();
        self.call(&format!("POST {path}"), headers, body.as_bytes())
    }

    /// Sends a call for the prompt `text` without waiting for its reply.
    pub(super) fn ask(&mut self, text: &str) {
        self.send("POST /v1/chat/completions", "", &body(text));
    }

    pub(super) fn chat(&mut self, text: &str) -> Reply {
        self.ask(text);
        self.read()
    }

    pub(super) fn get(&mut self, path: &str) -> Reply {
        self.call(&format!("GET {path}"), "", b"")
    }

    /// Reads one reply.
    pub(super) fn read(&mut self) -> Reply {
        self.try_read().expect("a reply")
    }

    /// Reads one reply. An early end of the connection is [`io::ErrorKind::UnexpectedEof`].
    pub(super) fn try_read(&mut self) -> io::Result<Reply> {
        let head = self.read_until(b"\r\n\r\n")?;
        let mut reply = Reply {
            status: head[9..12].parse().expect("a status"),
            head,
            body: Vec::new(),
        };
        let length = reply.header("content-length").expect("a length");
        reply.body = vec![0; length.parse().expect("a length")];
        self.stream.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    /// What comes until these bytes, and these.
    fn read_until(&mut self, end: &[u8]) -> io::Result<String> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            read.push(byte[0]);
        }
        Ok(String::from_utf8(read).expect("ASCII"))
    }

    /// Whether the other side closes the connection without sending anything more.
    pub(super) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    pub(super) fn hang_up(self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}
