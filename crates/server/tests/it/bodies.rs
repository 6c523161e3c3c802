//! Bodies that are too large, or not what they should be.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::common::{Desk, PATIENCE, cases, shout};

/// Sends all of a request with this `content-length`, and only then reads.
fn talk(desk: &Desk, head: &str, length: usize, body: &[u8]) -> String {
    let address = desk.server().address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{head} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\
         content-type: application/json\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn who_sends_too_much_reads_so() {
    let desk = Desk::new();
    let long = vec![b'x'; 900 << 10];
    for (head, status) in [
        ("POST /api/v1/jobs", "413"),
        ("PUT /api/v1/config/llm.model", "413"),
        ("POST /v1/batches", "413"),
        ("POST /v1/chat/completions", "400"),
        ("POST /v1/files", "415"),
        ("POST /api/v1/processes?type=nothing", "400"),
        ("POST /nothing", "404"),
        ("DELETE /healthz", "405"),
    ] {
        let answer = talk(&desk, head, 12 << 20, &long);
        let status = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&status), "{head}: {answer}");
    }
}

#[test]
fn an_object_is_asked_for_and_each_of_its_keys_once() {
    let desk = Desk::new();
    for (request, part) in cases(
        r#"
        POST /api/v1/jobs ["shout", "hi"] => expected an object
        POST /v1/batches ["file-1", "/v1/chat/completions", "24h", null, null] => expected an object
        PUT /api/v1/config/llm.model ["m"] => expected an object
        POST /v1/chat/completions [] => expected an object
        POST /api/v1/jobs {"type": "shout", "payload": "a", "payload": "b"} => occurs twice
        POST /v1/chat/completions {"model": "sim-1", "model": "sim-2"} => occurs twice
        POST /api/v1/jobs {"type": "shout", "payload": "a"} {} => trailing
    "#,
    ) {
        let (at, _) = request.match_indices(' ').nth(1).unwrap();
        let (head, body) = request.split_at(at);
        let answer = talk(&desk, head, body.len(), body.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        assert!(answer.contains(part), "{head}: {answer}");
    }
    let all = desk.read("/api/v1/processes");
    assert_eq!(all["data"], serde_json::json!([]));
}

/// Clients that believe they talk to a proxy send whole URLs.
#[test]
fn a_target_is_a_path() {
    let desk = Desk::new();
    let address = desk.server().address();
    let job = shout("hi").to_string();
    for (target, status) in [
        ("/api/v1/jobs".to_owned(), "201"),
        (format!("http://{address}/api/v1/jobs"), "421"),
        ("http://evil.example/api/v1/jobs".to_owned(), "421"),
        ("evil.example:443".to_owned(), "400"),
    ] {
        let answer = talk(&desk, &format!("POST {target}"), job.len(), job.as_bytes());
        let status = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&status), "{target}: {answer}");
    }
}

#[test]
fn a_compressed_body_is_refused_with_the_encoding_that_is_accepted() {
    let desk = Desk::new();
    for (encoding, status) in [("gzip", 415), ("br", 415), ("Identity", 201)] {
        let headers = [("content-encoding", encoding)];
        let job = shout("hi").to_string();
        let answer = desk.send("POST", "/api/v1/jobs", &headers, job);
        let answer = answer.is(status);
        if status == 415 {
            assert_eq!(answer.header("accept-encoding"), Some("identity"));
            assert!(answer.text.contains(encoding), "{answer:?}");
        }
    }
}
