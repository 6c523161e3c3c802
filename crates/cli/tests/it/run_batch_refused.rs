//! Refusals of whole uploads and batches by real words of providers: they are no verdicts on the prompts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::json;

use super::batch_runs::{SHORT, WORDS, taking};
use super::batch_site::{ANTHROPIC, AZURE, DEEPINFRA, Dialect, GEMINI, GROQ, OPENAI, XAI};
use super::common::{Desk, RunToEnd, Running, eventually, simulator};
use super::fake::{Answer, Asked, Fake, says};

/// The simulator's answer to a request.
fn passed_on(asked: &Asked, to: SocketAddr) -> Answer {
    let mut server = TcpStream::connect(to).ok()?;
    let head = asked.head.trim_end();
    let head = head.replace("Connection: keep-alive\r\n", "");
    write!(server, "{head}\r\nconnection: close\r\n\r\n").ok()?;
    server.write_all(&asked.body).ok()?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).ok()?;
    let end = reply.windows(4).position(|part| part == b"\r\n\r\n")?;
    let body = reply.split_off(end + 4);
    let head = String::from_utf8(reply).ok()?;
    let mut lines = head.lines().filter(|line| !line.is_empty());
    let status = lines.next()?.split_once(' ')?.1.to_owned();
    let kept = lines.filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("content-length") && !line.starts_with("connection")
    });
    let fields: String = kept.map(|line| format!("{line}\r\n")).collect();
    Some((format!("{status}\r\n{fields}"), body))
}

/// A server that forwards to the simulator what it does not refuse.
fn gate(
    sim: &Simulator,
    refuses: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
) -> Fake {
    let to = sim.addr();
    Fake::start(move |asked| refuses(asked).unwrap_or_else(|| passed_on(asked, to)))
}

fn is_upload(asked: &Asked) -> bool {
    asked.head.starts_with("POST ") && asked.path.contains("/files")
}

fn is_creation(asked: &Asked) -> bool {
    let creates = asked.path.ends_with("/batches") || asked.path.contains(":batchGenerateContent");
    asked.head.starts_with("POST ") && creates
}

/// A provider, the simulator behind the gate, and the run.
fn site(at: &Dialect) -> Simulator {
    let config = SimConfig::default().batches(BatchConfig::default().duration(SHORT));
    simulator(match at.vendor {
        Some(vendor) => config.vendor(vendor),
        None => config,
    })
}

fn run_at(at: &Dialect, desk: &Desk, gate: &Fake, words: &str) -> Command {
    let url = format!("http://{}{}", gate.address, at.path);
    let all = format!(
        "run {WORDS} --strategy batch --provider {} --model sim-1 --base-url {url} {words}",
        at.name
    );
    let mut command = desk.command(all.split_whitespace());
    command
        .env(at.key, "k")
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    command
}

