//! Former bugs of runs from a file or a stream to a file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use batchwright::client::Sent;
use batchwright::files::{PromptSettings, RunOutput, RunReport};
use batchwright::{
    Context, Error, Extract, FileRun, FileRunOptions, LlmClient, Prompts, Request, StopReason,
    client_fn,
};
use serde_json::Value;
use tempfile::TempDir;

use super::hang::ends;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_default()
    }

    fn results(&self, name: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(name)).unwrap();
        let line = |line| serde_json::from_str(line).unwrap();
        text.lines().map(line).collect()
    }

    fn prompts(&self, n: usize) {
        self.write("in.txt", lines(n));
    }

    fn open(&self) -> Prompts {
        open(self.path("in.txt")).unwrap()
    }
}

fn open(path: PathBuf) -> Result<Prompts, Error> {
    let settings = PromptSettings::new();
    Prompts::open(&path, &settings, &Context::new(), &|_, _| {})
}

fn lines(n: usize) -> String {
    (0..n).map(|i| format!("p{i}\n")).collect()
}

fn run(prompts: Prompts, output: PathBuf, ctx: &Context, client: impl LlmClient) -> RunReport {
    let output = RunOutput::file(output);
    FileRun::prepare(prompts, output, FileRunOptions::new())
        .unwrap()
        .concurrency(4)
        .context(ctx)
        .run(client)
        .unwrap()
}

#[test]
fn a_result_line_truncated_at_any_byte_is_removed_and_sent_again() {
    let folder = Folder::new();
    folder.prompts(2);
    let ctx = Context::new();
    run(folder.open(), folder.path("out.jsonl"), &ctx, Extract);
    let whole = folder.read("out.jsonl");
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let only: Vec<u8> = whole[first..].to_vec();
    // After another line, and as the only line of the file.
    for (start, line) in [(&whole[..first], &only), (&[], &only)] {
        for cut in 1..line.len() - 1 {
            folder.write("out.jsonl", [start, &line[..cut]].concat());
            let report = run(folder.open(), folder.path("out.jsonl"), &ctx, Extract);
            assert!(report.stop.is_none());
            let results = folder.results("out.jsonl");
            assert_eq!(results.len(), 2, "cut at {cut}");
            assert!(folder.read("out.jsonl").starts_with(start));
        }
    }
}

#[test]
fn a_stream_is_read_although_its_folder_cannot_be_created() {
    let folder = Folder::new();
    folder.write("taken", "");
    let settings = PromptSettings::new().spool_folder(folder.path("taken/data"));
    let prompts = Prompts::from_reader(lines(2).as_bytes(), &settings, &Context::new()).unwrap();
    let report = run(prompts, folder.path("out.jsonl"), &Context::new(), Extract);
    assert!(report.stop.is_none(), "{:?}", report.stop);
    assert_eq!(folder.results("out.jsonl").len(), 2);
}

/// Blocks until its call is ended from outside, by a stop or a time limit.
fn until_ended(ctx: &Context) -> Error {
    let (ended, end) = channel();
    let _on_cancel = ctx.on_cancel(move || {
        let _ = ended.send(());
    });
    loop {
        if let Err(error) = ctx.check() {
            return error.with_sent(Sent::Maybe);
        }
        let _ = match ctx.remaining() {
            Some(left) => end.recv_timeout(left).ok(),
            None => end.recv().ok(),
        };
    }
}

#[test]
fn an_abort_leaves_calls_in_flight_pending() {
    for _ in 0..30 {
        let (report, text) = ends(|| {
            let folder = Folder::new();
            folder.prompts(20);
            let ctx = Context::new();
            let started = AtomicUsize::new(0);
            let client = client_fn(|_: &Request, call: &Context| {
                if started.fetch_add(1, Ordering::SeqCst) == 3 {
                    ctx.abort();
                }
                Err(until_ended(call))
            });
            let report = run(folder.open(), folder.path("out.jsonl"), &ctx, client);
            (report, folder.read("out.jsonl"))
        });
        assert!(matches!(report.stop, Some(StopReason::Cancelled)));
        assert_eq!(text, b"", "{}", String::from_utf8_lossy(&text));
        let summary = report.summary;
        assert_eq!((summary.failed, summary.pending), (0, 20));
        assert_eq!((summary.calls, summary.cut_off), (4, 4));
    }
}

#[test]
fn an_extra_field_with_its_own_setting_is_an_error_of_the_input() {
    let folder = Folder::new();
    for (name, value) in [
        ("model", "\"m\""),
        ("messages", "[]"),
        ("max_tokens", "5"),
        ("max_completion_tokens", "5"),
        ("temperature", "1"),
        ("top_p", "1"),
        ("stop", "\"x\""),
        ("seed", "1"),
        ("response_format", "{\"type\":\"text\"}"),
        ("n", "1"),
        ("stream", "true"),
        ("stream_options", "{}"),
    ] {
        let line = format!("{{\"prompt\":\"a\",\"extra\":{{\"{name}\":{value}}}}}\n");
        folder.write("in.jsonl", line);
        let Err(error) = open(folder.path("in.jsonl")) else {
            panic!("{name} passed");
        };
        let found = format!("\"{name}\" inside \"extra\"");
        assert!(error.message().contains(&found), "{error}");
    }
    folder.write("in.jsonl", "{\"prompt\":\"a\",\"extra\":{\"top_k\":5}}\n");
    assert!(open(folder.path("in.jsonl")).is_ok());
}
