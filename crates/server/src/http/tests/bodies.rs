//! Bodies that are large together, and clients that send on after they were answered.

use super::*;

/// A body that needs a permit.
const LARGE: usize = 2 << 20;

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

#[test]
fn large_bodies_take_turns_and_small_ones_pass_by() {
    let server = serve(Limits::default());
    for make in [request, chunked] {
        std::thread::scope(|scope| {
            let ask = || rest(&mut server.sends(&make("/whole/hold", LARGE)));
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            for _ in 0..4 {
                server.held.recv_timeout(PATIENCE).unwrap();
            }
            let answer = rest(&mut server.sends(&make("/whole", 1 << 20)));
            is(&answer, "200");
            let more = server.held.recv_timeout(Duration::from_millis(50));
            assert!(more.is_err(), "more than four at once");
            for _ in 0..8 {
                server.release.send(()).unwrap();
            }
            for client in clients {
                is(&client.join().unwrap(), "202");
            }
        });
        while server.held.try_recv().is_ok() {}
    }
}

#[test]
fn a_client_that_leaves_and_one_that_is_slow_keep_no_permit() {
    let server = serve(Limits {
        stall: Duration::from_millis(300),
        ..Limits::default()
    });
    let head = format!("POST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: {LARGE}\r\n\r\n");
    let slow = [(); 4].map(|()| server.sends(head.as_bytes()));
    drop([(); 4].map(|()| server.sends(head.as_bytes())));
    let answer = rest(&mut server.sends(&request("/whole", LARGE)));
    is(&answer, "200");
    for mut slow in slow {
        is(&rest(&mut slow), "408");
    }
}

#[test]
fn an_answer_does_not_wait_for_chunks_that_nobody_wants() {
    let server = serve(Limits {
        stall: 4 * PATIENCE,
        ..Limits::default()
    });
    let head = "POST /ignore HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut pauses = server.sends(format!("{head}2\r\nhi\r\n"));
    let answer = rest(&mut pauses);
    is(&answer, "202");
    assert!(answer.contains("connection: close"), "{answer}");
    let up = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let ends = format!("{head}2\r\nhi\r\n0\r\n\r\n{up}");
    let answer = rest(&mut server.sends(ends.as_bytes()));
    assert_eq!(answer.matches("HTTP/1.1 20").count(), 2, "{answer}");
}

/// It is sent to its end although the answer is there before.
const LONG: usize = 900 << 10;

#[test]
fn an_answer_is_read_behind_a_body_that_nobody_wanted() {
    let server = serve(Limits::default());
    for (path, expected) in [("/refused", "401"), ("/less", "413"), ("/ignore", "202")] {
        for make in [request, chunked] {
            let answer = rest(&mut server.sends(&make(path, LONG)));
            is(&answer, expected);
        }
    }
    let answer = rest(&mut server.sends(
        b"POST /whole HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\ncontent-length: 2\r\n\r\nhi",
    ));
    is(&answer, "417");
}
