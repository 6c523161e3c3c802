use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use ureq::http;

use super::*;
use crate::base::cases::{cases, unescaped};
use crate::llm::transport::head::write_request;
use crate::llm::transport::memory::ReplyShare;
use crate::llm::transport::memory::tests::apart;
use crate::llm::transport::raw_server::{LONG, answering, listen, one, request};

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

fn ask(http: &HttpTransport, base: &str, reply_limit: u64) -> Result<HttpReply, Error> {
    let memory = ReplyShare::of_process();
    let request = HttpRequest {
        reply_limit,
        ..small_request(base, &memory)
    };
    http.send(&request, &Context::new())
}

#[test]
fn a_request_that_is_queued_in_silence_is_not_cut_by_the_limit_for_connecting() {
    let connect = Duration::from_millis(50);
    let (base, server) = one(move |mut stream| {
        // The test must wait here: only real time makes a silence.
        thread::sleep(connect * 10);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(reply).unwrap();
    });
    let http = HttpTransport::new(&base, 1, connect).unwrap();
    assert_eq!(ask(&http, &base, 2).unwrap().body, b"ok");
    server.join().unwrap();
}

/// The result of an endless reply, with this maximum size.
fn endless(head: &'static str, piece: &'static [u8], most: u64) -> Result<HttpReply, Error> {
    let (base, server) = one(move |mut stream| {
        stream.write_all(head.as_bytes()).unwrap();
        // Ends when the client closes the connection.
        while stream.write_all(piece).is_ok() {}
    });
    let reply = ask(&HttpTransport::new(&base, 1, LONG).unwrap(), &base, most);
    server.join().unwrap();
    reply
}

#[test]
fn a_reply_is_read_only_up_to_its_limit() {
    for (header, piece) in [
        (
            "transfer-encoding: chunked\r\n\r\n",
            &b"8\r\n[],[],[]\r\n"[..],
        ),
        ("content-length: 99999999999\r\n\r\n", b"[],[],[]"),
        ("\r\n", b"[],[],[]"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{header}").leak();
        let error = endless(head, piece, 3 << 19).unwrap_err();
        assert_eq!((error.status(), error.sent()), (Some(200), Sent::Answered));
        // It was billed, so it is neither retried nor passed on to a fallback.
        assert!(error.is_unusable_reply());
        assert!(error.message().contains("larger than 1.5 MiB"), "{error}");
        assert_eq!(error.raw().unwrap().len(), RAW_LIMIT);
    }
    // An error reply keeps its beginning and its status.
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
        request(&stream);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(reply).unwrap();
        if whole {
            request(&stream);
        } else {
            let _ = stream.read(&mut [0]);
        }
    };
    let each = move |stream| drop(thread::spawn(move || answer(stream)));
    listen(move |listener| listener.incoming().flatten().for_each(each)).0
}

#[test]
fn a_silently_closed_connection_disables_reuse() {
    for whole in [true, false] {
        let base = forgetful(whole);
        let http = HttpTransport::new(&base, 1, LONG).unwrap();
        let replies: Vec<_> = (0..30).map(|_| ask(&http, &base, 1 << 20)).collect();
        let lost: Vec<_> = replies.iter().filter_map(|r| r.as_ref().err()).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        if whole {
            assert_eq!(lost[0].sent(), Sent::Maybe);
        }
    }
}

#[test]
fn the_proxy_follows_scheme_and_exemptions() {
    for (case, expected) in cases(include_str!("proxy_cases.txt")) {
        let (url, vars) = case.split_once(' ').unwrap_or((case, ""));
        let value = |name: &str| {
            let mut vars = vars.split(' ').filter_map(|var| var.split_once('='));
            vars.find_map(|(own, value)| (own == name).then(|| value.to_owned()))
        };
        let uri: http::Uri = url.parse().unwrap();
        let found = match proxy_for(url, value) {
            Ok(proxy) => proxy
                .filter(|proxy| !proxy.is_no_proxy(&uri))
                .map_or("none".to_owned(), |proxy| {
                    format!("{}:{}", proxy.host(), proxy.port())
                }),
            Err(error) => error.message().to_owned(),
        };
        assert!(found.starts_with(expected), "{case}: {found}");
    }
}

