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
    fn answer(&self, call: &mut Call<'_>) -> Response {
        match call.head.path.as_str() {
            "/panic" => panic!("as asked"),
            "/ignore" => Response::empty(204),
            "/hold" => {
                let _ = self.held.send(());
                let _ = self.release.recv();
                Response::empty(204)
            }
            "/whole" => match call.bytes(MOST_WHOLE) {
                Ok(body) => Response::full(200, "text/plain", body.len().to_string().into_bytes()),
                Err(problem) => problem.response("/"),
            },
            "/less" => match call.bytes(1 << 10) {
                Ok(_) => Response::empty(204),
                Err(problem) => problem.response("/"),
            },
            "/whole/hold" => match call.bytes(MOST_WHOLE) {
                Ok(_) => {
                    let _ = self.held.send(());
                    let _ = self.release.recv();
                    Response::empty(204)
                }
                Err(problem) => problem.response("/"),
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
                Ok(bytes) => Response::full(200, "text/plain", bytes.to_string().into_bytes()),
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
    let (held, is_held) = bounded(100);
    let (release, released) = bounded(100);
    let service = Echo {
        held,
        release: released,
    };
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Server {
        listener: Listener::start(socket, Arc::new(service), limits).unwrap(),
        held: is_held,
        release,
    }
}

/// Short times, for clients that misbehave.
fn strict() -> Limits {
    Limits {
        head: Duration::from_millis(300),
        stall: Duration::from_millis(300),
        ..Limits::default()
    }
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All that is answered to these bytes, up to the end of the connection.
    fn talk(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // What is refused early may be cut off while it is still being sent.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        rest(&mut stream)
    }

    fn is_up(&self) {
        let answer = self.talk(b"GET /up HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = serve(Limits::default());
    let answer = server.talk(
        b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
          POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n\
          POST /no-length HTTP/1.1\r\nhost: a\r\n\r\n\
          HEAD /c HTTP/1.1\r\nhost: a\r\n\r\n\
          GET /stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 5, "{answer}");
    let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).collect();
    assert!(bodies[0].starts_with('3') && bodies[1].starts_with('4') && bodies[2].starts_with('0'));
    assert!(
        bodies[3].starts_with("HTTP/1.1 200"),
        "HEAD has no body: {answer}"
    );
    assert!(
        answer.ends_with("2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n"),
        "{answer}"
    );
    assert!(answer.contains("x-content-type-options: nosniff"));
}

#[test]
fn what_is_no_request_is_refused_with_a_status() {
    let server = serve(strict());
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(9 << 10));
    let wide = format!(
        "GET / HTTP/1.1\r\nhost: a\r\na: {}\r\n\r\n",
        "x".repeat(20 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "a: b\r\n".repeat(200)
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
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert_eq!(status(&answer), expected, "{shown:?}: {answer}");
        assert!(answer.contains("connection: close"), "{shown:?}: {answer}");
    }
    server.is_up();
}

#[test]
fn a_refused_client_sees_why_and_nobody_waits_for_the_rest() {
    let server = serve(Limits::default());
    for bytes in [0, 100, 100_000, 9_000_000] {
        let mut stream = server.connect();
        let head = format!("POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The rest never comes.
        let mut answer = String::new();
        if bytes == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), "401", "{answer}");
        assert_eq!(answer.contains("connection: close"), bytes > 0, "{answer}");
    }
    // What is sent without looking is taken for a while, so that the answer is not lost.
    let mut stream = server.connect();
    stream
        .write_all(b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
        .unwrap();
    stream.write_all(&[b'x'; 100_000]).unwrap();
    assert_eq!(status(&rest(&mut stream)), "401");
}

#[test]
fn an_answer_to_head_ends_though_its_body_would_not() {
    let server = serve(Limits::default());
    for path in ["/big", "/stream"] {
        let request =
            format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\nGET /up HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = server.talk(request.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    }
}

#[test]
fn who_waits_to_be_asked_is_asked() {
    let server = serve(Limits::default());
    let mut stream = server.connect();
    let head = b"POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(status(&rest(&mut stream)), "200");
    let answer = server.talk(
        b"POST /refused HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    );
    assert_eq!(status(&answer), "401", "refused without the body: {answer}");
}

#[test]
fn a_handler_that_panics_costs_one_request() {
    let server = serve(Limits::default());
    let answer =
        server.talk(b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\nGET /up HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(status(&answer), "500");
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn half_an_answer_looks_like_one() {
    let server = serve(Limits::default());
    let answer = server.talk(b"GET /torn HTTP/1.1\r\nhost: a\r\n\r\n");
    // The last header may end with a zero as the last chunk does, so only the body is examined.
    let (_, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    assert!(body.is_empty() || body.contains("half"), "{answer}");
    assert!(
        !body.ends_with("0\r\n\r\n"),
        "the body has an end: {answer}"
    );
}

#[test]
fn slow_writers_are_told_so_and_cut_off() {
    let server = serve(strict());
    // A head that does not end, a body that does not come, and nothing at all.
    let mut heads: Vec<TcpStream> = (0..20)
        .map(|n| {
            let mut stream = server.connect();
            let start: &[u8] = match n % 2 {
                0 => b"GET / HTTP/1.1\r\nhos",
                _ => b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nab",
            };
            stream.write_all(start).unwrap();
            stream
        })
        .collect();
    let mut silent = server.connect();
    server.is_up();
    for stream in &mut heads {
        let answer = rest(stream);
        assert_eq!(status(&answer), "408", "{answer}");
    }
    assert_eq!(rest(&mut silent), "");
}

/// A byte now and then resets a time-out for each read, but not the time for the whole.
#[test]
fn a_trickle_does_not_hold_a_connection() {
    let limits = Limits {
        slowest: 1 << 20,
        ..strict()
    };
    let server = serve(limits);
    for start in [
        &b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
    ] {
        let mut stream = server.connect();
        stream.write_all(start).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let _ = stream.write_all(b"x");
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
            assert!(began.elapsed() < PATIENCE, "it holds on");
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
    }
}

#[test]
fn who_takes_nothing_is_cut_off() {
    let server = serve(strict());
    let mut stream = server.connect();
    stream
        .write_all(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    // The beginning of the answer: it is being sent.
    stream.read_exact(&mut [0; 1]).unwrap();
    let began = Instant::now();
    while server.listener.connections() > 0 {
        assert!(began.elapsed() < PATIENCE, "it holds on");
        std::thread::yield_now();
    }
    let answer = rest(&mut stream);
    // The last header may end with a zero as the last chunk does, so only the body is examined.
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(!body.ends_with("0\r\n\r\n"));
}

#[test]
fn what_is_beyond_the_limit_is_turned_away() {
    let limits = Limits {
        connections: 8,
        ..Limits::default()
    };
    let server = serve(limits);
    let busy: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            stream
                .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            server.held.recv_timeout(PATIENCE).unwrap();
            stream
        })
        .collect();
    let answer = rest(&mut server.connect());
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
    for _ in &busy {
        server.release.send(()).unwrap();
    }
    for mut stream in busy {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(status(&rest(&mut stream)), "204");
    }
    server.is_up();
}

#[test]
fn a_stop_lets_what_runs_end_and_takes_nothing_more() {
    let mut server = serve(Limits::default());
    let mut idle = server.connect();
    let mut busy = server.connect();
    busy.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    server.held.recv_timeout(PATIENCE).unwrap();
    let address = server.listener.address();
    let release = server.release.clone();
    let stopping = std::thread::spawn(move || {
        server.listener.stop(PATIENCE);
        server
    });
    assert_eq!(rest(&mut idle), "", "idle ones end at once");
    release.send(()).unwrap();
    let answer = rest(&mut busy);
    assert_eq!(status(&answer), "204");
    assert!(answer.contains("connection: close"), "{answer}");
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_answer_shows_its_size_and_nothing_else() {
    let body = Body::Full(b"secret".into());
    assert_eq!(format!("{body:?}"), "Full(6 bytes)");
}
