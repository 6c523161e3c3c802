//! Keys and passwords go to their server and nowhere else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::common::{Desk, Running};

const KEY: &str = "sk-secret/0123456789abcdef";
const PASSWORD: &str = "passw0rd-of-the-proxy";

/// A server that quotes the request's header in every reply, as careless gateways do.
struct Echo {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || answer(stream, status, &seen));
            }
        });
        Self { address, heads }
    }
}

fn answer(stream: TcpStream, status: &str, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1)?;
        let length = length.split("\r\n").next()?.parse().ok()?;
        reader.read_exact(&mut vec![0; length]).ok()?;
        let quoted = head.replace("\r\n", " | ").replace('"', "'");
        seen.lock().ok()?.push(head);
        // Some encoders escape the slash.
        let text = format!("you sent {}", quoted.replace('/', "\\/"));
        let body = if status.starts_with("200") {
            format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}")
        } else {
            format!("{{\"error\":{{\"message\":\"{text}\"}}}}")
        };
        let length = body.len();
        let header = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nx-echo: {quoted}");
        write!(stream, "{header}\r\n\r\n{body}").ok()?;
    }
}

#[track_caller]
fn clean(texts: &[(&str, &str)]) {
    // The second half of the list is how a password looks in a header of basic authentication.
    let basic = "dXNlcjpwYXNzdzByZC1vZi10aGUtcHJveHk";
    for (name, text) in texts {
        for secret in [KEY, "0123456789abcdef", PASSWORD, basic] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
    }
}

#[test]
fn neither_key_nor_password_is_shown_however_much_is_said() {
    for status in ["400 Bad", "401 Unauthorized", "500 Oops", "200 OK"] {
        for log in [None, Some("trace"), Some("ureq_proto::util=trace")] {
            let (desk, server) = (Desk::new(), Echo::start(status));
            desk.prompts("in.jsonl", 2);
            let url = format!("http://user:{PASSWORD}@{}/v1", server.address);
            let words = "run in.jsonl -o out.jsonl --provider openai --model m -vv \
                         --max-retries 0 --base-url";
            let mut command = desk.command(words.split_whitespace().chain([&*url]));
            command.env("OPENAI_API_KEY", KEY);
            if let Some(log) = log {
                command.env("RUST_LOG", log);
            }
            let ended = Running::start(&mut command).wait();
            assert!(matches!(ended.status.code(), Some(0 | 3 | 4)));
            let sent = server.heads.lock().unwrap().concat();
            assert!(sent.contains(&format!("Bearer {KEY}")), "{sent}");
            assert!(!desk.read("out.jsonl").is_empty());
            // Also not cut into pieces, as in a hexadecimal listing.
            assert!(!ended.stderr.contains("sk-"), "{}", ended.stderr);
            clean(&[
                ("stdout", &ended.stdout),
                ("stderr", &ended.stderr),
                ("the output", &desk.read("out.jsonl")),
            ]);
        }
    }
}

#[test]
fn a_url_in_the_environment_is_shown_without_its_password() {
    let desk = Desk::new();
    let url = format!("http://user:{PASSWORD}@127.0.0.1:9/v1?key={KEY}");
    let log = "batchwright=trace";
    for words in [
        "providers --json",
        "providers",
        "run in.jsonl --provider local",
    ] {
        desk.prompts("in.jsonl", 1);
        let mut command = desk.command(words.split(' '));
        command.env("LOCAL_LLM_BASE_URL", &url);
        command.env("OPENAI_BASE_URL", &url);
        command.env("OPENAI_API_KEY", KEY).env("RUST_LOG", log);
        let ended = Running::start(&mut command).wait();
        clean(&[("stdout", &ended.stdout), ("stderr", &ended.stderr)]);
        let all = ended.stdout + &ended.stderr;
        assert!(all.contains("***@127.0.0.1:9"), "{all}");
    }
    let bad = format!("ftp://user:{PASSWORD}@host/v1");
    let mut command = desk.command(["run", "in.jsonl", "--model", "m", "--provider", "openai"]);
    command
        .args(["--base-url", &bad])
        .env("OPENAI_API_KEY", KEY);
    let ended = Running::start(&mut command).wait();
    assert_ne!(ended.status.code(), Some(0));
    clean(&[("stderr", &ended.stderr)]);
}