/// A server that reads the requests of each connection one by one and answers each with `reply`, and the number of
/// connections.
fn server(reply: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let (connections, reply) = (Arc::new(AtomicUsize::new(0)), Arc::new(reply));
    let count = connections.clone();
    let (base, _) = listen(move |listener| {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let reply = reply.clone();
            thread::spawn(
                move || while request(&stream).is_some() && stream.write_all(&reply).is_ok() {},
            );
        }
    });
    (base, connections)
}

/// The results of two calls that receive such a reply.
fn answered(status: u16, headers: &str, body: &[u8]) -> [Result<HttpReply, Error>; 2] {
    let length = body.len();
    let early = if headers.starts_with("HTTP") {
        ""
    } else {
        &format!("HTTP/1.1 {status} X\r\n")
    };
    let head = format!("{early}{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
    let (base, _) = server([head.as_bytes(), body].concat());
    let http = HttpTransport::new(&base, 1, LONG).unwrap();
    [(), ()].map(|()| ask(&http, &base, 1 << 20))
}

#[test]
fn what_cannot_be_unpacked_is_kept_unchanged_and_a_header_alone_does_no_harm() {
    for body in [&b"\x1f\x8b\x08\x00"[..], b"{}", b""] {
        for reply in answered(200, "content-encoding: gzip\r\n", body) {
            let kept = reply.map(|reply| reply.body);
            let raw = |error: Error| error.raw_bytes().unwrap().to_vec();
            assert_eq!(kept.unwrap_or_else(raw), body);
        }
    }
}

/// A complete object is the reply, although the end of its transfer does not come: it was paid for. Its connection is not
/// used again.
#[test]
fn a_complete_object_is_the_reply_although_its_end_never_comes() {
    const WHOLE: &str = "{\"choices\": [1]}\n";
    let chunked = |body: &str| {
        let length = body.len();
        format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n")
    };
    for (status, rest, is_kept) in [
        (200, chunked(WHOLE), true),
        (200, format!("content-length: 99\r\n\r\n{WHOLE}"), true),
        (200, chunked("data: {\"choices\": [1"), true),
        (200, chunked(": waiting\n\n"), false),
        (200, chunked("{\"choices\": [1]"), false),
        (200, chunked("{\"choices\": 1}\n{\"choices\": 2}\n"), false),
        (200, chunked("{\"detail\": \"upstream timed out\"}"), false),
        (200, chunked("{\"status\": \"processing\"}\n"), false),
        (200, chunked("{\"code\": 504, \"data\": null}\n"), false),
        (200, chunked("{}"), false),
        (200, chunked("[1]"), false),
        (500, chunked(WHOLE), false),
    ] {
        let reply = format!("HTTP/1.1 {status} X\r\n{rest}");
        let (closing, served) = answering(reply.clone(), false);
        let (silent, opened) = server(reply.into_bytes());
        for (base, times) in [(closing, 1), (silent, 2)] {
            let http = HttpTransport::new(&base, 1, LONG).unwrap();
            for _ in 0..times {
                let memory = ReplyShare::of_process();
                let request = HttpRequest {
                    timeout: Duration::from_millis(300),
                    ..small_request(&base, &memory)
                };
                let reply = http.send(&request, &Context::new());
                let found = reply.map(|reply| String::from_utf8(reply.body).unwrap());
                assert_eq!(found.is_ok(), is_kept, "{rest}");
                assert!(found.is_err() || rest.contains(&found.unwrap()), "{rest}");
            }
        }
        assert_eq!(opened.load(Ordering::SeqCst), 2, "{rest}");
        served.join().unwrap();
    }
}

#[test]
fn an_aborted_call_is_cancelled_although_its_object_has_arrived() {
    let (ctx, memory) = (Context::new(), ReplyShare::of_process());
    let ends = ctx.clone();
    let (base, served) = one(move |mut stream| {
        request(&stream);
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}";
        stream.write_all(reply).unwrap();
        ends.abort();
        let _ = stream.read(&mut [0]);
    });
    let http = HttpTransport::new(&base, 1, LONG).unwrap();
    let error = http.send(&small_request(&base, &memory), &ctx).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    served.join().unwrap();
}

