//! Helpers for tests of failing batches: a queue of prompts, workers that submit them in batches, and a provider
//! that counts what it bills.

use std::collections::HashSet;
use std::process::Command;
use std::thread;
use std::time::Duration;

use batchwright::queue::JobCounts;
use batchwright::{Job, JobQueue, ProcessId, Request};
use batchwright_simulate::{BatchConfig, BatchStats, SimConfig, Simulator, Vendor};
use serde_json::Value;

use super::batch_runs::home_queue;
use super::common::{Desk, RunToEnd, Running, simulator};

/// One provider with a Batch API.
#[derive(Debug)]
pub struct Dialect {
    pub name: &'static str,
    pub vendor: Option<Vendor>,
    pub key: &'static str,
    /// The path of its API, below the simulator's address.
    pub path: &'static str,
    /// Whether the input is a file that can be deleted before prompts are submitted again.
    pub files: bool,
}

const fn dialect(
    name: &'static str,
    vendor: Option<Vendor>,
    key: &'static str,
    path: &'static str,
) -> Dialect {
    Dialect {
        name,
        vendor,
        key,
        path,
        files: true,
    }
}

pub static OPENAI: Dialect = dialect("openai", None, "OPENAI_API_KEY", "/v1");
pub static GROQ: Dialect = dialect("groq", None, "GROQ_API_KEY", "/openai/v1");
pub static XAI: Dialect = dialect("xai", Some(Vendor::Xai), "XAI_API_KEY", "/v1");
pub static DEEPINFRA: Dialect = dialect(
    "deepinfra",
    Some(Vendor::DeepInfra),
    "DEEPINFRA_API_KEY",
    "/v1",
);
pub static AZURE: Dialect = dialect("azure", Some(Vendor::Azure), "AZURE_OPENAI_API_KEY", "");
pub static GEMINI: Dialect = dialect("gemini", None, "GOOGLE_API_KEY", "/v1beta");
pub static ANTHROPIC: Dialect = Dialect {
    files: false,
    ..dialect("anthropic", None, "ANTHROPIC_API_KEY", "")
};

pub static ALL: [&Dialect; 7] = [
    &OPENAI, &GROQ, &XAI, &DEEPINFRA, &AZURE, &ANTHROPIC, &GEMINI,
];

/// One provider of each kind: with files for input and results (OpenAI), with paged results (xAI), without files
/// (Anthropic), and with files whose names we choose (Gemini). `batch_chaos` kills workers at all providers.
pub static KINDS: [&Dialect; 4] = [&OPENAI, &XAI, &ANTHROPIC, &GEMINI];

/// Prompts in a queue, and their provider.
pub struct Site {
    pub desk: Desk,
    pub sim: Simulator,
    pub at: &'static Dialect,
    pub queue: JobQueue,
    pub process: ProcessId,
    pub items: usize,
}

impl Site {
    pub fn new(at: &'static Dialect, batches: BatchConfig, items: usize) -> Self {
        Self::with(at, SimConfig::default().batches(batches), items)
    }

    pub fn with(at: &'static Dialect, config: SimConfig, items: usize) -> Self {
        let config = match at.vendor {
            Some(vendor) => config.vendor(vendor),
            None => config,
        };
        let (desk, sim) = (Desk::new(), simulator(config));
        let queue = home_queue(&desk);
        let process = ProcessId::new();
        let job = |i: usize| Job::from(Request::new(prompt(i)).with_id(format!("i-{i}")));
        queue.enqueue_iter(process, (0..items).map(job)).unwrap();
        Self {
            desk,
            sim,
            at,
            queue,
            process,
            items,
        }
    }

