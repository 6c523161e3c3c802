//! A provider that fails every call is left for the fallback within seconds, and called again later.

use std::thread;
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, Running, good, simulator};
use super::fake::{Asked, Fake, says};

/// Runs this number of prompts past this provider; returns the summary and standard error.
fn past(first: &Simulator, second: &Simulator, items: usize, words: &str) -> (Value, String) {
    let desk = Desk::with(items);
    let words = format!("run in.jsonl -o out.jsonl --provider custom --model m --json {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .env("CUSTOM_LLM_BASE_URL", first.base_url())
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", second.base_url());
    let ended = command.ended().expect(0);
    let mut value = ended.json();
    (value["summary"].take(), ended.stderr.clone())
}

/// It requests a wait of a minute from all clients.
fn closed() -> Simulator {
    let config = SimConfig::default()
        .trouble(Trouble::Error503, 1.0)
        .trouble_times(Trouble::Error503, None);
    simulator(config.retry_after(Duration::from_secs(60)))
}

fn always(trouble: Trouble) -> Simulator {
    let config = SimConfig::default()
        .trouble(trouble, 1.0)
        .trouble_times(trouble, None)
        .retry_after(Duration::from_secs(1))
        .stall(Duration::from_secs(60));
    simulator(config)
}

#[test]
fn twenty_items_reach_the_fallback_within_ten_seconds_for_every_kind_of_failure() {
    let nowhere = good();
    nowhere.stop_listening();
    let cases = [
        ("refuses connections", nowhere, "-j 5"),
        ("says 503", always(Trouble::Error503), "-j 5"),
        ("says 503 for a minute", closed(), "-j 5"),
        ("says 500", always(Trouble::Error500), "-j 5"),
        ("sends a web page", always(Trouble::Html502), "-j 5"),
        ("hangs up", always(Trouble::Drop), "-j 5"),
        ("hangs", always(Trouble::Stall), "-j 5 --timeout 2s"),
        (
            "hangs, one by one",
            always(Trouble::Stall),
            "-j 1 --timeout 2s",
        ),
    ];
    thread::scope(|scope| {
        for (name, sim, words) in &cases {
            scope.spawn(move || {
                let words = format!("{words} --fallback extract");
                let (summary, said) = past(sim, &good(), 20, &words);
                let seconds = summary["elapsed_ms"].as_f64().unwrap() / 1e3;
                let (stats, calls) = (sim.stats(), sim.stats().calls);
                println!("{name}: {seconds:.1} s, {calls} calls");
                assert_eq!(summary["answered_by"]["extract"], 20, "{name}: {summary}");
                assert!(seconds < 10.0, "{name}: {seconds} s");
                assert!(calls <= 12, "{name}: {calls} calls");
                assert!(
                    said.contains("switching to the next provider"),
                    "{name}: {said}"
                );
                // Possibly billed calls are reported, whether or not they were abandoned.
                let unsure = ["stall", "drop"].map(|name| stats.by_trouble.get(name).copied());
                let unsure: u64 = unsure.into_iter().flatten().sum();
                assert_eq!(summary["possibly_paid_twice"], unsure, "{name}: {summary}");
            });
        }
    });
}

#[test]
fn without_a_fallback_few_failures_are_retried_and_are_not_an_outage() {
    let sim = simulator(SimConfig::default().trouble(Trouble::Overloaded, 1.0));
    let (summary, said) = past(&sim, &good(), 4, "-j 2");
    summary.has(json!({"completed": 4, "retries": 4}));
    assert!(!said.contains("next provider"), "{said}");
    assert!(!said.contains("items wait"), "{said}");
}

#[test]
#[ignore = "ten seconds"]
fn items_return_to_a_recovered_provider() {
    let (first, second) = (
        good(),
        simulator(SimConfig::default().latency(Duration::from_millis(100))),
    );
    first.stop_listening();
    thread::scope(|scope| {
        let run = scope.spawn(|| past(&first, &second, 400, "-j 4 --fallback xai:small"));
        assert!(second.wait_until(|stats| stats.calls >= 20, Duration::from_secs(60)));
        first.resume().unwrap();
        let (summary, said) = run.join().unwrap();
        println!(
            "{} s, answers by {}",
            summary["elapsed_ms"], summary["answered_by"]
        );
        assert!(said.contains("answers again; calls to it resume"), "{said}");
        assert!(
            summary["answered_by"]["custom"].as_u64() > Some(50),
            "{summary}"
        );
    });
}

/// A server that answers prompts with these words by a 500 with this message, and all others.
fn fails_on(word: &'static str, message: &'static str) -> Fake {
    Fake::start(move |asked| match &*asked.path {
        "/v1/chat/completions" if text(asked).contains(word) => {
            let error = json!({"code": 500, "message": message, "type": "server_error"});
            says(500, json!({ "error": error }))
        }
        "/v1/chat/completions" => {
            let choice = json!({"finish_reason": "stop", "message": {"content": "Blue."}});
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 1});
            says(
                200,
                json!({"model": "m", "choices": [choice], "usage": usage}),
            )
        }
        _ => says(404, json!({"error": {"message": "File Not Found"}})),
    })
}

fn text(asked: &Asked) -> String {
    String::from_utf8_lossy(&asked.body).into_owned()
}

fn calls(server: &Fake) -> usize {
    let asked = server.asked();
    asked
        .iter()
        .filter(|asked| asked.path.ends_with("/chat/completions"))
        .count()
}

#[test]
fn prompts_that_fail_alone_are_no_outage() {
    // A prompt that is too long fails at once, any other after its attempts, although only such prompts are left.
    for (message, attempts) in [
        ("Context size has been exceeded.", 1),
        ("internal error", 4),
    ] {
        let server = fails_on("poison", message);
        let desk = Desk::new();
        let lines = (0..64).map(|i| match i {
            0..40 => format!("prompt {i}\n"),
            _ => format!("poison {i}\n"),
        });
        desk.write("in.txt", lines.collect::<String>());
        let words = "run in.txt -o out.jsonl --provider custom --model m -j 8 --json --base-url";
        let words = words.split(' ').map(str::to_owned).chain([server.url()]);
        let ended = Running::start(&mut desk.command(words)).wait().expect(3);
        let summary = ended.json();
        assert_eq!(summary["summary"]["completed"], 40, "{summary}");
        assert_eq!(summary["summary"]["failed"], 24, "{summary}");
        assert_eq!(calls(&server), 40 + 24 * attempts, "{message}");
        let results = desk.results("out.jsonl");
        let failed = results.iter().filter(|line| line["success"] == false);
        let kind = if attempts == 1 {
            "invalid"
        } else {
            "transient"
        };
        for line in failed {
            assert_eq!(line["error"]["kind"], kind);
            assert_eq!(line["attempts"], attempts);
        }
    }
}

#[test]
fn jobs_that_fail_alone_are_no_outage() {
    let server = fails_on("poison", "internal error");
    let desk = Desk::new();
    let lines = (0..6).map(|i| format!("poison {i}\n"));
    desk.write("in.txt", lines.collect::<String>());
    desk.plain("submit in.txt").expect(0);
    let words = "work --provider custom --model m -j 4 --until-empty --json --base-url";
    let words = words.split(' ').map(str::to_owned).chain([server.url()]);
    let ended = Running::start(&mut desk.command(words)).wait();
    assert_eq!(calls(&server), 24, "{}", ended.stderr);
    desk.plain("status --json").shows(r#""failed":6"#);
}
