use std::io::Write;
use std::thread;
use std::time::Duration;

use super::*;
use crate::llm::transport::HttpTransport;
use crate::llm::transport::fault::Patience;
use crate::llm::transport::memory::tests::apart;
use crate::llm::transport::raw_server::{listen, request};

const LONG: usize = 3 * FREE as usize;

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8).collect()
}

/// Reads at most `most` bytes of a body.
fn reading<'a>(most: u64, share: &'a ReplyShare, ctx: &'a Context) -> BodyReader<'a> {
    BodyReader {
        announced: None,
        most,
        share,
        ctx,
    }
}

fn whole(reading: &BodyReader<'_>, reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reading.read(reader, &mut bytes).unwrap();
    bytes
}

/// A body whose connection is lost behind these bytes.
struct Lost<'a>(&'a [u8]);

impl Read for Lost<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            read => read,
        }
    }
}

#[test]
fn what_arrived_before_a_failure_is_there_wherever_it_waited() {
    let ctx = Context::new();
    for (room, length) in [(1 << 30, 9), (1 << 30, LONG), (1, LONG)] {
        let share = ReplyShare::of(apart(room));
        let mut bytes = Vec::new();
        let read = reading(1 << 24, &share, &ctx).read(Lost(&text(length)), &mut bytes);
        let kind = read.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ConnectionReset, "{room} {length}");
        assert!(bytes == text(length), "{room} {length}");
    }
}

#[test]
fn a_reply_holds_only_the_memory_of_its_length_and_a_small_one_none() {
    let (memory, ctx) = (apart(1 << 30), Context::new());
    let share = ReplyShare::of(memory);
    for announced in [None, Some(1 << 40)] {
        let reading = BodyReader {
            announced,
            ..reading(u64::MAX, &share, &ctx)
        };
        let body = text(FREE as usize - 1);
        assert!(whole(&reading, &body[..]) == body);
    }
    assert_eq!(memory.held(), 0);
    let body = text(LONG);
    whole(&reading(1 << 24, &share, &ctx), &body[..]);
    assert_eq!(memory.held(), LONG as u64);
    drop(share);
    assert_eq!(memory.held(), 0);
}

#[test]
fn an_abort_ends_the_wait_for_memory_and_a_deadline_does_not() {
    let memory = apart(1);
    let other = ReplyShare::of(memory);
    assert!(other.take_now(1));
    let ctx = Context::new();
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let share = ReplyShare::of(memory);
            let reading = reading(u64::MAX, &share, &ctx);
            reading.read(&text(LONG)[..], &mut Vec::new()).is_err()
        });
        memory.until_waiting(1);
        ctx.abort();
        assert!(call.join().unwrap());
    });
    assert_eq!(memory.held(), 1);
    let ctx = Context::new().with_timeout(Duration::ZERO);
    let share = ReplyShare::of(memory);
    let reading = reading(u64::MAX, &share, &ctx);
    assert!(whole(&reading, &text(LONG)[..]) == text(LONG));
}

#[test]
fn a_server_never_waits_for_the_memory_of_a_client() {
    let (body, ctx) = (text(64 << 20), Context::new());
    let memory = apart(1);
    let other = ReplyShare::of(memory);
    assert!(other.take_now(1));
    let (tx, rx) = crossbeam_channel::bounded(1);
    let (base, _) = listen(move |listener| tx.send(listener.accept().unwrap().0).unwrap());
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let http = HttpTransport::new(&base, 1, Duration::from_secs(600)).unwrap();
            let share = ReplyShare::of(memory);
            let mut reply = http.begin(&base, Patience::default(), &ctx).unwrap();
            reply.send("GET", &[], None).unwrap();
            reply.head().unwrap();
            whole(&reading(u64::MAX, &share, &ctx), &mut reply)
        });
        let mut stream = rx.recv().unwrap();
        let wait = Some(Duration::from_secs(180));
        stream.set_write_timeout(wait).unwrap();
        // What is not read would reset the connection at its end.
        request(&stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // More than fits into the buffers of a connection, so it ends only if it is read.
        stream.write_all(&body).unwrap();
        drop(stream);
        memory.until_waiting(1);
        drop(other);
        assert!(call.join().unwrap() == body);
    });
    assert_eq!(memory.held(), 0);
}

#[test]
fn a_reply_that_no_disk_takes_is_kept_in_memory() {
    let read_only = tempfile::NamedTempFile::new().unwrap();
    for file in [None, Some(File::open(read_only.path()).unwrap())] {
        let mut aside = SetAside::of(&text(LONG)[..], file).0;
        assert_eq!((aside.filed, aside.length()), (0, LONG as u64));
        let mut bytes = vec![9];
        aside.read_into(&mut bytes).unwrap();
        assert!(bytes[1..] == text(LONG));
    }
}
