use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::thread;

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
fn unannounced<'a>(
    share: &'a ReplyShare,
    ctx: &'a Context,
    paused: &'a dyn Fn(Duration),
) -> BodyReader<'a> {
    BodyReader {
        announced: None,
        most: u64::MAX,
        share,
        ctx,
        paused,
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
            paused: &|_| panic!("a small reply waits for nothing"),
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
        paused: &|_| (),
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
            let reading = unannounced(&share, &ctx, &|_| ());
            reading.read(&text(LONG)[..]).is_err()
        });
        memory.until_waiting(1);
        ctx.abort();
        assert!(call.join().unwrap());
    });
    assert_eq!(memory.held(), 1);
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
                let mut seen = Vec::new();
                let mut buffer = [0; 512];
                while !seen.ends_with(b"{}") {
                    let read = stream.read(&mut buffer).unwrap();
                    seen.extend_from_slice(&buffer[..read]);
                }
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
fn waiting_for_memory_does_not_count_as_server_time() {
    let body = Arc::new(text(4 << 20));
    let base = server(1, body.clone());
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    let timeout = Duration::from_secs(2);
    let http = HttpTransport::new(&base, 1, timeout);
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let (share, ctx) = (memory.share(1), Context::new());
            let patience = Patience::new(Some(timeout));
            let mut reply = http.begin(&base, patience, &ctx).unwrap();
            reply.send("POST", &[], Outgoing::Bytes(b"{}")).unwrap();
            reply.head().unwrap();
            let patience = reply.patience.clone();
            let pause = |time| patience.exclude(time);
            let reading = unannounced(&share, &ctx, &pause);
            reading.read(&mut reply)
        });
        memory.until_waiting(1);
        // The test must wait here: only real time makes the time limit pass.
        thread::sleep(timeout);
        drop(other);
        assert!(call.join().unwrap().unwrap() == *body);
    });
}
