//! Clients that are slow, greedy, broken or many.

mod bodies;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Answer, Body, Call, Head, Limits, Listener, Response, Service};
use crate::problem::Problem;

/// Long enough to tell a hang from none on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Most bytes of a body that is taken as a whole.
const MOST_WHOLE: u64 = 4 << 20;

struct Echo {
    held: Sender<()>,
    release: Receiver<()>,
}

impl Service for Echo {
    fn admit(&self, head: &Head, _: SocketAddr) -> Result<Answer<'_>, Response> {
        match head.path.as_str() {
            "/refused" => Err(Problem::new(401, "unauthorized", "no").response("/refused")),
            _ => Ok(Box::new(|call| self.answer(call))),
        }
    }
}

impl Echo {
    fn hold(&self) -> Response {
        let _ = self.held.send(());
        let _ = self.release.recv();
        Response::full(202, "text/plain", Vec::new())
    }

    fn answer(&self, call: &mut Call<'_>) -> Response {
        let text = |text: String| Response::full(200, "text/plain", text.into_bytes());
        let whole = |call: &mut Call<'_>, most| match call.bytes(most) {
            Ok(body) => text(body.len().to_string()),
            Err(problem) => problem.response("/"),
        };
        match call.head.path.as_str() {
            "/panic" => panic!("as asked"),
            "/ignore" => Response::full(202, "text/plain", Vec::new()),
            "/hold" => self.hold(),
            "/whole" => whole(call, MOST_WHOLE),
            "/less" => whole(call, 1 << 10),
            "/whole/hold" => match whole(call, MOST_WHOLE) {
                read if read.status == 200 => self.hold(),
                refused => refused,
            },
            "/big" => Response::stream("text/plain", |out| {
                io::copy(&mut io::repeat(b'x'), out).map(drop)
            }),
            "/torn" => Response::stream("text/plain", |out| {
                out.write_all(b"half")?;
                Err(io::Error::other("as asked"))
            }),
            "/stream" => Response::stream("text/plain", |out| {
                for n in 0..3 {
                    writeln!(out, "{n}")?;
                    out.flush()?;
                }
                Ok(())
            }),
            _ => match io::copy(&mut call.body, &mut io::sink()) {
                Ok(bytes) => text(bytes.to_string()),
                Err(error) => Problem::from(error).response("/"),
            },
        }
    }
}

struct Server {
    listener: Listener,
    held: Receiver<()>,
    release: Sender<()>,
}

fn serve(limits: Limits) -> Server {
    let (told, held) = bounded(100);
    let (release, released) = bounded(100);
    let service = Echo {
        held: told,
        release: released,
    };
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listener = Listener::start(socket, Arc::new(service), limits).unwrap();
    Server {
        listener,
        held,
        release,
    }
}

/// Short times, for clients that misbehave.
fn strict() -> Limits {
    Limits {
        head: Duration::from_millis(300),
        stall: Duration::from_millis(300),
        whole: Duration::from_millis(300),
        ..Limits::default()
    }
}

