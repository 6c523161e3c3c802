//! Streaming against a raw listener.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;
use crate::llm::transport::Transport;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

/// Serves one connection.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (base, thread)
}

/// Reads a request: its first line, and its body.
fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
    let length = lines
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    (lines.remove(0), body)
}

/// Answers one request with these bytes.
fn answering(reply: impl AsRef<[u8]> + Send + 'static) -> (String, JoinHandle<()>) {
    server(move |mut stream| {
        request(&stream);
        stream.write_all(reply.as_ref()).unwrap();
    })
}

/// A transport whose ordinary requests have almost no time.
fn http(base: &str) -> HttpTransport {
    HttpTransport::new(base, 1, Duration::from_millis(20))
}

fn transfer(method: HttpMethod, url: &str) -> HttpTransfer<'_> {
    HttpTransfer {
        method,
        url,
        headers: &[],
        body: None,
        into: None,
        idle: LONG,
        reply: LONG,
    }
}

fn download(base: &str, idle: Duration, into: &mut dyn Write) -> Result<HttpReply, Error> {
    let transfer = HttpTransfer {
        into: Some(into),
        idle,
        ..transfer(HttpMethod::Get, base)
    };
    http(base).transfer(transfer, &Context::new())
}

fn upload(base: &str, body: &mut dyn Read, length: u64) -> Result<HttpReply, Error> {
    let transfer = HttpTransfer {
        body: Some((body, length)),
        idle: SHORT,
        ..transfer(HttpMethod::Post, base)
    };
    http(base).transfer(transfer, &Context::new())
}

/// Returns one byte at a time, with a pause before each.
struct Trickle<'a>(&'a [u8], Duration);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        thread::sleep(self.1);
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn a_slow_but_steady_transfer_has_all_the_time_it_takes() {
    let (base, served) = server(|mut stream| {
        let (line, body) = request(&stream);
        assert_eq!((&*line, &*body), ("post / http/1.1", &b"steadily up"[..]));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
            .unwrap();
        for byte in b"and down" {
            thread::sleep(SHORT / 2);
            stream.write_all(&[*byte]).unwrap();
        }
    });
    let mut down = Vec::new();
    let up = HttpTransfer {
        body: Some((&mut Trickle(b"steadily up", SHORT / 2), 11)),
        into: Some(&mut down),
        // Each pause is far shorter than the limit, but all of them together are longer.
        idle: SHORT * 4,
        ..transfer(HttpMethod::Post, &base)
    };
    let reply = http(&base).transfer(up, &Context::new()).unwrap();
    assert_eq!((reply.status, &*reply.body), (200, &b""[..]));
    assert_eq!(down, b"and down");
    served.join().unwrap();
}

#[test]
fn a_stalled_upload_fails_and_cannot_have_arrived() {
    let (done, until) = mpsc::channel::<()>();
    let (base, served) = server(move |stream| {
        // The server reads nothing, so only as much is sent as all buffers hold.
        let _ = until.recv();
        drop(stream);
    });
    let length = 256 << 20;
    let error = upload(&base, &mut io::repeat(b'x').take(length), length).unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Transient, Sent::No)
    );
    assert!(error.timed_out(), "{error}");
    assert!(error.message().contains("no byte moved"), "{error}");
    drop(done);
    served.join().unwrap();
}

#[test]
fn a_stalled_download_fails() {
    let (done, until) = mpsc::channel::<()>();
    let (base, served) = server(move |mut stream| {
        request(&stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
            .unwrap();
        let _ = until.recv();
    });
    let mut sink = Vec::new();
    let error = download(&base, SHORT, &mut sink).unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Transient, Sent::Maybe)
    );
    assert!(error.timed_out(), "{error}");
    assert_eq!(sink, b"half");
    drop(done);
    served.join().unwrap();
}

#[test]
fn the_wait_for_a_reply_has_a_separate_limit() {
    let (base, served) = server(|mut stream| {
        request(&stream);
        thread::sleep(SHORT * 3);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
    });
    let mut sink = Vec::new();
    download(&base, SHORT, &mut sink).unwrap();
    assert_eq!(sink, b"ok");
    served.join().unwrap();

    let (done, until) = mpsc::channel::<()>();
    let (base, served) = server(move |stream| {
        request(&stream);
        let _ = until.recv();
    });
    let silent = HttpTransfer {
        reply: SHORT,
        ..transfer(HttpMethod::Get, &base)
    };
    let error = http(&base).transfer(silent, &Context::new()).unwrap_err();
    assert!(
        error.timed_out() && error.message().contains("no reply"),
        "{error}"
    );
    assert_eq!(error.sent(), Sent::Maybe);
    drop(done);
    served.join().unwrap();
}

