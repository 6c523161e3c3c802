use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use ureq::http;

use super::*;
use crate::llm::transport::head::write_request;
use crate::llm::transport::memory::ReplyShare;

const LONG: Duration = Duration::from_secs(600);

/// Accepts connections on a thread.
fn listen(serve: impl FnOnce(TcpListener) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    (base, thread::spawn(move || serve(listener)))
}

/// Whether a request with the body `{}` arrives.
fn asks(stream: &mut TcpStream) -> bool {
    let (mut seen, mut buffer) = (Vec::new(), [0; 512]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        if seen.ends_with(b"{}") {
            return true;
        }
    }
    false
}

/// Sends such a request, with this maximum size of its reply.
fn ask(http: &HttpTransport, base: &str, reply_limit: u64) -> Result<HttpReply, Error> {
    let memory = ReplyShare::of_process(1 << 20);
    let request = HttpRequest {
        reply_limit,
        ..small_request(base, &memory)
    };
    http.send(&request, &Context::new())
}

#[test]
fn a_request_that_is_queued_in_silence_is_not_cut_by_the_limit_for_connecting() {
    let connect = Duration::from_millis(50);
    let (base, server) = listen(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        // The test must wait here: only real time makes a silence.
        thread::sleep(connect * 10);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(reply).unwrap();
    });
    let http = HttpTransport::connecting_within(connect, &base, 1, LONG);
    assert_eq!(ask(&http, &base, 2).unwrap().body, b"ok");
    server.join().unwrap();
}

/// The result of an endless reply, with this maximum size.
fn endless(head: &'static str, piece: &'static [u8], most: u64) -> Result<HttpReply, Error> {
    let (base, server) = listen(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // Ends when the client closes the connection.
        while stream.write_all(piece).is_ok() {}
    });
    let reply = ask(&HttpTransport::new(&base, 1, LONG), &base, most);
    server.join().unwrap();
    reply
}

#[test]
fn a_reply_is_read_only_up_to_its_limit() {
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
        // It was billed, so it is neither retried nor passed on to a fallback.
        assert!(error.is_unusable_reply());
        assert!(error.message().contains("larger than 1.5 MiB"), "{error}");
        assert_eq!(error.raw().unwrap().len(), RAW_LIMIT);
    }
}

