//! Replies as bytes: heads and bodies, cut into pieces in any way.

use proptest::prelude::*;

use super::*;
use crate::base::cases::{cases, unescaped};
use crate::llm::transport::head::Head;

/// Returns bytes in pieces of these sizes, repeatedly.
struct Pieces<'b> {
    bytes: &'b [u8],
    sizes: Vec<usize>,
    turn: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        let most = buffer.len().min(size);
        self.bytes.read(&mut buffer[..most])
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    headers: Vec<Option<String>>,
    keeps: bool,
    body: Vec<u8>,
    /// Number of bytes after the reply.
    rest: usize,
}

/// Reads the reply in these bytes, or returns the reason why it cannot be read.
fn reply(bytes: &[u8], sizes: &[usize]) -> Result<Reply, String> {
    let mut from = Pieces {
        bytes,
        sizes: sizes.to_vec(),
        turn: 0,
    };
    let mut input = Input::default();
    let mut answered = false;
    let mut read = || {
        let mut head = Head::read(&mut input, &mut from, &mut answered)?;
        while head.is_interim() {
            head = Head::read(&mut input, &mut from, &mut answered)?;
        }
        let (mut body, mut length) = (Vec::new(), head.body);
        let mut piece = vec![0; sizes[0]];
        loop {
            match length.read(&mut input, &mut from, &mut piece)? {
                0 => break,
                read => body.extend_from_slice(&piece[..read]),
            }
        }
        let names = ["content-type", "x-request-id", "retry-after"];
        let values = names.map(|name| head.headers.get(name).map(str::to_owned));
        Ok(Reply {
            status: head.status,
            headers: values.into(),
            keeps: head.keeps && length.is_complete(),
            body,
            rest: input.unread().len() + from.bytes.len(),
        })
    };
    read().map_err(|fault: Fault| fault.to_string())
}

#[test]
fn a_head_takes_no_steps_with_the_square_of_its_length() {
    use crate::base::steps::{allocated, assert_linear};
    for (what, begin, piece) in [
        ("a header", "HTTP/1.1 200 OK\r\na: ", "b"),
        ("headers", "HTTP/1.1 200 OK\r\n", "a: b\r\n"),
        ("line ends", "", "\r\n"),
        ("a reason", "HTTP/1.1 200 ", "a"),
    ] {
        for size in [1, 4096] {
            assert_linear(what, |n| {
                let bytes = [begin, &piece.repeat(n / 4), "\r\n\r\n"].concat();
                allocated(|| drop(reply(bytes.as_bytes(), &[size])))
            });
        }
    }
}

/// How a body is sent.
#[derive(Debug, Clone)]
enum Sent {
    Known,
    Chunked(Vec<usize>),
    UntilClose,
}

fn written(interim: usize, fields: &[(String, String)], body: &[u8], sent: &Sent) -> Vec<u8> {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(interim);
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields: String = fields.collect();
    let head = |last: &str| format!("{early}HTTP/1.1 200 OK\r\n{fields}{last}\r\n").into_bytes();
    match sent {
        Sent::Known => [&head(&format!("Content-Length: {}\r\n", body.len())), body].concat(),
        Sent::UntilClose => [&head(""), body].concat(),
        Sent::Chunked(sizes) => {
            let mut reply = head("Transfer-Encoding: gzip, Chunked\r\n");
            let (mut left, mut turn) = (body, 0);
            while !left.is_empty() {
                let (chunk, rest) = left.split_at(sizes[turn % sizes.len()].min(left.len()));
                let extension = ["", ";name=value", " ; a"][turn % 3];
                let size = format!("{:X}{extension}\r\n", chunk.len());
                reply = [&reply, size.as_bytes(), chunk, b"\r\n"].concat();
                (left, turn) = (rest, turn + 1);
            }
            [&reply[..], b"0\r\nX-Trailer: t\r\n\r\n"].concat()
        }
    }
}