#[test]
fn a_truncated_body_is_an_error_with_every_framing() {
    for head in [
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (base, served) = answering(format!("HTTP/1.1 200 OK\r\n{head}"));
        let error = download(&base, LONG, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{head:?}: {error}");
        assert!(!error.timed_out());
        served.join().unwrap();
    }
}

#[test]
fn a_cancelled_transfer_returns_from_the_middle_of_a_wait() {
    // The body of the last one ends with its connection: if it is cut, it must not look complete.
    for reply in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf",
    ] {
        let (asked, was_asked) = mpsc::channel();
        let (base, served) = server(move |mut stream| {
            request(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
            asked.send(()).unwrap();
            // Until the client closes the connection.
            let _ = stream.read(&mut [0]);
        });
        let ctx = Context::new();
        let caller = thread::spawn({
            let ctx = ctx.clone();
            move || {
                let mut sink = Vec::new();
                let transfer = HttpTransfer {
                    into: Some(&mut sink),
                    ..transfer(HttpMethod::Get, &base)
                };
                http(&base).transfer(transfer, &ctx)
            }
        });
        was_asked.recv().unwrap();
        ctx.abort();
        let error = caller.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{reply:?}");
        served.join().unwrap();
    }
}

#[test]
fn delete_has_no_body() {
    let (base, served) = server(|mut stream| {
        let (line, body) = request(&stream);
        assert_eq!((&*line, body.len()), ("delete /files/f http/1.1", 0));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .unwrap();
    });
    let url = format!("{base}/files/f");
    let reply = http(&base).transfer(transfer(HttpMethod::Delete, &url), &Context::new());
    assert_eq!(reply.unwrap().body, b"{}");
    served.join().unwrap();
}

#[test]
fn an_error_reply_is_kept_and_not_written_to_the_destination() {
    let (base, served) = answering("HTTP/1.1 404 Gone\r\ncontent-length: 2\r\n\r\n{}");
    let mut sink = Vec::new();
    let reply = download(&base, LONG, &mut sink).unwrap();
    assert_eq!((reply.status, &*reply.body), (404, &b"{}"[..]));
    assert!(sink.is_empty());
    served.join().unwrap();
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_not_taken_for_a_lost_connection() {
    let (base, served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let error = download(&base, LONG, &mut Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("cannot write"), "{error}");
    served.join().unwrap();
}

#[test]
fn a_body_of_another_length_than_announced_does_not_arrive() {
    for (length, what) in [(3, "longer"), (5, "shorter")] {
        let (base, served) = server(move |mut stream| {
            let mut got = String::new();
            stream.read_to_string(&mut got).unwrap();
            // The head is sent with the first part of the body, if there is one.
            let body = got.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            assert!((body.len() as u64) < length, "{got}");
        });
        let error = upload(&base, &mut &b"four"[..], length).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(error.message().contains(what), "{error}");
        served.join().unwrap();
    }
}

#[test]
fn a_transport_may_refuse_to_stream() {
    struct Small;
    impl Transport for Small {
        fn send(&self, _: &super::super::HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
            unreachable!()
        }
    }
    let asked = transfer(HttpMethod::Get, "http://h?key=sk-1");
    let error = Small.transfer(asked, &Context::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("does not stream") && !error.message().contains("sk-1"));
}

#[test]
fn a_reply_kept_in_memory_has_a_total_time_limit() {
    for status in ["200 OK", "500 No"] {
        let (base, served) = server(move |mut stream| {
            request(&stream);
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 5000\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            // Ends when the client closes the connection.
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(2));
            }
        });
        let mut file = Vec::new();
        let asked = HttpTransfer {
            // The body of an error is kept in memory even if a destination is set.
            into: (status == "500 No").then_some(&mut file as &mut dyn Write),
            reply: SHORT,
            ..transfer(HttpMethod::Get, &base)
        };
        let error = http(&base).transfer(asked, &Context::new()).unwrap_err();
        assert!(error.message().starts_with("no reply from"), "{error}");
        assert_eq!(error.sent(), Sent::Maybe);
        served.join().unwrap();
    }
}

#[test]
fn a_compressed_download_is_no_result_and_may_be_repeated() {
    for (body, is_plain) in [
        (&b"{\"custom_id\": \"1\"}\n"[..], true),
        (b"\x1f\x8b\x08", false),
    ] {
        let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length";
        let head = format!("{head}: {}\r\n\r\n", body.len());
        let (base, served) = answering([head.as_bytes(), body].concat());
        let mut sink = Vec::new();
        let reply = download(&base, LONG, &mut sink);
        if is_plain {
            reply.unwrap();
            assert_eq!(sink, body);
        } else {
            let error = reply.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Transient);
            assert!(error.message().contains("it is compressed"), "{error}");
            assert!(sink.is_empty());
        }
        served.join().unwrap();
    }
}