/// The ids of the lines that failed.
fn failed(desk: &Desk) -> Vec<String> {
    let lines = desk.results("out.jsonl").into_iter();
    let failed = lines.filter(|line| line["success"] != true);
    let mut ids: Vec<String> = failed
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn a_request_that_the_refusal_names_fails_alone_at_every_provider() {
    let invalid = |why: &str| json!({"error": {"message": why, "type": "invalid_request_error"}});
    let google =
        |why: &str| json!({"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}});
    for (at, upload, body, count) in [
        (&OPENAI, true, invalid("Line 4 is not valid JSON"), 1),
        (
            &OPENAI,
            false,
            json!({"error": {"message": "Invalid request", "code": "invalid_json_line", "line": 2}}),
            1,
        ),
        (
            &GROQ,
            false,
            invalid("line 3: body.messages is required"),
            1,
        ),
        (
            &AZURE,
            true,
            invalid("Validation failed on rows 2 and 5"),
            2,
        ),
        (
            &DEEPINFRA,
            false,
            invalid("('body', 'requests', 0): invalid"),
            1,
        ),
        (
            &ANTHROPIC,
            false,
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": "requests.5.params.max_tokens: Field required"}}),
            1,
        ),
        (
            &GEMINI,
            false,
            google("Invalid request on line 6 of the input file"),
            1,
        ),
        (&XAI, true, invalid("Failed to parse line number 1"), 1),
    ] {
        let (desk, sim) = (Desk::with(8), site(at));
        let once = std::sync::atomic::AtomicBool::new(true);
        let body = body.to_string();
        let gate = gate(&sim, move |asked| {
            let fits = if upload {
                is_upload(asked)
            } else {
                is_creation(asked)
            };
            (fits && once.swap(false, std::sync::atomic::Ordering::SeqCst))
                .then(|| says(400, &body))
        });
        run_at(at, &desk, &gate, "").ended().expect(3);
        assert_eq!(
            failed(&desk).len(),
            count,
            "{} {:?}",
            at.name,
            failed(&desk)
        );
        let stats = sim.batch_stats();
        assert_eq!(
            (stats.items_finished, sim.stats().calls),
            (8 - count as u64, 0),
            "{}",
            at.name
        );
    }
}

#[test]
fn calls_for_refused_batches_stay_within_the_budget() {
    let (desk, sim) = (Desk::with(40), taking(SHORT));
    let prices = json!([{"input": 0, "output": 100}, {"tier": "batch", "input": 0, "output": 10}]);
    let models = json!([{"models": ["sim-1"], "prices": prices}]);
    let prices = json!({"providers": {"*": {"models": models}}});
    desk.write("prices.json", prices.to_string());
    let gate = gate(&sim, |asked| {
        let why = json!({"error": {"message": "Invalid input."}});
        is_creation(asked).then(|| says(400, why))
    });
    // The batch costs 0.004 at most, and a call 0.001.
    let words = "--prices prices.json --max-tokens 10 --budget 0.005";
    let ended = run_at(&OPENAI, &desk, &gate, words).ended();
    ended.ends(4, "the budget of");
    assert!(
        (1..40).contains(&sim.stats().calls),
        "{}",
        sim.stats().calls
    );
}

#[test]
fn an_account_without_room_holds_the_batch_and_says_what_to_do() {
    for (upload, status, why, advice) in [
        (
            true,
            400,
            "You have exceeded your file storage quota (100 GB).",
            "delete files",
        ),
        (
            false,
            429,
            "Enqueued token limit reached for m in organization org-1. Limit: 90,000 enqueued tokens.",
            "wait until earlier batches",
        ),
        (
            false,
            400,
            "You already have 100 active batches, the maximum.",
            "wait until earlier batches",
        ),
        (
            false,
            400,
            "Billing hard limit has been reached",
            "billing settings",
        ),
    ] {
        let (desk, sim) = (Desk::with(5), site(&OPENAI));
        let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let is_full = full.clone();
        let gate = gate(&sim, move |asked| {
            let fits = if upload {
                is_upload(asked)
            } else {
                is_creation(asked)
            };
            let body = json!({"error": {"message": why, "type": "invalid_request_error"}});
            (fits && is_full.load(std::sync::atomic::Ordering::SeqCst)).then(|| says(status, body))
        });
        let ended = run_at(&OPENAI, &desk, &gate, "--no-wait").ended();
        ended.ends(4, advice);
        // A run in the foreground goes on when there is room.
        let running = Running::start(&mut run_at(&OPENAI, &desk, &gate, ""));
        gate.forget();
        let tries = || {
            gate.asked()
                .iter()
                .filter(|asked| {
                    if upload {
                        is_upload(asked)
                    } else {
                        is_creation(asked)
                    }
                })
                .count()
        };
        assert!(eventually(|| tries() > 2), "{why}");
        full.store(false, std::sync::atomic::Ordering::SeqCst);
        running.wait().expect(0);
        assert_eq!(failed(&desk), Vec::<String>::new(), "{why}");
        assert_eq!(sim.batch_stats().items_finished, 5, "{why}");
    }
}