#[test]
fn a_long_error_reply_keeps_its_beginning_and_status() {
    let head = "HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 99999999999\r\n\r\n";
    let reply = endless(head, b"slow down ", 1 << 20).unwrap();
    assert_eq!(
        (reply.status, reply.headers.get("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(reply.body.len() as u64, ERROR_LIMIT);
}

/// A server that answers the first request of each connection, and then closes the connection without a reply when
/// the next request begins or has arrived.
fn forgetful(whole: bool) -> String {
    let answer = move |mut stream: TcpStream| {
        asks(&mut stream);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(reply).unwrap();
        if whole {
            asks(&mut stream);
        } else {
            drop(stream.read(&mut [0]))
        }
    };
    let accept = move |listener: TcpListener| {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    };
    listen(accept).0
}

#[test]
fn a_silently_closed_connection_disables_reuse() {
    for whole in [true, false] {
        let base = forgetful(whole);
        let http = HttpTransport::new(&base, 1, LONG);
        let replies: Vec<_> = (0..30).map(|_| ask(&http, &base, 1 << 20)).collect();
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
    for other in ["socks5://proxy.test:1080", "http://", "ftp://proxy.test"] {
        assert_eq!(proxy("https://api.test", &[("ALL_PROXY", other)]), None);
    }
}

/// The result of a call that receives these bytes as its reply, and of the next call on the same transport.
fn answered(reply: Vec<u8>, reply_limit: u64) -> [Result<HttpReply, Error>; 2] {
    let (base, server) = listen(move |listener| {
        let reply = &reply;
        thread::scope(|scope| {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                scope.spawn(move || {
                    if asks(&mut stream) {
                        let _ = stream.write_all(reply);
                    }
                });
            }
        });
    });
    let http = HttpTransport::new(&base, 1, LONG);
    let replies = [(), ()].map(|()| ask(&http, &base, reply_limit));
    server.join().unwrap();
    replies
}

fn reply_of(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn a_compressed_reply_is_kept_unchanged_and_a_header_alone_does_no_harm() {
    let headers = "content-encoding: gzip\r\n";
    for body in [&b"\x1f\x8b\x08\x00"[..], b"{}", b""] {
        for reply in answered(reply_of(200, headers, body), 100) {
            assert_eq!(reply.unwrap().body, body);
        }
    }
}

#[test]
fn a_head_of_many_lines_or_bytes_is_read() {
    let lines = |number: usize, size: usize| -> String {
        let line = |n| format!("x-{n}: {}\r\n", "v".repeat(size));
        (0..number).map(line).collect()
    };
    let early = lines(200, 200);
    let early = format!("HTTP/1.1 103 Early Hints\r\n{early}\r\n");
    for (number, size) in [
        (1, 1),
        (127, 1),
        (128, 1),
        (250, 1),
        (1, 20_000),
        (3, 20_000),
        (250, 200),
    ] {
        let headers = lines(number, size) + "x-request-id: r-1\r\n";
        // A body that fills the buffer behind the head.
        for body in [&b"{}"[..], &[b'7'; 100_000], b""] {
            for early in ["", &early] {
                let reply = [early.as_bytes(), &reply_of(200, &headers, body)].concat();
                for reply in answered(reply, 1 << 20) {
                    let reply = reply.unwrap();
                    assert!(reply.body == body, "{number} {size}");
                    assert_eq!(reply.headers.get("x-request-id"), Some("r-1"));
                    let last = reply.headers.get(&format!("x-{}", number - 1)).unwrap();
                    assert_eq!(last.len(), size);
                }
            }
        }
    }
    for (number, size) in [(256, 1), (3, 30_000), (1, 900_000)] {
        let headers = lines(number, size);
        let [reply, _] = answered(reply_of(200, &headers, b"{\"paid\": 1}"), 1 << 20);
        let error = reply.unwrap_err();
        assert!(error.is_unusable_reply(), "it is not bought again");
        assert_eq!((error.status(), error.sent()), (Some(200), Sent::Answered));
        assert_eq!(error.raw(), Some("{\"paid\": 1}"));
        assert!(error.message().contains("64 KiB or 256 lines"), "{error}");
        let headers = "retry-after: 7\r\n".to_owned() + &headers;
        let [reply, _] = answered(reply_of(429, &headers, b"slow"), 1 << 20);
        let reply = reply.unwrap();
        assert_eq!(
            (reply.status, reply.headers.get("retry-after")),
            (429, Some("7"))
        );
    }
    let [reply, _] = answered(reply_of(200, &lines(1, 3 << 20), b"{}"), 1 << 20);
    assert!(reply.unwrap_err().is_unusable_reply());
}

/// A server that reads the requests of each connection one by one and answers each with `reply`, and the number of
/// connections.
fn server(reply: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let (base, _) = listen(move |listener| {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                while asks(&mut stream) {
                    stream.write_all(reply).unwrap();
                }
            });
        }
    });
    (base, connections)
}

fn small_request<'r>(url: &'r str, memory: &'r ReplyShare) -> HttpRequest<'r> {
    HttpRequest {
        url,
        headers: &[],
        body: Some(b"{}"),
        timeout: LONG,
        reply_limit: 1 << 20,
        memory,
    }
}

#[test]
fn a_connection_is_used_again_if_the_reply_leaves_nothing_open() {
    for (reply, body, connections) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], "ok", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", "", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", "ok", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", 3),
        // The second reply belongs to no request.
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
            "ok",
            3,
        ),
    ] {
        let (base, opened) = server(reply);
        let http = HttpTransport::new(&base, 2, LONG);
        for path in ["", "/v1/chat", "/?query"] {
            let reply = ask(&http, &format!("{base}{path}"), 1 << 20);
            assert_eq!(reply.unwrap().body, body.as_bytes());
        }
        assert_eq!(opened.load(Ordering::SeqCst), connections, "{}", reply.escape_ascii());
    }
}