    /// The base URL of the API.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.sim.addr(), self.at.path)
    }

    /// The program with these words.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.desk.command(words.split_whitespace());
        command
            .args(["--provider", self.at.name, "--base-url", &self.url()])
            .args(["--model", "sim-1", "--max-retries", "20"])
            .env(self.at.key, "k")
            .env("BATCHWRIGHT_BULK_STRATEGY", "batch")
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms")
            .env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "1s");
        command
    }

    /// A worker that ends when no work is left.
    pub fn start(&self) -> Running {
        Running::start(&mut self.command("work --until-empty --log-level info"))
    }

    pub fn counts(&self) -> JobCounts {
        self.queue.process(self.process).unwrap().unwrap().counts
    }

    /// Works until no work is left. A batch on hold is reported and searched again; if it is still missing after all
    /// delayed batches have appeared, it was never created and is submitted again.
    #[track_caller]
    pub fn finish(&self) {
        for held in 0..6 {
            let mut command = self.command("work --until-empty --log-level info");
            if held > 1 {
                command.env("BATCHWRIGHT_BATCH_ON_UNKNOWN", "resubmit");
            }
            let ended = command.ended();
            if ended.status.code() == Some(4) && !self.at.files {
                ended.says("it is on hold, so that nothing is billed twice");
                let come = |stats: &BatchStats| stats.created == stats.creates;
                self.sim.wait_for_batches(come, Duration::from_secs(6));
                thread::sleep(Duration::from_secs(1));
                continue;
            }
            let counts = self.counts();
            let all = counts.finished() == counts.total;
            let open = self.queue.batches(None).unwrap();
            let said = &ended.stderr;
            assert!(all, "{}: {counts:?} {open:?} {said}", self.at.name);
            ended.expect(0);
            return;
        }
        panic!("{}: it stays held", self.at.name);
    }

    /// The conditions that must hold at the end, in whatever way it was reached.
    #[track_caller]
    pub fn bought_once(&self) {
        assert_eq!(self.answers(), self.items, "{}", self.at.name);
        self.paid_once();
        let stats = self.sim.batch_stats();
        let finished = stats.items_finished;
        assert_eq!(finished, self.items as u64, "{} {stats:?}", self.at.name);
    }

    /// Asserts that nothing was billed twice and no request was malformed.
    #[track_caller]
    pub fn paid_once(&self) {
        let (stats, calls) = (self.sim.batch_stats(), self.sim.stats());
        let name = self.at.name;
        assert_eq!(stats.bought_twice, 0, "{name} {stats:?}");
        assert_eq!((calls.malformed, calls.calls), (0, 0), "{name} {calls:?}");
        assert_eq!(calls.paid_twice, 0, "{name} {calls:?}");
        assert!(self.queue.batches(None).unwrap().is_empty(), "{name}");
    }

    /// Asserts that this number of batches was billed and no file is left.
    #[track_caller]
    pub fn took(&self, batches: u64) {
        let stats = self.sim.batch_stats();
        assert_eq!(stats.started, batches, "{} {stats:?}", self.at.name);
        assert_eq!(stats.files_left, 0, "{} {stats:?}", self.at.name);
    }

    /// The number of answered prompts. Asserts that each answer belongs to its prompt and that each prompt has one outcome.
    #[track_caller]
    pub fn answers(&self) -> usize {
        let (mut seen, mut answered) = (HashSet::new(), 0);
        for result in self.queue.get_results(self.process) {
            let result = result.unwrap();
            let id = result.item_id.as_deref().unwrap();
            let number: usize = id.strip_prefix("i-").unwrap().parse().unwrap();
            assert!(seen.insert(number), "{id} twice");
            if !result.is_success() {
                println!("{id}: {:?}", result.error);
                continue;
            }
            let line: Value = serde_json::from_str(&result.line()).unwrap();
            let text = line["text"].as_str().unwrap();
            let rest = text.strip_prefix(&format!("echo: {}", prompt(number)));
            let rest = rest.unwrap_or_else(|| panic!("{id}: {text}"));
            assert!(!rest.starts_with(|c: char| c.is_ascii_digit()), "{text}");
            answered += 1;
        }
        assert_eq!(seen.len(), self.items, "{}", self.at.name);
        answered
    }
}

fn prompt(i: usize) -> String {
    format!("prompt {i}")
}
