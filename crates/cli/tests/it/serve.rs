//! The program as a server: it starts, says where, stops on a signal, and goes on after it.

use std::io::{Read, Write};
use std::net::TcpStream;

use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, PATIENCE, Running, eventually, good, simulator};

/// A server of the desk's queue at a free port, and where it listens.
fn serve(desk: &Desk, sim: &Simulator, words: &str) -> (Running, String) {
    let url = sim.base_url();
    let mut command = desk.command(["serve", "--port", "0", "--base-url", &url]);
    command.args(["--provider", "local", "--model", "sim-1"]);
    command.args(words.split_whitespace());
    let running = Running::start(&mut command);
    running.hears("OpenAI clients http://");
    let said = running.said();
    let address = said.split("OpenAI clients http://").nth(1).unwrap();
    let address = address.split("/v1").next().unwrap().to_owned();
    (running, address)
}

fn get(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[cfg(unix)]
#[test]
fn a_signal_lets_jobs_end_and_the_next_server_goes_on() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 20);
    sim.hold();
    let (running, address) = serve(&desk, &sim, "-j 3");
    assert!(get(&address, "/healthz", "").starts_with("HTTP/1.1 200 OK"));
    let id = desk.plain("submit in.jsonl").expect(0).stdout;
    assert!(sim.wait_until(|s| s.in_flight == 3, PATIENCE));
    running.signal("TERM");
    running.hears("stopping: requests and jobs under way may end within 30 s");
    sim.release();
    running.wait().expect(0);
    assert_eq!(
        sim.stats().calls,
        3,
        "what had begun has ended, and nothing began"
    );
    let (running, address) = serve(&desk, &sim, "-j 3");
    assert!(eventually(|| sim.stats().answered == 20));
    let metrics = get(&address, "/metrics", "");
    assert!(
        metrics.contains("gen_ai_client_operation_duration_seconds_count"),
        "{metrics}"
    );
    running.signal("INT");
    running.wait().expect(0);
    let results = desk.plain(&format!("results {}", id.trim())).expect(0);
    assert_eq!(results.stdout.lines().count(), 20);
    assert_eq!(sim.stats().paid_twice, 0);
}

#[test]
fn other_machines_need_a_token_that_is_hard_to_guess() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let url = sim.base_url();
    let refused = |words: &str| {
        let words =
            format!("serve --port 0 --provider local --base-url {url} --model sim-1 {words}");
        desk.plain(&words)
    };
    let open = refused("--host 0.0.0.0").expect(1);
    assert!(open.error().contains("name a token"), "{}", open.stderr);
    desk.write("short", "hunter2\n");
    let short = refused("--token-file short").expect(2);
    assert!(short.error().contains("16 characters"), "{}", short.stderr);
    assert!(!short.stderr.contains("hunter2"));
    assert!(
        refused("--token-file nowhere")
            .expect(2)
            .error()
            .contains("nowhere")
    );
    let token = "0123456789abcdef0123456789abcdef";
    desk.write("token", format!("{token}\n"));
    let (running, address) = serve(&desk, &sim, "--host 0.0.0.0 --token-file token");
    let port = address.rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    assert!(get(&address, "/metrics", "").starts_with("HTTP/1.1 401"));
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert!(get(&address, "/metrics", &bearer).starts_with("HTTP/1.1 200"));
    assert!(!running.said().contains(token));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (desk, sim) = (Desk::new(), good());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let url = sim.base_url();
    let words = format!("serve --port {port} --provider local --base-url {url} --model sim-1");
    let ended = desk.plain(&words).expect(1);
    assert!(
        ended.error().contains(&format!("127.0.0.1:{port}")),
        "{}",
        ended.stderr
    );
}