#[test]
fn an_early_rejection_is_read() {
    let (base, server) = listen(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        let reply = b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
        stream.write_all(reply).unwrap();
        // Closed with bytes unread, which resets the connection.
    });
    let body = vec![b' '; 64 << 20];
    let memory = ReplyShare::of_process(1 << 20);
    let request = HttpRequest {
        body: Some(&body),
        ..small_request(&base, &memory)
    };
    let http = HttpTransport::new(&base, 1, LONG);
    let reply = http.send(&request, &Context::new()).unwrap();
    assert_eq!((reply.status, &*reply.body), (413, &b"too large"[..]));
    server.join().unwrap();
}

#[test]
fn an_invalid_header_is_not_sent() {
    let memory = ReplyShare::of_process(1 << 20);
    for (name, value) in [
        ("x-a", "1\r\nx-b: secret"),
        ("x a", "secret"),
        ("", "secret"),
    ] {
        let (base, _) = server(b"");
        let headers = [(name.into(), value.to_owned())];
        let request = HttpRequest {
            headers: &headers,
            ..small_request(&base, &memory)
        };
        let http = HttpTransport::new(&base, 1, LONG);
        let error = http.send(&request, &Context::new()).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn the_head_of_a_request_follows_from_its_url() {
    for (url, first, host, basic) in [
        ("http://h/v1?a=b#c", "GET /v1?a=b HTTP/1.1", "h", None),
        ("https://h:8443", "GET / HTTP/1.1", "h:8443", None),
        ("http://[::1]:80?q", "GET /?q HTTP/1.1", "[::1]:80", None),
        (
            "http://me:pw@h/v1",
            "GET /v1 HTTP/1.1",
            "h",
            Some("Basic bWU6cHc="),
        ),
        (
            "http://me@h/v1",
            "GET /v1 HTTP/1.1",
            "h",
            Some("Basic bWU6"),
        ),
    ] {
        let target = Target::parse(url).unwrap();
        for given in [None, Some("Bearer key")] {
            let headers: Vec<_> = given
                .map(|value| ("Authorization".into(), value.to_owned()))
                .into_iter()
                .collect();
            let mut head = Vec::new();
            write_request(&mut head, "GET", &target, &headers, None).unwrap();
            let head = String::from_utf8(head).unwrap();
            assert!(
                head.starts_with(&format!("{first}\r\nhost: {host}\r\n")),
                "{head}"
            );
            let sent: Vec<_> = head
                .lines()
                .filter_map(|line| line.split_once("uthorization: "))
                .map(|(_, value)| value)
                .collect();
            assert_eq!(
                sent,
                given.or(basic).into_iter().collect::<Vec<_>>(),
                "{url}"
            );
        }
    }
    assert!(Target::parse("ftp://h/").is_none() && Target::parse("/v1").is_none());
}

#[test]
fn bytes_after_the_reply_of_a_proxy_are_not_taken_for_the_servers() {
    let (base, server) = listen(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        let forged = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(forged).unwrap();
    });
    let connector = Connector {
        proxy: Some(ureq::Proxy::new(&base).unwrap()),
        resolver: Resolver::default(),
    };
    let target = Target::parse("http://api.test/").unwrap();
    let patience = Patience::new(Some(LONG));
    let fault = connector.connect(&target, &patience, &Default::default());
    let why = fault.err().unwrap().to_string();
    assert!(why.contains("more than its reply"), "{why}");
    server.join().unwrap();
}
