use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::thread;

use parking_lot::Mutex;

use super::*;
use crate::llm::transport::call::Outgoing;
use crate::llm::transport::memory::ReplyMemory;
use crate::llm::transport::timeouts::Patience;
use crate::llm::transport::{HttpRequest, HttpTransport, Transport};

const LONG: usize = 3 * FREE as usize;

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8).collect()
}

fn refused() -> io::Result<File> {
    Err(io::ErrorKind::PermissionDenied.into())
}

/// A reader that records when it has been read to its end.
struct Watched<'a>(&'a [u8], Arc<Mutex<bool>>);

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        *self.1.lock() |= read == 0;
        Ok(read)
    }
}

/// Reads a body of any length.
fn unannounced<'a>(
    share: &'a ReplyShare,
    ctx: &'a Context,
    file: fn() -> io::Result<File>,
    paused: &'a dyn Fn(Duration),
) -> BodyReader<'a> {
    BodyReader {
        announced: None,
        most: u64::MAX,
        share,
        ctx,
        file,
        paused,
    }
}

/// Reads a body while another call holds all the memory, until this call waits for it. Returns the body, whether it
/// had been read completely by then, and whether a pause was reported.
fn crowded(
    body: &[u8],
    announced: bool,
    most: u64,
    file: fn() -> io::Result<File>,
) -> (Vec<u8>, bool, bool) {
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    let (whole, paused) = (Arc::new(Mutex::new(false)), Mutex::new(false));
    let read = thread::scope(|scope| {
        let reader = Watched(body, whole.clone());
        let paused = &paused;
        let call = scope.spawn(move || {
            let (share, ctx) = (memory.share(1), Context::new());
            let reading = BodyReader {
                announced: announced.then_some(body.len() as u64),
                most,
                share: &share,
                ctx: &ctx,
                file,
                paused: &|_| *paused.lock() = true,
            };
            let read = reading.read(reader).unwrap();
            let bytes = read.into_memory("http://host", &share, &ctx).unwrap();
            assert_eq!(
                memory.held(),
                bytes.len() as u64,
                "held until it is decoded"
            );
            bytes
        });
        memory.until_waiting(1);
        let before = *whole.lock();
        drop(other);
        (call.join().unwrap(), before)
    });
    assert_eq!(memory.held(), 0);
    (read.0, read.1, paused.into_inner())
}

#[test]
fn a_reply_without_memory_is_still_read_to_its_end() {
    let body = text(LONG + 5);
    for announced in [true, false] {
        let (read, whole, paused) = crowded(&body, announced, u64::MAX, nameless);
        assert!(read == body);
        assert!(whole && !paused);
    }
}

#[test]
fn a_reply_spills_to_disk_only_up_to_its_limit() {
    let (read, whole, _) = crowded(&text(LONG), false, FREE + 9, nameless);
    assert!(!whole);
    assert!(read == text(LONG)[..FREE as usize + 9]);
}

#[test]
fn without_a_file_the_reply_is_read_when_memory_is_free() {
    let body = text(LONG);
    let (read, whole, paused) = crowded(&body, true, u64::MAX, refused);
    assert!(read == body);
    assert!(!whole && paused);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_loses_nothing() {
    let full = || File::options().read(true).write(true).open("/dev/full");
    let body = text(LONG);
    let (read, whole, paused) = crowded(&body, true, u64::MAX, full);
    assert!(read == body);
    assert!(!whole && paused);
}

#[test]
fn written_and_unwritten_bytes_are_returned_in_order() {
    let mut file = nameless().unwrap();
    file.write_all(b"cdef, of which a part").unwrap();
    let mut aside = SpillFile {
        file: Some(file),
        written: 4,
        rest: b"gh".to_vec(),
    };
    let mut bytes = b"ab".to_vec();
    aside.bring_back(&mut bytes).unwrap();
    assert_eq!(bytes, b"abcdefgh");
}

#[test]
fn a_truncated_spill_file_is_an_error() {
    let mut aside = SpillFile {
        file: Some(nameless().unwrap()),
        written: 4,
        rest: Vec::new(),
    };
    assert!(aside.bring_back(&mut Vec::new()).is_err());
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
            file: || panic!("a small reply is kept in memory"),
            paused: &|_| panic!("a small reply waits for nothing"),
        };
        let body = text(FREE as usize - 1);
        let read = reading.read(&body[..]).unwrap();
        assert!(read.into_memory("", &share, &ctx).unwrap() == body);
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
        file: refused,
        paused: &|_| (),
    };
    reading.read(&text(LONG)[..]).unwrap();
    assert_eq!((memory.peak(), memory.held()), (1 << 24, LONG as u64));
    drop(share);
    assert_eq!(memory.held(), 0);
}

#[test]
fn an_abort_ends_the_wait_for_memory_and_loses_no_bytes() {
    let memory = ReplyMemory::apart();
    let other = memory.share(1);
    assert!(other.take_now(1));
    for (file, has_come) in [(nameless as fn() -> _, true), (refused, false)] {
        let ctx = Context::new();
        thread::scope(|scope| {
            let call = scope.spawn(|| {
                let share = memory.share(1);
                let reading = unannounced(&share, &ctx, file, &|_| ());
                let body = reading.read(&text(LONG)[..]).ok()?;
                body.into_memory("http://host", &share, &ctx).ok()
            });
            memory.until_waiting(1);
            ctx.abort();
            let bytes = call.join().unwrap();
            assert_eq!(bytes.is_some_and(|bytes| bytes == text(LONG)), has_come);
        });
    }
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
            let reading = unannounced(&share, &ctx, refused, &pause);
            let body = reading.read(&mut reply).unwrap();
            body.into_memory(&base, &share, &ctx)
        });
        memory.until_waiting(1);
        // The test must wait here: only real time makes the time limit pass.
        thread::sleep(timeout);
        drop(other);
        assert!(call.join().unwrap().unwrap() == *body);
    });
}
