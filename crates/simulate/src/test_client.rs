//! A client for tests that uses plain sockets, so that a test sees the exact bytes of a reply and how the connection
//! ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::{SimConfig, Simulator};

#[path = "../../../tests/it/has.rs"]
mod has;
pub(super) use has::Has;

/// Far longer than anything here takes; only a test that is broken waits this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
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
    json!({"model": "sim-1", "messages": [{"role": "user", "content": text}]})
        .to_string()
        .into_bytes()
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
            stream,
            buffer: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("a connection");
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
        let head_end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).expect("a head in ASCII");
        let mut reply = Reply {
            status: head[9..12].parse().expect("a status"),
            head,
            body: Vec::new(),
        };
        if reply.header("transfer-encoding") == Some("chunked") {
            self.buffer.drain(..head_end);
            reply.body = self.read_chunks()?;
            return Ok(reply);
        }
        let length = reply.header("content-length").expect("a length");
        let end = head_end + length.parse::<usize>().expect("a length");
        while self.buffer.len() < end {
            self.fill()?;
        }
        reply.body = self.buffer[head_end..end].to_vec();
        self.buffer.drain(..end);
        Ok(reply)
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                    break end;
                }
                self.fill()?;
            };
            let size = std::str::from_utf8(&self.buffer[..end]).expect("a size in ASCII");
            let size = usize::from_str_radix(size, 16).expect("a size");
            while self.buffer.len() < end + 2 + size + 2 {
                self.fill()?;
            }
            body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
            self.buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Whether the other side closes the connection without sending anything more.
    pub(super) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0))
    }

    pub(super) fn hang_up(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut space = [0; 4096];
        let read = self.stream.read(&mut space)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&space[..read]);
        Ok(())
    }
}
