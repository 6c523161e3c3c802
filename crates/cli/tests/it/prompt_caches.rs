//! Prompt caches through the real program: which requests are marked, and what the summary says was saved.

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{Recorder, SimConfig, Simulator};
use serde_json::Value;

use super::batch_runs::{clean, command};
use super::common::{Desk, RunToEnd, Running, prompt_lines, simulator};

/// Tokens of the system text, at 4 bytes per token. The simulator reports all as read from the cache.
const CACHE: &str = "BATCHWRIGHT_CACHE_PROMPT";
const SHARED: u64 = 3_000;
const ANTHROPIC: (&str, &str) = ("anthropic", "claude-sonnet-4-5");
const OPENAI: (&str, &str) = ("openai", "gpt-5");

struct Site {
    desk: Desk,
    sim: Simulator,
    recorder: Recorder,
}

impl Site {
    fn new(prompts: usize) -> Site {
        let recorder = Recorder::default();
        let config = SimConfig::default().cached_tokens(SHARED);
        let config = config.latency(Duration::from_millis(50));
        let site = Site {
            desk: Desk::new(),
            sim: simulator(config.recorder(recorder.clone())),
            recorder,
        };
        site.desk.write("in.jsonl", prompt_lines(prompts));
        site
    }

    /// A command with this provider and model, and a shared system text.
    fn asking(&self, mut command: Command, (provider, model): (&str, &str)) -> Command {
        let bytes = usize::try_from(SHARED * 4).unwrap();
        command
            .args(["--model", model, "--max-tokens", "16", "--system"])
            .arg(&"rule ".repeat(bytes)[..bytes]);
        self.of(command, provider)
    }

    fn of(&self, mut command: Command, provider: &str) -> Command {
        command
            .env("BATCHWRIGHT_PROVIDER", provider)
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", self.sim.addr()));
        command
    }

    fn run(&self, at: (&str, &str), words: &str) -> Command {
        let words = format!("in.jsonl -o out.jsonl {words}");
        self.asking(command(&self.desk, &self.sim, &words), at)
    }

    /// The number of requests that were sent, and of those among them that are marked.
    fn marked(&self) -> (usize, usize) {
        let bodies = self.recorder.take();
        let is_marked =
            |body: &&String| body.contains("cache_control") || body.contains("prompt_cache_key");
        (bodies.len(), bodies.iter().filter(is_marked).count())
    }
}

#[test]
fn one_call_is_made_alone_and_each_request_is_marked() {
    for at in [ANTHROPIC, OPENAI] {
        let site = Site::new(40);
        let mut run = site.run(at, "-j 16");
        let running = Running::start(run.env(CACHE, "always"));
        let mut most = 0;
        let has_answered = |stats: &batchwright_simulate::SimStats| {
            if stats.answered == 0 {
                most = most.max(stats.calls);
            }
            stats.answered > 0
        };
        assert!(site.sim.wait_until(has_answered, Duration::from_secs(180)));
        running.wait().expect(0);
        assert!(most <= 1, "{}: {most} calls before the first answer", at.0);
        assert_eq!(site.marked(), (40, 40), "{}", at.0);
        assert_eq!(site.sim.stats().malformed, 0);
        clean(&site.desk);
    }
}

#[test]
fn the_summary_says_what_the_cache_saved() {
    let site = Site::new(50);
    let ended = site.run(ANTHROPIC, "--json").ended().expect(0);
    let summary = &ended.json()["summary"];
    // 50 times 3,000 tokens at $2.70 less per million.
    assert_eq!(summary["cache_saved_usd"], 0.405, "{summary}");
    let lines = site.desk.results("out.jsonl");
    let of_lines = lines
        .iter()
        .filter_map(|line: &Value| line["cache_saved_usd"].as_f64());
    assert!((of_lines.sum::<f64>() - 0.405).abs() < 1e-9);
}
