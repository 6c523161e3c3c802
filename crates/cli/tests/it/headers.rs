//! Settings that are sent with every request: `--header`, `--extra` and `--service-tier`.

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig, Vendor};
use serde_json::{Value, json};

use super::common::{Desk, Ended, RunToEnd, cases, simulator};
use super::fake::{Fake, says};

const TOKEN: &str = "tok-Zx9Qab0123456789hijklMNOP";

/// A server whose answer contains everything that it received.
struct Echo {
    url: String,
    server: Fake,
}

impl Echo {
    fn start(status: u16) -> Self {
        let server = Fake::start(move |asked| {
            let said = format!("you sent {}", asked.head.replace("\r\n", " | "));
            let answer = json!({"finish_reason": "stop", "message": {"content": said}});
            match status {
                200 => says(status, json!({"choices": [answer]})),
                _ => says(status, json!({"error": {"message": said}})),
            }
        });
        let url = server.url();
        Self { url, server }
    }

    fn heads(&self) -> Vec<String> {
        let calls = self
            .server
            .asked()
            .into_iter()
            .filter(|asked| !asked.body.is_empty());
        calls.map(|asked| asked.head.to_ascii_lowercase()).collect()
    }

    fn bodies(&self) -> Vec<Value> {
        let calls = self
            .server
            .asked()
            .into_iter()
            .filter(|asked| !asked.body.is_empty());
        calls.map(|asked| asked.json()).collect()
    }
}

fn run(desk: &Desk, words: &[&str]) -> Ended {
    desk.command(words).ended()
}

#[test]
fn a_header_goes_with_every_call_and_is_shown_nowhere() {
    for status in [200, 400, 401, 500] {
        let (desk, server) = (Desk::new(), Echo::start(status));
        desk.prompts("in.jsonl", 2);
        desk.write(
            "headers.txt",
            format!("\nX-Team-Token: {TOKEN}\nX-Title: my own title\n"),
        );
        let bearer = format!("Authorization: Bearer {TOKEN}2");
        let more = ["--header", &bearer, "--header=@headers.txt"];
        let mut command = run_at(&desk, "openai", &server.url, &more);
        command.args(["--log-level", "debug", "--max-retries", "0"]);
        let ended = command.env("RUST_LOG", "trace").ended();
        let heads = server.heads();
        assert!(!heads.is_empty(), "{}", ended.stderr);
        for head in heads {
            let lower = TOKEN.to_ascii_lowercase();
            assert!(
                head.contains(&format!("authorization: bearer {lower}2\r\n")),
                "{head}"
            );
            assert!(
                head.contains(&format!("x-team-token: {lower}\r\n")),
                "{head}"
            );
            assert!(head.contains("x-title: my own title\r\n"), "{head}");
        }
        let output = desk.read("out.jsonl");
        assert!(!output.is_empty());
        for text in [&ended.stdout, &ended.stderr, &output] {
            assert!(!text.contains("0123456789hijkl"), "{text}");
        }
        // A header that is not a key does not mask parts of an answer.
        assert_eq!(output.contains("my own title"), status == 200, "{output}");
    }
}

#[test]
fn a_header_reaches_no_fallback() {
    let (desk, first, second) = (Desk::new(), Echo::start(400), Echo::start(200));
    desk.prompts("in.jsonl", 3);
    let more = ["--fallback", "xai:small", "--header", "X-Team: maps"];
    let mut command = run_at(&desk, "custom", &first.url, &more);
    command
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", &second.url);
    command.ended().expect(0);
    assert!(
        first
            .heads()
            .iter()
            .all(|head| head.contains("x-team: maps"))
    );
    assert_eq!(second.heads().len(), 3);
    assert!(second.heads().iter().all(|head| !head.contains("x-team")));
}

/// A run against a provider at this address.
fn run_at(desk: &Desk, provider: &str, url: &str, more: &[&str]) -> Command {
    let words =
        format!("run in.jsonl -o out.jsonl --provider {provider} --model m --base-url {url}");
    desk.command(words.split(' ').chain(more.iter().copied()))
}

