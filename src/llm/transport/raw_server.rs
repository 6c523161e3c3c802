//! A server of raw bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub const LONG: Duration = Duration::from_secs(600);

/// Accepts connections on a thread.
pub fn listen(serve: impl FnOnce(TcpListener) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    (base, thread::spawn(move || serve(listener)))
}

/// Serves one connection.
pub fn one(serve: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    listen(|listener| serve(listener.accept().unwrap().0))
}

/// Reads a request: the lines of its head, in small letters, and its body. `None` if the client has closed the
/// connection.
pub fn request(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    if !head.ends_with("\r\n\r\n") {
        return None;
    }
    let head = head.replace('\r', "").to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Answers one request with these bytes. Then the connection is closed, by the client if `holds`.
pub fn answering(
    reply: impl AsRef<[u8]> + Send + 'static,
    holds: bool,
) -> (String, JoinHandle<()>) {
    one(move |mut stream| {
        request(&stream);
        stream.write_all(reply.as_ref()).unwrap();
        if holds {
            let _ = stream.read(&mut [0]);
        }
    })
}
