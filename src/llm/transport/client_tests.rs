use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;

use ureq::http;

use super::*;
use crate::llm::transport::memory::ReplyShare;

#[test]
fn a_request_that_is_queued_in_silence_is_not_cut_by_the_limit_for_connecting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let connect = Duration::from_millis(50);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // What is tested is silence, and nothing but time makes it.
        std::thread::sleep(connect * 10);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(reply).unwrap();
    });
    let long = Duration::from_secs(600);
    let http = HttpTransport::connecting_within(connect, &base, 1, long);
    let request = HttpRequest {
        url: &base,
        headers: &[],
        body: Some(b"{}"),
        timeout: long,
        reply_limit: 2,
        memory: &ReplyShare::of_process(1 << 20),
    };
    let reply = http.send(&request, &Context::new()).unwrap();
    assert_eq!(reply.body, b"ok");
    server.join().unwrap();
}

/// What becomes of a reply without an end, of which so much may be read.
fn endless(head: &'static str, piece: &'static [u8], most: u64) -> Result<HttpReply, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // Ends when nobody listens any more.
        while stream.write_all(piece).is_ok() {}
    });
    let long = Duration::from_secs(600);
    let request = HttpRequest {
        url: &base,
        headers: &[],
        body: Some(b"{}"),
        timeout: long,
        reply_limit: most,
        memory: &ReplyShare::of_process(1 << 20),
    };
    let reply = HttpTransport::new(&base, 1, long).send(&request, &Context::new());
    server.join().unwrap();
    reply
}

#[test]
fn no_more_is_read_of_a_reply_than_it_may_have() {
    let chunk = b"8\r\n[],[],[]\r\n";
    for (head, piece) in [
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            &chunk[..],
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"[],[],[]",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", b"[],[],[]"),
    ] {
        let error = endless(head, piece, 3 << 19).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!((error.status(), error.sent()), (Some(200), Sent::Answered));
        // Neither asked again nor passed on: it was paid for.
        assert!(error.is_unusable_reply());
        assert!(error.message().contains("larger than 1.5 MiB"), "{error}");
        assert_eq!(error.raw().unwrap().len(), RAW_LIMIT);
    }
}

#[test]
fn of_a_long_error_reply_the_beginning_and_the_status_are_kept() {
    let head = "HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 99999999999\r\n\r\n";
    let reply = endless(head, b"slow down ", 1 << 20).unwrap();
    assert_eq!(
        (reply.status, reply.headers.get("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(reply.body.len() as u64, ERROR_LIMIT);
}

/// A server that answers the first request of each connection and, without a word, closes the
/// connection when the next one begins or has come.
fn forgetful(whole: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = |stream: &mut std::net::TcpStream| {
                let mut seen = Vec::new();
                let mut buffer = [0; 512];
                while !seen.ends_with(b"{}") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
            };
            std::thread::spawn(move || {
                request(&mut stream);
                let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(reply).unwrap();
                match whole {
                    true => request(&mut stream),
                    false => drop(stream.read(&mut [0])),
                }
            });
        }
    });
    base
}

#[test]
fn a_server_that_closes_kept_connections_without_a_word_does_so_once() {
    for whole in [true, false] {
        let base = forgetful(whole);
        let long = Duration::from_secs(60);
        let http = HttpTransport::new(&base, 1, long);
        let request = HttpRequest {
            url: &base,
            headers: &[],
            body: Some(b"{}"),
            timeout: long,
            reply_limit: 1 << 20,
            memory: &ReplyShare::of_process(1 << 20),
        };
        let send = |_| http.send(&request, &Context::new());
        let replies: Vec<_> = (0..30).map(send).collect();
        let lost: Vec<_> = replies.iter().filter_map(|r| r.as_ref().err()).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        if whole {
            assert_eq!(lost[0].sent(), Sent::Maybe);
        }
    }
}

fn proxy(url: &str, vars: &[(&str, &str)]) -> Option<String> {
    let vars: HashMap<&str, &str> = vars.iter().copied().collect();
    let proxy = proxy_for(url, |name| vars.get(name).map(|v| (*v).to_owned()))?;
    let uri: http::Uri = url.parse().unwrap();
    (!proxy.is_no_proxy(&uri)).then(|| format!("{}:{}", proxy.host(), proxy.port()))
}

#[test]
fn the_proxy_follows_scheme_and_exemptions() {
    let vars = [
        ("HTTPS_PROXY", "http://me:pw@secure:1"),
        ("http_proxy", "http://plain:2"),
        ("NO_PROXY", "internal.test, .corp.test"),
    ];
    let on = |url| proxy(url, &vars);
    assert_eq!(on("https://api.test/v1").as_deref(), Some("secure:1"));
    assert_eq!(on("http://api.test/v1").as_deref(), Some("plain:2"));
    assert_eq!(on("https://internal.test/v1"), None);
    assert_eq!(on("https://a.internal.test/v1"), None);
    assert_eq!(on("https://a.corp.test/v1"), None);
    assert_eq!(on("http://127.0.0.1:8080/v1"), None);
    assert_eq!(on("http://localhost:8080/v1"), None);
}

#[test]
fn no_variable_means_no_proxy() {
    assert_eq!(proxy("https://api.test", &[]), None);
    assert_eq!(proxy("https://api.test", &[("HTTPS_PROXY", "")]), None);
}