#[test]
fn an_abort_while_an_unpacked_reply_waits_for_memory_cancels_the_call() {
    let account = apart(1);
    let other = ReplyShare::of(account);
    assert!(other.take_now(1));
    let (ctx, memory) = (Context::new(), ReplyShare::of(account));
    let head = "HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\n";
    let body = packed(&[b' '; 900_000]);
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    let (base, _) = server([head.as_bytes(), &body].concat());
    let http = HttpTransport::new(&base, 1, LONG).unwrap();
    let error = thread::scope(|scope| {
        let call = scope.spawn(|| http.send(&small_request(&base, &memory), &ctx));
        account.until_waiting(1);
        ctx.abort();
        call.join().unwrap().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text).unwrap();
    packed.finish().unwrap()
}

/// Some proxies compress although no request asks for it.
#[test]
fn a_compressed_reply_is_unpacked_within_the_limit_of_bytes() {
    for (status, coding) in [(200, "gzip"), (200, "X-GZip"), (429, "gzip")] {
        for text in [&b"{\"a\": 1}"[..], &[b'7'; 900_000]] {
            let coding = format!("content-encoding: {coding}\r\n");
            for reply in answered(status, &coding, &packed(text)) {
                assert!(reply.unwrap().body == text, "{status} {coding}");
            }
        }
    }
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(b"{\"a\": 1}")
        .and(raw.write_all(b"{\"a\": 1}"))
        .unwrap();
    let zstd = compress_to_vec(&b"{\"a\": 1}"[..], CompressionLevel::Fastest);
    let (zlib, raw) = (zlib.finish().unwrap(), raw.finish().unwrap());
    for (coding, body) in [("deflate", zlib), ("deflate", raw), ("Zstd", zstd)] {
        for reply in answered(200, &format!("content-encoding: {coding}\r\n"), &body) {
            assert_eq!(reply.unwrap().body, b"{\"a\": 1}");
        }
    }
    for reply in answered(200, "content-encoding: br\r\n", b"\x1b\x07\x00\xf8") {
        let error = reply.unwrap_err();
        assert!(error.is_unusable_reply() && error.message().contains("Content-Encoding: br"));
        assert_eq!(error.raw_bytes(), Some(&b"\x1b\x07\x00\xf8"[..]));
    }
    // Some compress each piece for itself.
    let pieces = [packed(b"{\"a\""), packed(b": 1}")].concat();
    for reply in answered(200, "content-encoding: gzip\r\n", &pieces) {
        assert_eq!(reply.unwrap().body, b"{\"a\": 1}");
    }
    let trailing = [&packed(b"{\"data\": []}")[..], b"\0\0\r\n"].concat();
    for reply in answered(200, "content-encoding: gzip\r\n", &trailing) {
        assert_eq!(reply.unwrap().body, b"{\"data\": []}");
    }
    // What a header does not name stays as it is, for example sound.
    for reply in answered(200, "", &packed(b"{}")) {
        assert_eq!(reply.unwrap().body, packed(b"{}"));
    }
    let bomb = packed(&[b' '; 3 << 20]);
    for reply in answered(200, "content-encoding: gzip\r\n", &bomb) {
        let error = reply.unwrap_err();
        assert!(error.is_unusable_reply() && error.message().contains("larger than"));
    }
    for reply in answered(500, "content-encoding: gzip\r\n", &bomb) {
        assert_eq!(reply.unwrap().body.len() as u64, ERROR_LIMIT);
    }
}

fn lines(number: usize, size: usize) -> String {
    let value = "v".repeat(size);
    (0..number).map(|n| format!("x-{n}: {value}\r\n")).collect()
}

#[test]
fn a_head_of_many_lines_or_bytes_is_read() {
    let early = lines(200, 200);
    let early = format!("HTTP/1.1 103 Early Hints\r\n{early}\r\nHTTP/1.1 200 X\r\n");
    let sizes = [
        (1, 1),
        (127, 1),
        (128, 1),
        (250, 1),
        (1, 20_000),
        (3, 20_000),
        (250, 200),
        (256, 1),
        (3, 30_000),
        (1, 900_000),
    ];
    // A body that fills the buffer behind the head.
    let bodies = [&b"{}"[..], &[b'7'; 100_000], b""];
    for (at, (number, size)) in sizes.into_iter().cycle().take(30).enumerate() {
        let (body, headers) = (
            bodies[at % 3],
            lines(number, size) + "x-request-id: r-1\r\n",
        );
        for headers in [&headers, &(early.clone() + &headers)] {
            for reply in answered(200, headers, body) {
                let reply = reply.unwrap();
                assert!(reply.body == body, "{number} {size}");
                assert_eq!(reply.headers.get("x-request-id"), Some("r-1"));
                let last = reply.headers.get(&format!("x-{}", number - 1)).unwrap();
                assert_eq!(last.len(), size);
            }
        }
    }
    let [reply, _] = answered(200, &lines(1, 3 << 20), b"{}");
    assert!(reply.unwrap_err().is_unusable_reply());
}

#[test]
fn a_connection_is_used_again_if_the_reply_leaves_nothing_open() {
    for (reply, expected) in cases(include_str!("reuse_cases.txt")) {
        let (base, opened) = server(unescaped(reply).into_bytes());
        let http = HttpTransport::new(&base, 2, LONG).unwrap();
        let asked = ["", "/v1/chat", "/?query"].map(|path| {
            let reply = ask(&http, &format!("{base}{path}"), 1 << 20).unwrap();
            let body = if reply.status == 200 { "ok" } else { "" };
            assert_eq!(reply.body, body.as_bytes());
            reply.status.to_string()
        });
        let (connections, status) = expected.split_once(' ').unwrap();
        assert_eq!(asked, [status; 3], "{reply}");
        let opened = opened.load(Ordering::SeqCst).to_string();
        assert_eq!(opened, connections, "{reply}");
    }
}

#[test]
fn an_early_rejection_is_read() {
    let (base, server) = one(|mut stream| {
        stream.read_exact(&mut [0; 100]).unwrap();
        let reply = b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
        stream.write_all(reply).unwrap();
        // Closed with bytes unread, which resets the connection.
    });
    let memory = ReplyShare::of_process();
    let request = HttpRequest {
        body: Some(&vec![b' '; 64 << 20]),
        ..small_request(&base, &memory)
    };
    let http = HttpTransport::new(&base, 1, LONG).unwrap();
    let reply = http.send(&request, &Context::new()).unwrap();
    assert_eq!((reply.status, &*reply.body), (413, &b"too large"[..]));
    server.join().unwrap();
}

#[test]
fn an_invalid_header_is_not_sent() {
    let (base, _) = server(Vec::new());
    let memory = ReplyShare::of_process();
    for (name, value) in [
        ("x-a", "1\r\nx-b: secret"),
        ("x a", "secret"),
        ("", "secret"),
    ] {
        let request = HttpRequest {
            headers: &[(name.into(), value.to_owned())],
            ..small_request(&base, &memory)
        };
        let http = HttpTransport::new(&base, 1, LONG).unwrap();
        let error = http.send(&request, &Context::new()).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn the_head_of_a_request_follows_from_its_url() {
    for (url, expected) in cases(include_str!("url_cases.txt")) {
        let Some(target) = Target::parse(url) else {
            assert_eq!(expected, "none", "{url}");
            continue;
        };
        let expected = unescaped(expected);
        let (start, basic) = expected.rsplit_once('\n').unwrap();
        for given in [None, Some("Bearer key")] {
            let header = given.map(|value| ("Authorization".into(), value.to_owned()));
            let headers: Vec<_> = header.into_iter().collect();
            let mut head = Vec::new();
            write_request(&mut head, "GET", &target, None, &headers, None).unwrap();
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with(&format!("{start}\n")), "{head}");
            let sent = head.split("uthorization: ").skip(1);
            let sent: Vec<_> = sent.filter_map(|sent| sent.lines().next()).collect();
            let own = Some(basic.trim()).filter(|basic| !basic.is_empty());
            assert_eq!(sent, given.or(own).into_iter().collect::<Vec<_>>(), "{url}");
        }
    }
}

#[test]
fn bytes_after_the_reply_of_a_proxy_are_not_taken_for_the_servers() {
    let (base, server) = one(|mut stream| {
        request(&stream);
        let forged = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(forged).unwrap();
    });
    let connector = Connector {
        proxy: Some(ureq::Proxy::new(&base).unwrap()),
    };
    let target = Target::parse("https://api.test/").unwrap();
    let patience = Patience::new(Some(LONG));
    let fault = connector.connect(&target, &patience, &Default::default());
    let why = fault.err().unwrap().to_string();
    assert!(why.contains("more than its reply"), "{why}");
    server.join().unwrap();
}
