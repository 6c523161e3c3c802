//! A minimal server for behaviour that no simulator has.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

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

impl Fake {
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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

    pub fn forget(&self) {
        self.asked.lock().unwrap().clear();
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
