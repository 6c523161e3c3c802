use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::*;
use crate::llm::transport::call::Outgoing;
use crate::llm::transport::memory::ReplyMemory;
use crate::llm::transport::timeouts::Patience;
use crate::llm::transport::{HttpRequest, HttpTransport, Transport};

const LONG: usize = 3 * FREE as usize;

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8).collect()
}

/// Reads a body of any length.
fn unannounced<'a>(share: &'a ReplyShare, ctx: &'a Context) -> BodyReader<'a> {
    BodyReader {
        announced: None,
        most: u64::MAX,
        share,
        ctx,
    }
}

#[test]
fn a_small_reply_takes_no_memory_from_the_account() {
    let memory = ReplyMemory::apart();
    for announced in [None, Some(1 << 40)] {
        let (share, ctx) = (memory.share(1), Context::new());
        let reading = BodyReader {
            announced,
            most: u64::MAX,
            share: &share,
            ctx: &ctx,
        };
        let body = text(FREE as usize - 1);
        assert!(reading.read(&body[..]).unwrap() == body);
    }
    assert_eq!(memory.peak(), 0);
}

#[test]
fn a_reply_holds_only_the_memory_of_its_length() {
    let memory = ReplyMemory::apart();
    let (share, ctx) = (memory.share(1 << 30), Context::new());
    let reading = BodyReader {
        announced: None,
        most: 1 << 24,
        share: &share,
        ctx: &ctx,
    };
    reading.read(&text(LONG)[..]).unwrap();
    assert_eq!((memory.peak(), memory.held()), (1 << 24, LONG as u64));
    drop(share);
    assert_eq!(memory.held(), 0);
}

#[test]
fn an_abort_ends_the_wait_for_memory() {
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    let ctx = Context::new();
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let share = memory.share(1);
            let reading = unannounced(&share, &ctx);
            reading.read(&text(LONG)[..]).is_err()
        });
        memory.until_waiting(1);
        ctx.abort();
        assert!(call.join().unwrap());
    });
    assert_eq!(memory.held(), 1);
}

fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 512];
    while !seen.ends_with(b"{}") {
        let read = stream.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..read]);
    }
}

/// A server that waits for this number of requests and then answers all of them with this body.
fn server(calls: usize, body: Arc<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let all = Arc::new(Barrier::new(calls));
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().enumerate() {
            let (mut stream, body, all) = (stream.unwrap(), body.clone(), all.clone());
            thread::spawn(move || {
                read_request(&mut stream);
                all.wait();
                // Every other server sends the length.
                let length = match nth % 2 {
                    0 => format!("content-length: {}\r\n", body.len()),
                    _ => String::new(),
                };
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{length}\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&body).unwrap();
            });
        }
    });
    base
}

#[test]
fn many_large_replies_are_read_with_memory_for_two() {
    const CALLS: usize = 24;
    let body = Arc::new(text(2 << 20));
    let most = 2 * body.len() as u64;
    let base = server(CALLS, body.clone());
    let memory = ReplyMemory::apart();
    let timeout = Duration::from_secs(600);
    let http = HttpTransport::new(&base, CALLS, timeout);
    thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| {
                let share = memory.share(most);
                let request = HttpRequest {
                    url: &base,
                    headers: &[],
                    body: Some(b"{}"),
                    timeout,
                    reply_limit: most - 1,
                    memory: &share,
                };
                let reply = http.send(&request, &Context::new()).unwrap();
                assert!(reply.body == *body);
            });
        }
    });
    assert!((1..=most).contains(&memory.peak()), "{}", memory.peak());
    assert_eq!(memory.held(), 0);
}

#[test]
fn a_server_never_waits_for_the_memory_of_a_client() {
    let (body, ctx) = (text(64 << 20), Context::new());
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let http = HttpTransport::new(&base, 1, Duration::from_secs(600));
            let share = memory.share(1);
            let mut reply = http.begin(&base, Patience::default(), &ctx).unwrap();
            reply.send("POST", &[], Outgoing::Bytes(b"{}")).unwrap();
            reply.head().unwrap();
            unannounced(&share, &ctx).read(&mut reply)
        });
        let (mut stream, _) = listener.accept().unwrap();
        let wait = Some(Duration::from_secs(180));
        stream.set_write_timeout(wait).unwrap();
        // What is not read would reset the connection at its end.
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // More than fits into the buffers of a connection, so it ends only if it is read.
        stream.write_all(&body).unwrap();
        drop(stream);
        memory.until_waiting(1);
        drop(other);
        assert!(call.join().unwrap().unwrap() == body);
    });
    assert_eq!(memory.held(), 0);
}

#[test]
fn a_reply_that_waits_for_memory_outlives_its_deadline() {
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    let ctx = Context::new().with_timeout(Duration::ZERO);
    let share = memory.share(1);
    assert!(unannounced(&share, &ctx).read(&text(LONG)[..]).unwrap() == text(LONG));
}

#[test]
fn a_reply_that_no_disk_takes_is_kept_in_memory() {
    let read_only = tempfile::NamedTempFile::new().unwrap();
    for file in [None, Some(File::open(read_only.path()).unwrap())] {
        let mut aside = SetAside::of(&text(LONG)[..], file).unwrap();
        assert_eq!((aside.filed, aside.length()), (0, LONG as u64));
        let mut bytes = vec![9];
        aside.read_into(&mut bytes).unwrap();
        assert!(bytes[1..] == text(LONG));
    }
}