impl Server {
    /// A connection on which this was sent.
    fn sends(&self, request: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = TcpStream::connect(self.listener.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // What is refused early may be cut off while it is still being sent.
        let _ = stream.write_all(request.as_ref());
        stream
    }

    /// All that is answered to these bytes, up to the end of the connection.
    fn talk(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.sends(request);
        let _ = stream.shutdown(Shutdown::Write);
        rest(&mut stream)
    }

    /// A connection whose request is being carried out.
    fn holds(&self) -> TcpStream {
        let stream = self.sends(get("/hold"));
        self.held.recv_timeout(PATIENCE).unwrap();
        stream
    }

    fn is_up(&self) {
        let answer = self.talk(get("/up"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asserts the status of an answer.
#[track_caller]
fn is(answer: &str, status: &str) {
    assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
}

/// The last header may end with a zero as the last chunk does, so only the body is examined.
#[track_caller]
fn is_torn(answer: &str) {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(!body.ends_with("0\r\n\r\n"), "it has an end: {answer}");
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = serve(Limits::default());
    let answer = server.talk(
        b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
          POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n\
          POST /no-length HTTP/1.1\r\nhost: a\r\n\r\n\
          HEAD /c HTTP/1.1\r\nhost: a\r\n\r\n\
          HEAD /big HTTP/1.1\r\nhost: a\r\n\r\n\
          GET /stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 6, "{answer}");
    let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).collect();
    for (body, start) in bodies.iter().zip(["3", "4", "0", "HTTP/", "HTTP/"]) {
        assert!(body.starts_with(start), "HEAD has no body: {answer}");
    }
    let end = "2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n";
    assert!(answer.ends_with(end), "{answer}");
    assert!(answer.contains("x-content-type-options: nosniff"));
}

#[test]
fn what_is_no_request_is_refused_with_a_status() {
    let server = serve(strict());
    let long = get(&format!("/{}", "x".repeat(9 << 10)));
    let with = |header: &str| get("/").replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    let (wide, many) = (
        with(&format!("a: {}", "x".repeat(20 << 10))),
        with(&"a: b\r\n".repeat(200)),
    );
    let cases: [(&str, &[u8]); 14] = [
        ("414", long.as_bytes()),
        ("431", wide.as_bytes()),
        ("431", many.as_bytes()),
        ("400", b"GET / HTTP/1.1\r\n\r\n"),
        ("400", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("400", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc"),
        ("400", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc"),
        ("400", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc"),
        ("400", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc"),
        ("505", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("505", b"GET / HTTP/3.0\r\nhost: a\r\n\r\n"),
        ("400", b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n"),
        ("400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        ("400", b"GET /\x00 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ];
    for (expected, request) in cases {
        let answer = server.talk(request);
        is(&answer, expected);
        assert!(answer.contains("connection: close"), "{answer}");
    }
    server.is_up();
}

#[test]
fn a_refused_client_sees_why_and_nobody_waits_for_the_rest() {
    let server = serve(Limits::default());
    for bytes in [0, 100, 100_000, 9_000_000] {
        let head = format!("POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
        // The rest never comes.
        let mut stream = server.sends(head);
        if bytes == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let answer = rest(&mut stream);
        is(&answer, "401");
        assert_eq!(answer.contains("connection: close"), bytes > 0, "{answer}");
    }
}

#[test]
fn who_waits_to_be_asked_is_asked() {
    let server = serve(Limits::default());
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
    };
    let mut stream = server.sends(head("/a"));
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    is(&rest(&mut stream), "200");
    // Refused without the body.
    is(&server.talk(head("/refused")), "401");
}

#[test]
fn a_handler_that_panics_costs_one_request_and_half_an_answer_looks_like_one() {
    let server = serve(Limits::default());
    let answer = server.talk(get("/panic") + &get("/up"));
    is(&answer, "500");
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    is_torn(&server.talk(get("/torn")));
}

#[test]
fn slow_writers_are_told_so_and_cut_off() {
    let server = serve(strict());
    let starts = [
        "GET / HTTP/1.1\r\nhos",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nab",
    ];
    // A head that does not end, a body that does not come, and nothing at all.
    let slow = [(); 10].map(|()| starts.map(|start| server.sends(start)));
    let mut silent = server.sends("");
    server.is_up();
    for [mut head, mut body] in slow {
        assert_eq!(rest(&mut head), "");
        is(&rest(&mut body), "408");
    }
    assert_eq!(rest(&mut silent), "");
}

/// A byte now and then resets a time-out for each read, but not the time for the whole.
#[test]
fn a_trickle_does_not_hold_a_connection() {
    let server = serve(strict());
    for start in [
        "POST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: ",
    ] {
        let mut stream = server.sends(start);
        let pause = Duration::from_millis(20);
        stream.set_read_timeout(Some(pause)).unwrap();
        let (began, mut answer) = (Instant::now(), Vec::new());
        // What was read before a time-out is kept.
        while let Err(error) = stream.read_to_end(&mut answer)
            && matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            )
        {
            assert!(began.elapsed() < PATIENCE, "it holds on");
            let _ = stream.write_all(b"x");
        }
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"));
    }
}

#[test]
fn who_takes_nothing_is_cut_off() {
    let server = serve(strict());
    let mut stream = server.sends(get("/big"));
    // The beginning of the answer: it is being sent.
    stream.read_exact(&mut [0; 1]).unwrap();
    let began = Instant::now();
    while server.listener.connections() > 0 {
        assert!(began.elapsed() < PATIENCE, "it holds on");
        std::thread::yield_now();
    }
    is_torn(&rest(&mut stream));
}

#[test]
fn what_is_beyond_the_limit_is_turned_away() {
    let server = serve(Limits {
        connections: 8,
        ..Limits::default()
    });
    let busy = [(); 8].map(|()| server.holds());
    let answer = rest(&mut server.sends(""));
    is(&answer, "503");
    assert!(answer.contains("retry-after: 1"), "{answer}");
    for _ in &busy {
        server.release.send(()).unwrap();
    }
    for mut stream in busy {
        stream.shutdown(Shutdown::Write).unwrap();
        is(&rest(&mut stream), "202");
    }
    server.is_up();
}

#[test]
fn a_stop_lets_what_runs_end_and_takes_nothing_more() {
    let mut server = serve(Limits::default());
    let (mut idle, mut busy) = (server.sends(""), server.holds());
    let (address, release) = (server.listener.address(), server.release.clone());
    let stopping = std::thread::spawn(move || {
        server.listener.stop(PATIENCE);
        server
    });
    assert_eq!(rest(&mut idle), "", "idle ones end at once");
    release.send(()).unwrap();
    let answer = rest(&mut busy);
    is(&answer, "202");
    assert!(answer.contains("connection: close"), "{answer}");
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_answer_shows_its_size_and_nothing_else() {
    let body = Body::Full(b"secret".into());
    assert_eq!(format!("{body:?}"), "Full(6 bytes)");
}

#[test]
fn a_head_takes_no_steps_with_the_square_of_its_length() {
    use crate::steps::{allocated, assert_linear};
    for (what, begin, piece) in [
        ("a path", "GET /", "%20"),
        ("parameters", "GET /?", "a=b&"),
        ("a header", "GET / HTTP/1.1\r\na: ", "b"),
        ("headers", "GET / HTTP/1.1\r\n", "a: b\r\n"),
        ("line ends", "", "\r\n"),
    ] {
        assert_linear(what, |n| {
            let bytes = [begin, &piece.repeat(n / 4), " HTTP/1.1\r\n\r\n"].concat();
            let mut http = http_net::ServerConn::new();
            allocated(|| {
                // Each byte comes by itself.
                for byte in bytes.bytes() {
                    http.read_buf()[0] = byte;
                    http.commit(1);
                    match http.poll() {
                        Ok(http_net::ServerEvent::Request(head)) => drop(Head::of(&head)),
                        Ok(http_net::ServerEvent::NeedInput) => {}
                        _ => break,
                    }
                }
            })
        });
    }
}
