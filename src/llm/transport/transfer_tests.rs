//! Streaming against a raw listener.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;
use crate::llm::transport::Transport;
use crate::llm::transport::raw_server::{LONG, answering, one, request};

const SHORT: Duration = Duration::from_millis(100);

/// A transport whose ordinary requests have almost no time.
fn http(base: &str) -> HttpTransport {
    HttpTransport::new(base, 1, Duration::from_millis(20)).unwrap()
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

fn download(base: &str, limits: [Duration; 2], into: &mut dyn Write) -> Result<HttpReply, Error> {
    let transfer = HttpTransfer {
        into: Some(into),
        idle: limits[0],
        reply: limits[1],
        ..transfer(HttpMethod::Get, base)
    };
    http(base).transfer(transfer, &Context::new())
}

fn upload(base: &str, body: &mut dyn Read, length: u64) -> Error {
    let transfer = HttpTransfer {
        body: Some((body, length)),
        idle: SHORT,
        ..transfer(HttpMethod::Post, base)
    };
    http(base).transfer(transfer, &Context::new()).unwrap_err()
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
    let (base, served) = one(|mut stream| {
        let (head, body) = request(&stream).unwrap();
        assert!(head.starts_with("post / http/1.1\n"), "{head}");
        assert_eq!(body, b"steadily up");
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
    let (base, served) = one(move |stream| {
        // The server reads nothing, so only as much is sent as all buffers hold.
        let _ = until.recv();
        drop(stream);
    });
    let length = 256 << 20;
    let error = upload(&base, &mut io::repeat(b'x').take(length), length);
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Transient, Sent::No)
    );
    assert!(
        error.timed_out() && error.message().contains("no byte moved"),
        "{error}"
    );
    drop(done);
    served.join().unwrap();
}

#[test]
fn a_download_that_ends_badly_says_how() {
    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    const CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    const CODED: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\n\x1b\x8b";
    for (reply, limits, why, sink) in [
        (HALF, [SHORT, LONG], "no byte moved", "half"),
        // The wait for a reply has a limit of its own.
        (b"", [LONG, SHORT], "no reply", ""),
        (HALF, [LONG, LONG], "", "half"),
        (CHUNK, [LONG, LONG], "", "half"),
        // It may be asked for again.
        (CODED, [LONG, LONG], "Content-Encoding: br", ""),
    ] {
        let late = limits.contains(&SHORT);
        let (base, served) = answering(reply, late);
        let mut found = Vec::new();
        let error = download(&base, limits, &mut found).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.message().contains(why), "{error}");
        assert_eq!(error.timed_out(), late, "{error}");
        assert!(!late || error.sent() == Sent::Maybe, "{error}");
        assert_eq!(found, sink.as_bytes(), "{error}");
        served.join().unwrap();
    }
}

/// Also where no header says so: no line of results begins like that.
#[test]
fn compressed_results_are_read() {
    let lines = "{\"custom_id\":\"a\"}\n".repeat(9000);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = compress_to_vec(lines.as_bytes(), CompressionLevel::Fastest);
    for (coding, body) in [("gzip", &gzip), ("identity", &gzip), ("zstd", &zstd)] {
        let head = format!(
            "content-encoding: {coding}\r\ncontent-length: {}",
            body.len()
        );
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
        let (base, served) = answering([head.as_bytes(), body].concat(), false);
        let mut found = Vec::new();
        download(&base, [LONG, LONG], &mut found).unwrap();
        assert!(found == lines.as_bytes(), "{coding}");
        served.join().unwrap();
    }
}

#[test]
fn what_is_no_failure_of_a_download_is_none() {
    for (head, body, sink) in [
        ("200 OK", "", "{}"),
        ("200 OK\r\ncontent-encoding: gzip", "", "{}"),
        // What says why there is nothing is kept, and not written to the destination.
        ("404 Gone", "{}", ""),
    ] {
        let (base, served) = one(move |mut stream| {
            request(&stream);
            // The time without a byte begins with the reply.
            thread::sleep(SHORT * 3);
            let reply = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let mut found = Vec::new();
        let reply = download(&base, [SHORT, LONG], &mut found).unwrap();
        assert_eq!((&*reply.body, &*found), (body.as_bytes(), sink.as_bytes()));
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
        let ctx = Context::new();
        let ends = ctx.clone();
        let (base, served) = one(move |mut stream| {
            request(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
            ends.abort();
            // Until the client closes the connection.
            let _ = stream.read(&mut [0]);
        });
        let transfer = HttpTransfer {
            into: Some(&mut Vec::new()),
            ..transfer(HttpMethod::Get, &base)
        };
        let error = http(&base).transfer(transfer, &ctx).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{reply:?}");
        served.join().unwrap();
    }
}

#[test]
fn delete_has_no_body() {
    let (base, served) = one(|mut stream| {
        let (head, body) = request(&stream).unwrap();
        assert!(head.starts_with("delete /files/f http/1.1\n"), "{head}");
        assert!(body.is_empty());
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(reply).unwrap();
    });
    let url = format!("{base}/files/f");
    let reply = http(&base).transfer(transfer(HttpMethod::Delete, &url), &Context::new());
    assert_eq!(reply.unwrap().body, b"{}");
    served.join().unwrap();
}

#[test]
fn a_full_disk_is_not_taken_for_a_lost_connection() {
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (base, served) = answering(reply, false);
    let error = download(&base, [LONG, LONG], &mut &mut [][..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("cannot write"), "{error}");
    served.join().unwrap();
}

#[test]
fn a_body_of_another_length_than_announced_does_not_arrive() {
    for (length, what) in [(3, "longer"), (5, "shorter")] {
        let (base, served) = one(move |mut stream| {
            let mut got = String::new();
            stream.read_to_string(&mut got).unwrap();
            // The head is sent with the first part of the body, if there is one.
            let body = got.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            assert!((body.len() as u64) < length, "{got}");
        });
        let error = upload(&base, &mut &b"four"[..], length);
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(error.message().contains(what), "{error}");
        served.join().unwrap();
    }
}

#[test]
fn a_reply_kept_in_memory_has_a_total_time_limit() {
    for status in ["200 OK", "500 No"] {
        let (base, served) = one(move |mut stream| {
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
