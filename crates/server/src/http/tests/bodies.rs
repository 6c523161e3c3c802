//! Bodies that are large together, and clients that send on after they were answered.

use super::*;

/// So many bytes of a body, three of which fit.
const LARGE: usize = 200 << 10;
/// And of one that takes no room.
const FREE_BODY: usize = (512 << 10) / 6;

fn crowded(connections: usize) -> Server {
    serve(Limits {
        connections,
        body_memory: 4 << 20,
        ..Limits::default()
    })
}

fn request(path: &str, bytes: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
    );
    [head.into_bytes(), vec![b'x'; bytes]].concat()
}

fn chunked(path: &str, bytes: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    format!("{head}{}0\r\n\r\n", chunk.repeat(bytes / 0x1000)).into_bytes()
}

impl Server {
    fn sends(&self, request: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream
    }

    fn waits_for(&self, waiting: usize) {
        let began = Instant::now();
        while self.listener.memory().waiting() != waiting {
            assert!(began.elapsed() < PATIENCE, "{waiting} do not wait");
            std::thread::yield_now();
        }
    }
}

#[test]
fn large_bodies_take_turns_and_small_ones_pass_by() {
    let server = crowded(64);
    for make in [request, chunked] {
        std::thread::scope(|scope| {
            let ask = || rest(&mut server.sends(&make("/whole/hold", LARGE)));
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            let (mut open, began) = (0, Instant::now());
            while open + server.listener.memory().waiting() < 8 {
                let more = server.held.recv_timeout(Duration::from_millis(10));
                open += usize::from(more.is_ok());
                assert!(began.elapsed() < PATIENCE, "{open} have room");
            }
            assert!((1..=3).contains(&open), "{open} at once");
            let answer = rest(&mut server.sends(&make("/whole", 20 << 10)));
            assert_eq!(status(&answer), "200", "{answer}");
            for _ in 0..8 {
                server.release.send(()).unwrap();
            }
            for client in clients {
                let answer = client.join().unwrap();
                assert_eq!(status(&answer), "204", "{answer}");
            }
        });
        while server.held.try_recv().is_ok() {}
        let (peak, now) = server.listener.memory().used();
        assert!(peak <= 4 << 20, "{peak}");
        assert!(peak >= (LARGE as u64) * 6, "{peak}");
        assert_eq!(now, 0);
    }
}

#[test]
fn who_finds_no_room_is_told_so_though_it_sends_on() {
    // One may wait.
    let server = crowded(7);
    let answer = |bytes| rest(&mut server.sends(&request("/whole", bytes)));
    std::thread::scope(|scope| {
        let holds = scope.spawn(|| rest(&mut server.sends(&request("/whole/hold", 500 << 10))));
        server.held.recv_timeout(PATIENCE).unwrap();
        let waits = scope.spawn(|| answer(500 << 10));
        server.waits_for(1);
        let refused = answer(500 << 10);
        assert_eq!(status(&refused), "503", "{refused}");
        assert!(refused.contains("retry-after: 30"), "{refused}");
        assert_eq!(status(&answer(20 << 10)), "200");
        assert_eq!(status(&answer(1 << 20)), "413", "there never is room");
        // Nobody is asked for a body that finds no room.
        let refused = server.talk(
            b"POST /whole HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 500000\r\n\r\n",
        );
        assert_eq!(status(&refused), "503", "{refused}");
        server.release.send(()).unwrap();
        assert_eq!(status(&holds.join().unwrap()), "204");
        assert_eq!(status(&waits.join().unwrap()), "200");
    });
}

#[test]
fn room_is_for_what_comes_and_not_for_what_is_told() {
    let server = serve(Limits {
        stall: 4 * PATIENCE,
        body_memory: 4 << 20,
        ..Limits::default()
    });
    let head = "POST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n";
    let some = vec![b'x'; FREE_BODY];
    let _heads = [(); 3].map(|()| server.sends(head.as_bytes()));
    let _starts = [(); 3].map(|()| server.sends(&[head.as_bytes(), &some].concat()));
    std::thread::scope(|scope| {
        let holds = || rest(&mut server.sends(&request("/whole/hold", 500 << 10)));
        let holds = scope.spawn(holds);
        server.held.recv_timeout(PATIENCE).unwrap();
        assert_eq!(server.listener.memory().waiting(), 0);
        let waits = server.sends(&[head.as_bytes(), &some, b"x"].concat());
        server.waits_for(1);
        drop(waits);
        server.waits_for(0);
        server.release.send(()).unwrap();
        assert_eq!(status(&holds.join().unwrap()), "204");
    });
}

#[test]
fn an_answer_does_not_wait_for_chunks_that_nobody_wants() {
    let server = serve(Limits {
        stall: 4 * PATIENCE,
        ..Limits::default()
    });
    let head = "POST /ignore HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut pauses = server.sends(format!("{head}2\r\nhi\r\n").as_bytes());
    let answer = rest(&mut pauses);
    assert_eq!(status(&answer), "204", "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let up = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let ends = format!("{head}2\r\nhi\r\n0\r\n\r\n{up}");
    let answer = rest(&mut server.sends(ends.as_bytes()));
    assert_eq!(answer.matches("HTTP/1.1 20").count(), 2, "{answer}");
}

/// More than any socket buffers: it is sent to its end although the answer is there before.
const LONG: usize = 24 << 20;

#[test]
fn an_answer_is_read_behind_a_body_that_nobody_wanted() {
    let server = serve(Limits {
        connections: 1,
        ..Limits::default()
    });
    for (path, expected) in [("/refused", "401"), ("/whole", "413"), ("/ignore", "204")] {
        for make in [request, chunked] {
            let answer = rest(&mut server.sends(&make(path, LONG)));
            assert_eq!(status(&answer), expected, "{path}: {answer}");
        }
    }
    let answer = rest(&mut server.sends(
        b"POST /whole HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\ncontent-length: 2\r\n\r\nhi",
    ));
    assert_eq!(status(&answer), "417", "{answer}");
    let mut busy = server.sends(b"GET /hold HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    server.held.recv_timeout(PATIENCE).unwrap();
    let answer = rest(&mut server.sends(&request("/whole", LONG)));
    assert_eq!(status(&answer), "503", "no connection is left: {answer}");
    server.release.send(()).unwrap();
    assert_eq!(status(&rest(&mut busy)), "204");
}