fn any_sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        Just(Sent::Known),
        Just(Sent::UntilClose),
        prop::collection::vec(1_usize..5000, 1..4).prop_map(Sent::Chunked),
    ]
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![100_000]),
        prop::collection::vec(1_usize..20_000, 1..6),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_reply_is_read_however_it_is_cut(
        interim in 0_usize..3,
        values in prop::collection::vec("[a-z0-9 ]{0,40}", 0..3),
        body in prop::collection::vec(any::<u8>(), 0..30_000),
        sent in any_sent(),
        sizes in any_sizes(),
        rest in 0_usize..3,
    ) {
        let names = ["Content-Type", "X-Request-Id", "RETRY-AFTER"];
        let fields = names.iter().map(|name| (*name).to_owned()).zip(values.iter().cloned());
        let mut bytes = written(interim, &fields.collect::<Vec<_>>(), &body, &sent);
        let rest = if matches!(sent, Sent::UntilClose) { 0 } else { rest };
        bytes.extend(std::iter::repeat_n(b'x', rest));
        let read = reply(&bytes, &sizes).unwrap();
        let trimmed = |n: usize| values.get(n).map(|value| value.trim().to_owned());
        prop_assert_eq!(read.headers, (0..3).map(trimmed).collect::<Vec<_>>());
        prop_assert!(read.body == body);
        prop_assert_eq!((read.status, read.rest), (200, rest));
        prop_assert_eq!(read.keeps, !matches!(sent, Sent::UntilClose));
    }

    #[test]
    fn a_damaged_reply_is_read_alike_however_it_is_cut(
        body in prop::collection::vec(any::<u8>(), 0..200),
        sent in any_sent(),
        sizes in any_sizes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(1, &[], &body, &sent);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        prop_assert_eq!(reply(&bytes, &sizes), reply(&bytes, &[1 << 20]));
    }
}

#[test]
fn the_beginning_of_a_reply_is_not_taken_for_all_of_it() {
    let body = b"{\"answer\": \"it is 42\"}";
    for sent in [Sent::Known, Sent::Chunked(vec![5, 7]), Sent::UntilClose] {
        let bytes = written(1, &[], body, &sent);
        let head = bytes.len() - body.len();
        for cut in 0..bytes.len() {
            let read = reply(&bytes[..cut], &[7]);
            if matches!(sent, Sent::UntilClose) && cut >= head {
                // It cannot be determined whether the body is complete.
                let read = read.unwrap();
                assert_eq!((&*read.body, read.keeps), (&body[..cut - head], false));
            } else {
                let why = read.unwrap_err();
                assert!(why.contains("closed it"), "{cut} of {sent:?}: {why}");
            }
        }
    }
}

#[test]
fn the_head_determines_the_end_of_the_body_and_reuse() {
    for (head, expected) in cases(include_str!("head_cases.txt")) {
        let (keeps, body) = expected.split_once(' ').unwrap_or((expected, ""));
        let body = unescaped(body);
        let tail = if body.is_empty() { "0\r\n\r\n" } else { &body };
        let bytes = format!("\r\nHTTP/{}\r\n\r\n{tail}", unescaped(head));
        let read = reply(bytes.as_bytes(), &[3]).unwrap();
        let expected = (body.as_bytes(), keeps == "keeps");
        assert_eq!((&*read.body, read.keeps), expected, "{head}");
    }
    let empty = [("", "without a reply")];
    for (bytes, why) in cases(include_str!("fault_cases.txt"))
        .into_iter()
        .chain(empty)
    {
        let told = reply(unescaped(bytes).as_bytes(), &[3]).unwrap_err();
        assert!(told.contains(why), "{bytes}: {told}");
    }
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}",
        "x".repeat(1 << 20)
    );
    assert!(
        reply(endless.as_bytes(), &[999])
            .unwrap_err()
            .contains("does not end")
    );
}