/// Calls and batches of a deployment, with both formats of addresses; the simulated resource accepts each only with
/// its own header, address and version.
#[test]
fn azure_is_called_with_both_address_formats_by_call_and_by_batch() {
    for version in [None, Some("2024-10-21")] {
        for strategy in ["sync", "batch"] {
            let desk = Desk::with(6);
            let soon = BatchConfig::default().duration(Duration::from_millis(50));
            let sim = SimConfig::default().vendor(Vendor::Azure);
            let sim = simulator(sim.api_key("sk-right").batches(soon));
            let words = "run in.jsonl -o out.jsonl --provider azure --model my-gpt --data-dir home";
            let words = words.split(' ').chain(["--strategy", strategy]);
            let mut command = desk.command(words);
            command
                .env("AZURE_OPENAI_API_KEY", "sk-right")
                .env("AZURE_OPENAI_ENDPOINT", format!("http://{}", sim.addr()))
                .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");
            if let Some(version) = version {
                command.env("OPENAI_API_VERSION", version);
            }
            let ended = command.ended().expect(0);
            let what = format!("{version:?} {strategy}: {}", ended.stderr);
            assert_eq!(desk.read("out.jsonl").lines().count(), 6, "{what}");
            let (calls, seen) = (sim.stats(), sim.batch_stats());
            assert_eq!(calls.malformed, 0, "{what}");
            let by_batch = if strategy == "batch" { 6 } else { 0 };
            assert_eq!(
                (calls.calls, seen.items_accepted, seen.files_left),
                (6 - by_batch, by_batch, 0),
                "{what}"
            );
        }
    }
}

#[test]
fn fields_of_a_line_override_extra_and_both_are_part_of_the_request() {
    let (desk, server) = (Desk::new(), Echo::start(200));
    desk.write(
        "in.jsonl",
        "{\"id\": \"a\", \"prompt\": \"one\"}\n\
         {\"id\": \"b\", \"prompt\": \"two\", \"extra\": {\"top_k\": 1}}\n",
    );
    let run = |more: &[&str]| {
        let mut command = run_at(&desk, "custom", &server.url, more);
        command.args(["-j", "1"]).ended()
    };
    run(&[
        "--extra",
        "{\"top_k\": 40, \"user\": \"u\"}",
        "--service-tier",
        "flex",
    ])
    .expect(0);
    let bodies = server.bodies();
    assert_eq!(
        (&bodies[0]["top_k"], &bodies[1]["top_k"]),
        (&json!(40), &json!(1))
    );
    assert!(
        bodies
            .iter()
            .all(|body| body["user"] == "u" && body["service_tier"] == "flex")
    );
    // The same fields in another format are the same request, and other fields are another request.
    desk.write(
        "extra.json",
        "{\"user\": \"u\", \"service_tier\": \"flex\", \"top_k\": 40}\n",
    );
    run(&["--extra", "@extra.json"]).ends(0, "nothing to send");
    run(&["--extra", "{\"user\": \"v\"}"]).ends(0, "2 changed");
    for (extra, said) in cases(
        r#"
        {"temperature": 1} => --extra: `temperature` is set by --temperature
        {"stream": true} => --extra: `stream` has its own flag or field
        {"messages": []} => --extra: `messages` has its own flag or field
        [1] => --extra: found no JSON object
        { => --extra: no JSON
    "#,
    ) {
        let ended = run(&["--extra", extra]).expect(2);
        ended.errs(said);
    }
    let twice = [
        "--extra",
        "{\"service_tier\": \"a\"}",
        "--service-tier",
        "b",
    ];
    let ended = run(&twice).expect(2);
    ended.errs("`service_tier` is set by --service-tier");
    let vectors = run(&["--task", "embed", "--service-tier", "flex"]).expect(2);
    vectors.errs("--service-tier is for answers");
}

#[test]
fn queue_jobs_contain_extra_fields_and_the_worker_adds_headers() {
    let (desk, server) = (Desk::new(), Echo::start(200));
    desk.prompts("in.jsonl", 2);
    let extra = [
        "submit",
        "in.jsonl",
        "--extra",
        "{\"top_k\": 7}",
        "--service-tier",
        "flex",
    ];
    let id = run(&desk, &extra).expect(0).stdout;
    let url = &server.url;
    let work = format!("work --until-empty --provider custom --model m --base-url {url} --header");
    let work: Vec<&str> = work.split(' ').chain(["X-Team: maps"]).collect();
    run(&desk, &work).expect(0);
    assert!(
        server
            .heads()
            .iter()
            .all(|head| head.contains("x-team: maps"))
    );
    let asked = |body: &Value| body["top_k"] == 7 && body["service_tier"] == "flex";
    assert_eq!(server.bodies().iter().filter(|body| asked(body)).count(), 2);
    run(&desk, &["results", id.trim(), "-o", "out.jsonl"]).expect(0);
    assert_eq!(desk.ids("out.jsonl").len(), 2);
}
